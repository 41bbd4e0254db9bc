"""The Score tab: how well a merge and its parents predict a text."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import gradio as gr
import spaces

from evaluation import Cancelled, EvaluationError, Perplexity, load_model, perplexity
from ui.account import account
from ui.defect import told
from ui.host import Host
from ui.hub_search import HubSearch, search_as_you_type
from ui.markup import card, size, text
from ui.presets import family
from ui.texts import t

MOST_MODELS = 6
MOST_CHARACTERS = 200_000
# With fewer tokens than this, differences of some percent are noise.
FEW_TOKENS = 1000


@dataclass(frozen=True)
class Row:
    """One model's line in the table.

    Args:
        done: share of the text that was read, from 0 to 1; None before and after
        score: when it is finished
        trouble: why there is no score
    """

    name: str
    done: float | None = None
    score: Perplexity | None = None
    trouble: str = ""


@dataclass
class ScoreTab:
    """What the page connects to the Merge tab."""

    models: gr.Dropdown


def _gpu_seconds(names: Sequence[str], document: str, *_: Any) -> int:
    return min(120, 20 * len(names) + len(document) // 20_000)


@spaces.GPU(duration=_gpu_seconds)  # type: ignore[untyped-decorator]
def scores(
    names: Sequence[str], document: str, token: str | Literal[False], allow_folders: bool
) -> Iterator[list[Row]]:
    """Score the text with one model after the other; yields the table as it fills, as plain data."""
    rows = [Row(name) for name in names]
    for i, name in enumerate(names):
        for rows[i] in _scored(name, document, token, allow_folders):
            yield list(rows)


def _scored(name: str, document: str, token: str | Literal[False], allow_folders: bool) -> Iterator[Row]:
    """One model's row, again and again while it reads; the reading stops when nobody listens any more."""
    row = Row(name, done=0.0)
    yield row
    cancel = threading.Event()
    news: queue.SimpleQueue[Row] = queue.SimpleQueue()

    def read() -> None:
        try:
            model = load_model(name, token=token, allow_folders=allow_folders)
            score = perplexity(
                model,
                document,
                on_progress=lambda done, total: news.put(replace(row, done=done / total)),
                cancel=cancel,
            )
            news.put(Row(name, score=replace(score, documents=())))
        except Cancelled:
            news.put(Row(name, trouble=t("score.stopped")))
        except EvaluationError as error:
            news.put(Row(name, trouble=str(error)))
        except Exception as error:
            # The page waits for this thread: whatever ended it has to be told.
            news.put(Row(name, trouble=t("unexpected", error=told(error, token or None))))

    threading.Thread(target=read, name="score", daemon=True).start()
    try:
        while row.done is not None:
            row = news.get()
            yield row
    finally:
        cancel.set()


def score_tab(host: Host, search: HubSearch) -> ScoreTab:
    """Build the tab inside the page's Blocks."""
    known = family(host.demo).models
    gr.HTML(f'<p class="alloy-method">{text(t("score.meaning"))}</p>')
    models = gr.Dropdown(
        list(known), value=[known[0]], multiselect=True, max_choices=MOST_MODELS, allow_custom_value=True,
        label=t("score.models"), info=t("score.models.info", most=MOST_MODELS),
    )  # fmt: skip
    search_as_you_type(models, search, host, known)
    document = gr.Textbox(
        t("score.sample"), label=t("score.text"), info=t("score.text.info"), lines=8, max_lines=20
    )
    with gr.Row():
        go = gr.Button(t("score.button"), variant="primary")
        stop = gr.Button(t("score.stop"))
    table = gr.HTML()

    def score(names: list[str], pasted: str, oauth: gr.OAuthToken | None) -> Iterator[str]:
        wanted = list(dict.fromkeys(name.strip() for name in names or () if name.strip()))
        if not wanted:
            raise gr.Error(t("score.no_models"), print_exception=False)
        if len(wanted) > MOST_MODELS:
            raise gr.Error(t("score.too_many", most=MOST_MODELS), print_exception=False)
        if not pasted.strip():
            raise gr.Error(t("score.no_text"), print_exception=False)
        if len(pasted) > MOST_CHARACTERS:
            message = t("score.too_long", length=len(pasted), most=MOST_CHARACTERS)
            raise gr.Error(message, print_exception=False)
        for rows in scores(wanted, pasted, account(host, oauth).for_hub, host.allow_folders):
            yield score_table(rows, len(pasted.encode()))

    scoring = go.click(
        score,
        [models, document],
        table,
        concurrency_id="model",
        show_progress="hidden",
        trigger_mode="once",
        api_visibility="private",
    )
    stop.click(None, cancels=[scoring], api_visibility="private")
    return ScoreTab(models)


def score_table(rows: Sequence[Row], length: int) -> str:
    """The rows as a table, with the warnings that the numbers call for; `length` of the text in bytes."""
    found = [row.score for row in rows if row.score]
    best = min((score.bits_per_byte for score in found), default=None)
    same_tokens = len({score.tokens for score in found}) <= 1
    head = f'<th scope="col">{text(t("score.model"))}</th>' + "".join(
        f'<th scope="col" class="number">{text(t(key))}</th>'
        for key in ("score.perplexity", "score.bits", "score.tokens", "score.seconds")
    )
    body = "".join(_table_row(row, best if len(found) > 1 else None, same_tokens) for row in rows)
    caption = t("score.caption", count=len(rows), bytes=size(length))
    if len(rows) == 1:
        caption = t("score.caption.one", bytes=size(length))
    notes = []
    if found and min(score.tokens for score in found) < FEW_TOKENS:
        notes.append(t("score.short", tokens=min(score.tokens for score in found)))
    if not same_tokens:
        notes.append(t("score.tokenizers"))
    remarks = "".join(f"<p>{text(note)}</p>" for note in notes)
    table = (
        f'<div class="alloy-scroll"><table class="alloy-table"><caption>{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
    return card(table + remarks)


def _table_row(row: Row, best: float | None, same_tokens: bool) -> str:
    name = f'<th scope="row">{text(row.name)}</th>'
    if row.trouble:
        return f'<tr>{name}<td colspan="4">{text(t("score.failed"))}: {text(row.trouble)}</td></tr>'
    if row.score is None:
        state = t("score.waiting") if row.done is None else f"{t('score.working')} {row.done:.0%}"
        return f'<tr>{name}<td colspan="4" class="alloy-quiet">{text(state)}</td></tr>'
    score = row.score
    lead = " best" if score.bits_per_byte == best else ""
    cells = (
        (f"{score.perplexity:.3f}", lead if same_tokens else ""),
        (f"{score.bits_per_byte:.4f}", lead),
        (str(score.tokens), ""),
        (f"{score.seconds:.1f}", ""),
    )
    numbers = "".join(f'<td class="number{mark}">{value}</td>' for value, mark in cells)
    return f"<tr>{name}{numbers}</tr>"
