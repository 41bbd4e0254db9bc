"""The Score tab: how well a merge and its parents predict a text."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from evaluation import (
    Cancelled,
    Difference,
    EvaluationError,
    FetchedModel,
    Perplexity,
    difference,
    fetch_model,
    load_fetched,
    perplexity,
)
from evaluation.difference import segments
from evaluation.footprint import Footprint, footprint
from evaluation.report import Report
from evaluation.text import BUNDLED, bundled_text, dataset_texts, read_text
from ui import gpu
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
# The picture of a longer text would be slow to draw.
PICTURE_CHARACTERS = 8000
# A difference of so many bits has the deepest colour; below a sixteenth of it a token has none.
_FULL_BITS = 4.0
# Blue and orange, which nearly everybody can tell apart; half through, over the page's own ground, so that
# its own text colour stays readable in the light and in the dark.
_BETTER, _WORSE, _DEEPEST = "37,110,200", "214,110,20", 0.5


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


def scores(
    models: Sequence[FetchedModel | Row], documents: Sequence[str], device: str
) -> Iterator[list[Row]]:
    """Score the text with one model after the other; yields the table as it fills, as plain data.

    Each token's score is in the last table alone: it is large, and crosses processes on ZeroGPU.

    Args:
        models: that are on this machine, or the row of one that is not, saying why
        documents: the text
        device: to load them on
    """
    rows = [model if isinstance(model, Row) else Row(model.name) for model in models]
    whole: list[Row] = list(rows)
    for i, model in enumerate(models):
        if isinstance(model, Row):
            continue
        for whole[i] in _scored(model, documents, device):
            score = whole[i].score
            rows[i] = replace(whole[i], score=replace(score, documents=())) if score else whole[i]
            yield list(rows)
    yield whole


def fetched(
    names: Sequence[str], token: str | Literal[False], allow_folders: bool
) -> list[FetchedModel | Row]:
    """The models, brought to this machine; of one that cannot be had its row."""
    found: list[FetchedModel | Row] = []
    for name in names:
        try:
            model = fetch_model(name, token=token, allow_folders=allow_folders)
            found.append(model if model.bytes else Row(name))
        except EvaluationError as error:
            found.append(Row(name, trouble=str(error)))
        except Exception as error:
            found.append(Row(name, trouble=t("unexpected", error=told(error, token or None))))
    return found


def _scored(model: FetchedModel, documents: Sequence[str], device: str) -> Iterator[Row]:
    """One model's row, again and again while it reads; the reading stops when nobody listens any more."""
    name = model.name
    row = Row(name, done=0.0)
    yield row
    cancel = threading.Event()
    news: queue.SimpleQueue[Row] = queue.SimpleQueue()

    def read() -> None:
        try:
            score = perplexity(
                load_fetched(model, device),
                documents,
                on_progress=lambda done, total: news.put(replace(row, done=done / total)),
                cancel=cancel,
            )
            news.put(Row(name, score=score))
        except Cancelled:
            news.put(Row(name, trouble=t("score.stopped")))
        except EvaluationError as error:
            news.put(Row(name, trouble=str(error)))
        except Exception as error:
            # The page waits for this thread: whatever ended it has to be told.
            news.put(Row(name, trouble=t("unexpected", error=told(error))))

    threading.Thread(target=read, name="score", daemon=True).start()
    try:
        while row.done is not None:
            row = news.get()
            yield row
    finally:
        cancel.set()


_QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


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
        "\n\n".join(bundled_text(BUNDLED[0])),
        label=t("score.text"),
        info=t("score.text.info"),
        lines=8,
        max_lines=20,
    )
    with gr.Row():
        for name in BUNDLED:
            sample = gr.Button(t(f"score.bundled.{name}"), size="sm", min_width=120)
            sample.click(lambda name=name: "\n\n".join(bundled_text(name)), None, document, **_QUIET)
        file = gr.UploadButton(t("score.file"), size="sm", min_width=120, file_types=["text"])
    with gr.Accordion(t("score.dataset"), open=False):
        dataset = gr.Textbox(label=t("score.dataset.name"), info=t("score.dataset.name.info"), max_lines=1)
        with gr.Row():
            subset = gr.Textbox(label=t("score.dataset.subset"), max_lines=1, min_width=120)
            split = gr.Textbox("test", label=t("score.dataset.split"), max_lines=1, min_width=120)
            column = gr.Textbox("text", label=t("score.dataset.column"), max_lines=1, min_width=120)
            rows_wanted = gr.Number(
                100, label=t("score.dataset.rows"), precision=0, minimum=1, maximum=10_000, min_width=120
            )
    with gr.Row():
        go = gr.Button(t("score.button"), variant="primary")
        compare = gr.Button(t("score.compare"))
        stop = gr.Button(t("score.stop"))
    table = gr.HTML()
    pictures = gr.HTML()
    report = gr.HTML()
    # The newest scores, for the other table.
    known_scores = gr.State([])

    def opened(path: str) -> str:
        try:
            return read_text(path)
        except EvaluationError as error:
            # The file's place on the server is nobody's business.
            told_name = str(error).replace(path, path.rpartition("/")[2])
            raise gr.Error(told_name, print_exception=False) from None

    file.upload(opened, file, document, **_QUIET)

    def score(
        names: list[str], pasted: str, data: str, part_of: str, part: str, text_column: str, most: float,
        oauth: gr.OAuthToken | None,
    ) -> Iterator[tuple[str, str, list[Perplexity]]]:  # fmt: skip
        wanted = _wanted(names)
        token = account(host, oauth).for_hub
        notes = []
        if data and data.strip():
            try:
                texts = list(
                    dataset_texts(
                        data.strip(), column=text_column or "text", rows=int(most or 100),
                        split=part or "test", subset=part_of or None, token=token,
                        allow_folders=host.allow_folders,
                    )
                )  # fmt: skip
            except EvaluationError as error:
                raise gr.Error(str(error), print_exception=False) from None
            texts, whole = _cut(texts)
            if not whole:
                notes.append(t("score.cut", most=MOST_CHARACTERS))
        elif not pasted.strip():
            raise gr.Error(t("score.no_text"), print_exception=False)
        elif len(pasted) > MOST_CHARACTERS:
            message = t("score.too_long", length=len(pasted), most=MOST_CHARACTERS)
            raise gr.Error(message, print_exception=False)
        else:
            texts = [pasted]
        length = sum(len(one.encode()) for one in texts)
        yield score_table([Row(name) for name in wanted], length), "", []
        models = fetched(wanted, token, host.allow_folders)
        weights = [model.bytes for model in models if isinstance(model, FetchedModel)]
        seconds = gpu.seconds_to_score(weights, sum(map(len, texts)))
        for run, rows in gpu.on_gpu(seconds, scores, models, texts):
            differences = _differences(rows, texts)
            where = [t("score.where", where=run.line)] if run.line else []
            yield (
                score_table(rows, length, differences, [*notes, *where]),
                "".join(token_picture(rows[0], other, texts) for other in rows[1:]),
                [row.score for row in rows if row.score],
            )

    def weigh(names: list[str], scored: list[Perplexity], oauth: gr.OAuthToken | None) -> Iterator[str]:
        wanted, token = _wanted(names), account(host, oauth).for_hub
        folders = [name for name in wanted if host.allow_folders and Path(name).is_dir()]
        prints: list[Footprint] = []
        cancel = threading.Event()
        try:
            for name in wanted:
                yield report_card(prints, scored, t("score.compare.working", name=name))
                others = [other for other in folders if other != name]
                prints.append(
                    footprint(
                        name,
                        token=token,
                        device="cpu",
                        allow_folders=host.allow_folders,
                        out_of_reach=others,
                        cancel=cancel,
                    )
                )
        except EvaluationError as error:
            raise gr.Error(str(error), print_exception=False) from None
        finally:
            cancel.set()
        yield report_card(prints, scored)

    def make_ready(names: list[str], oauth: gr.OAuthToken | None) -> None:
        """Fetch the models before the GPU is asked for, as the Chat tab does."""
        if gpu.is_zero_gpu():
            fetched(_wanted(names), account(host, oauth).for_hub, host.allow_folders)

    fetching = go.click(
        make_ready, models, None, concurrency_limit=4, show_progress="hidden", trigger_mode="once",
        api_visibility="private",
    )  # fmt: skip
    scoring = fetching.success(
        score,
        [models, document, dataset, subset, split, column, rows_wanted],
        [table, pictures, known_scores],
        concurrency_id="model",
        show_progress="hidden",
        trigger_mode="once",
        api_visibility="private",
    )
    weighing = compare.click(
        weigh,
        [models, known_scores],
        report,
        concurrency_id="model",
        show_progress="hidden",
        trigger_mode="once",
        api_visibility="private",
    )
    stop.click(None, cancels=[fetching, scoring, weighing], api_visibility="private")
    return ScoreTab(models)


def _wanted(names: Sequence[str] | None) -> list[str]:
    wanted = list(dict.fromkeys(name.strip() for name in names or () if name.strip()))
    if not wanted:
        raise gr.Error(t("score.no_models"), print_exception=False)
    if len(wanted) > MOST_MODELS:
        raise gr.Error(t("score.too_many", most=MOST_MODELS), print_exception=False)
    return wanted


def report_card(prints: Sequence[Footprint], scored: Sequence[Perplexity], working: str = "") -> str:
    """The table of sizes and speeds, with its sentences, as HTML and as Markdown to copy.

    Args:
        prints: what was measured so far
        scored: known perplexities; shown if they are of just these models
        working: what is being done now
    """
    waiting = f'<p class="alloy-quiet">{text(working)}</p>' if working else ""
    if not prints:
        return card(waiting)
    by_name = {score.model: score for score in scored}
    scores = [by_name[one.name] for one in prints if one.name in by_name]
    found = Report(tuple(prints), tuple(scores) if len(scores) == len(prints) else ())
    head, *rows = found.table()
    columns = "".join(f'<th scope="col" class="number">{text(cell)}</th>' for cell in head[1:])
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>'
        + "".join(f'<td class="number">{text(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    shown = (
        f'<div class="alloy-scroll"><table class="alloy-table"><caption>{text(t("score.compare.caption"))}'
        f"</caption><thead><tr><td></td>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )
    remarks = "".join(f"<p>{text(remark)}</p>" for remark in found.remarks())
    markdown = (
        f"<details><summary>{text(t('score.compare.markdown'))}</summary>"
        f'<pre style="white-space:pre-wrap">{text(found.to_markdown())}</pre></details>'
    )
    return card(shown + (waiting or remarks + markdown))


def _cut(texts: Sequence[str]) -> tuple[list[str], bool]:
    """As many of the texts as may be scored here, and whether that is all of them."""
    kept: list[str] = []
    room = MOST_CHARACTERS
    for one in texts:
        if not room:
            return kept, False
        kept.append(one[:room])
        room -= len(kept[-1])
    return kept, sum(map(len, kept)) == sum(map(len, texts))


def _differences(rows: Sequence[Row], texts: Sequence[str]) -> list[Difference]:
    """The first model against each of the others, once all of them are scored token by token."""
    first, *others = [row.score for row in rows]
    if not first or not first.documents:
        return []
    return [difference(first, other, texts) for other in others if other and other.documents]


def score_table(
    rows: Sequence[Row], length: int, differences: Sequence[Difference] = (), notes: Sequence[str] = ()
) -> str:
    """The rows as a table, what can be said of them, and the warnings that the numbers call for.

    Args:
        rows: a model each
        length: of the text in bytes
        differences: of the first model to others
        notes: more to say
    """
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
    notes = [*map(_difference_words, differences), *notes]
    if found and min(score.tokens for score in found) < FEW_TOKENS:
        notes.append(t("score.short", tokens=min(score.tokens for score in found)))
    if not same_tokens:
        notes.append(t("score.tokenizers"))
    if found:
        notes.append(_how(found))
    remarks = "".join(f"<p>{text(note)}</p>" for note in notes)
    table = (
        f'<div class="alloy-scroll"><table class="alloy-table"><caption>{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
    return card(table + remarks)


def _difference_words(found: Difference) -> str:
    if found.interval is None:
        return t("score.difference.short", model=found.model, other=found.other)
    low, high = found.interval
    figures = t("score.figures", value=f"{found.bits_per_byte:+.4f}", low=f"{low:+.4f}", high=f"{high:+.4f}")
    return t(f"score.difference.{found.verdict}", model=found.model, other=found.other, figures=figures)


def _how(found: Sequence[Perplexity]) -> str:
    """Windows and BOS, as a reader needs them to get the same numbers."""
    windows = dict.fromkeys((score.context, score.stride) for score in found)
    said = [t("score.window", context=context, stride=stride) for context, stride in windows]
    with_bos = [score.model for score in found if score.bos]
    if with_bos and len(with_bos) < len(found):
        said.append(t("score.bos.some", names=", ".join(with_bos)))
    else:
        said.append(t("score.bos.all" if with_bos else "score.bos.none"))
    return " ".join(said)


def token_picture(row: Row, other: Row, texts: Sequence[str]) -> str:
    """The text, coloured where one model predicted it better or worse than another; empty before it is known."""
    if not (row.score and row.score.documents and other.score and other.score.documents):
        return ""
    pieces, room = [], PICTURE_CHARACTERS
    for one, two, document in zip(row.score.documents, other.score.documents, texts, strict=True):
        parts = segments(one, two)
        at = min(parts.start, room)
        pieces.append(text(document[:at]))
        for end, (nats, nats_other) in zip(parts.ends.tolist(), parts.nats.tolist(), strict=True):
            if end > room:
                break
            pieces.append(_coloured(document[at:end], (nats_other - nats) / math.log(2)))
            at = end
        room -= at
        pieces.append("\n\n")
        if room <= 0 or at < (int(parts.ends[-1]) if len(parts.ends) else 0):
            break
    total = sum(map(len, texts))
    legend = " ".join(
        [
            _coloured(t("score.picture.better", model=row.name), _FULL_BITS, titled=False),
            _coloured(t("score.picture.worse", model=row.name), -_FULL_BITS, titled=False),
            text(t("score.picture.scale")),
        ]
    )
    cut = ""
    if total > PICTURE_CHARACTERS:
        cut = f"<p>{text(t('score.picture.cut', count=PICTURE_CHARACTERS, total=total))}</p>"
    title = text(t("score.picture", model=row.name, other=other.name))
    return card(
        f"<details><summary>{title}</summary><p>{legend}</p>{cut}"
        f'<p style="white-space:pre-wrap;line-height:1.75">{"".join(pieces).rstrip()}</p></details>'
    )


def _coloured(piece: str, bits: float, *, titled: bool = True) -> str:
    """A piece of text over blue (bits saved) or orange (bits lost, underlined too, for who sees no colours)."""
    depth = round(min(abs(bits) / _FULL_BITS, 1) * 8) / 8
    if not depth:
        return text(piece)
    colour, line = (_BETTER, "none") if bits > 0 else (_WORSE, "underline dotted")
    title = f' title="{text(t("score.picture.bits", bits=f"{-bits:+.1f}"))}"' if titled else ""
    style = f"background:rgba({colour},{depth * _DEEPEST:.3f});text-decoration:{line};border-radius:2px"
    return f'<span style="{style}"{title}>{text(piece)}</span>'


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
