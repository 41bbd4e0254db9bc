"""On the Score tab: how well a merge and its parents predict a text."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import gradio as gr
from markupsafe import Markup, escape

from evaluation import (
    Difference,
    EvaluationError,
    FetchedModel,
    OtherSliceError,
    Perplexity,
    Source,
    Unfinished,
    difference,
    load_fetched,
    perplexity_slice,
)
from evaluation.difference import segments
from evaluation.text import BUNDLED, bundled_text, dataset_texts, read_text
from ui.host import Host
from ui.hub.account import account
from ui.languages.translate import in_each_language, t
from ui.score.panel import (
    Panel,
    Unavailable,
    bytes_to_load,
    fetched,
    go_and_stop,
    in_turn,
    names_in,
    ready_for_gpu,
)
from ui.server import gpu
from ui.server.internal_error import log_unexpected
from ui.server.work import watched
from ui.widgets.events import LONG, NETWORK, QUIET
from ui.widgets.html import card, column, figure, folded, html, note, scrolling, size, table, table_row, tag

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
        unfinished: what was read, for the next call to go on from
    """

    name: str
    done: float | None = None
    score: Perplexity | None = None
    trouble: str = ""
    unfinished: Unfinished | None = None

    @property
    def ended(self) -> bool:
        return bool(self.score or self.trouble)

    @property
    def without_tokens(self) -> Row:
        """For the table alone: each token's score is large, and crosses processes on ZeroGPU."""
        score = replace(self.score, documents=()) if self.score else None
        return replace(self, score=score, unfinished=None)


@dataclass(frozen=True)
class Begun:
    """What is there of a work that has not come to its end: stopped, or its GPU taken away.

    Args:
        texts: that are read
        rows: by the models' identities
    """

    texts: tuple[str, ...]
    rows: Mapping[Any, Row]


_NOTHING: Mapping[Any, Row] = MappingProxyType({})


def scored(
    models: Sequence[FetchedModel | Unavailable],
    documents: Sequence[str],
    begun: Mapping[Any, Row] = _NOTHING,
) -> Generator[tuple[gpu.GpuRun, list[Row]], None, None]:
    """Score the text with one model after the other, on a GPU where there is one, in as many calls as it takes.

    Args:
        models: that are on this machine, or why one is not
        documents: the text
        begun: where to go on, by the models' identities

    Yields:
        How it runs, and the table as it fills; between two calls and at the end with each token's score.
    """
    now = [
        Row(model.name, trouble=model.trouble)
        if isinstance(model, Unavailable)
        else begun.get(model.identity, Row(model.name))
        for model in models
    ]
    yield gpu.GpuRun(), now
    while not all(row.ended for row in now):
        waiting = bytes_to_load(models, [row.ended for row in now])
        seconds = gpu.seconds_of_a_call(waiting, sum(map(len, documents)))
        limit = seconds if gpu.is_zero_gpu() else None
        with closing(gpu.on_gpu(seconds, scores, models, documents, now, limit)) as stream:
            for run, now in stream:
                yield run, now


def scores(
    models: Sequence[FetchedModel | Unavailable],
    documents: Sequence[str],
    rows: Sequence[Row],
    seconds: int | None,
    device: str,
) -> Iterator[list[Row]]:
    """One call of `scored`; yields the table as it fills, as plain data.

    Args:
        models: that are on this machine, or why one is not
        documents: the text
        rows: where to go on
        seconds: that were asked for, after which rows are left as they stand; None for no end
        device: to load models on
    """
    now = list(rows)
    for i, model, call in in_turn(models, now, seconds, device):
        for row in _scored(model, documents, now[i], call, device):
            now[i] = row
            yield [one.without_tokens for one in now]
    yield now


def _scored(
    model: FetchedModel, documents: Sequence[str], begun: Row, call: gpu.Call, device: str
) -> Iterator[Row]:
    """One model's row, again and again while it reads; the reading stops when nobody listens any more."""
    name = model.name
    row = replace(begun, done=begun.done or 0.0)
    yield row

    def read(tell: Callable[[Row], None], cancel: threading.Event) -> Row:
        live = load_fetched(model, device)

        def go_on(unfinished: Unfinished | None) -> Perplexity | Unfinished:
            return perplexity_slice(
                live,
                documents,
                seconds=call.seconds_left(),
                unfinished=unfinished,
                on_progress=lambda done, total: tell(Row(name, done=done / total)),
                cancel=cancel,
            )

        try:
            found = go_on(begun.unfinished)
        except OtherSliceError:  # the processor computes in another dtype than the GPU that began
            found = go_on(None)
        if isinstance(found, Perplexity):
            return Row(name, score=found)
        return Row(name, done=found.tokens / found.tokens_in_all, unfinished=found)

    try:
        for said in watched(read):
            row = said or row
            yield row
    except EvaluationError as error:
        yield Row(name, trouble=str(error))
    except Exception as error:
        # The other models are still to be read.
        yield Row(name, trouble=t("unexpected", error=log_unexpected(error)))


@dataclass(frozen=True)
class Scored:
    """What was found out about some models on a text.

    Args:
        names: of the models, as they were asked for
        rows: a model each, the first with its score
        texts: that they read
        source: where these are from
        differences: of the first model to the others
    """

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    texts: tuple[str, ...]
    source: Source
    differences: tuple[Difference, ...] = ()

    @property
    def scores(self) -> tuple[Perplexity, ...]:
        return tuple(row.score for row in self.rows if row.score)


@dataclass
class TextPanel(Panel):
    """With the text, which is also read elsewhere."""

    document: gr.Textbox


def text_panel(host: Host, models: gr.Dropdown) -> TextPanel:
    """Build the part that scores models on a text."""
    gr.HTML(in_each_language(lambda: note(t("score.meaning"))))
    document = gr.Textbox(
        "\n\n".join(bundled_text(BUNDLED[0])),
        label=t("score.text"),
        info=t("score.text.info"),
        lines=8,
        max_lines=20,
    )
    # Where the text in the field is from, with that text: what was changed by hand is no longer the file's.
    opened = gr.State(None)
    with gr.Row():
        for name in BUNDLED:
            sample = gr.Button(t(f"score.bundled.{name}"), size="sm", min_width=120)
            sample.click(lambda name=name: "\n\n".join(bundled_text(name)), None, document, **QUIET)
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
    go, turns = go_and_stop(t("score.button"), variant="primary")
    table = gr.HTML()
    pictures = gr.HTML()
    found = gr.State(None)
    begun_before = gr.State(None)

    def read(path: str) -> tuple[str, tuple[str, str]]:
        try:
            content = read_text(path)
        except EvaluationError as error:
            # The file's place on the server is nobody's business.
            told_name = str(error).replace(path, path.rpartition("/")[2])
            raise gr.Error(told_name, print_exception=False) from None
        return content, (path.rpartition("/")[2], content)

    file.upload(read, file, [document, opened], **QUIET)

    def score(
        names: list[str], pasted: str, known: tuple[str, str] | None, data: str, part_of: str, part: str,
        text_column: str, most: float, kept: Begun | None, oauth: gr.OAuthToken | None, request: gr.Request,
    ) -> Iterator[tuple[str, str, Scored | None, Begun | None]]:  # fmt: skip
        wanted = names_in(names)
        token = account(host, oauth).for_hub
        notes: list[str] = []
        if data and data.strip():
            column_read, split_read = text_column or "text", part or "test"
            try:
                texts = list(
                    dataset_texts(
                        data.strip(), column=column_read, rows=int(most or 100), split=split_read,
                        subset=part_of or None, token=token, allow_folders=host.allow_folders,
                    )
                )  # fmt: skip
            except EvaluationError as error:
                raise gr.Error(str(error), print_exception=False) from None
            texts, all_of_them = _cut(texts)
            if not all_of_them:
                notes.append(t("score.cut", most=MOST_CHARACTERS))
            source = Source(data.strip(), data.strip(), part_of or None, split_read, column_read)
        elif not pasted.strip():
            raise gr.Error(t("score.no_text"), print_exception=False)
        elif len(pasted) > MOST_CHARACTERS:
            message = t("score.too_long", length=len(pasted), most=MOST_CHARACTERS)
            raise gr.Error(message, print_exception=False)
        else:
            texts, source = _documents(pasted), _source(pasted, known)
        length = sum(len(one.encode()) for one in texts)
        yield score_table([Row(name) for name in wanted], length), "", None, kept
        models = fetched(wanted, token, host.allow_folders)
        begun = kept.rows if kept and kept.texts == tuple(texts) else {}
        with turns.of(request) as turn, closing(scored(models, texts, begun)) as stream:
            for run, rows in stream:
                kept = _begun(models, rows, texts) or kept
                if turn.stopped.is_set():
                    rows = [row if row.ended else Row(row.name, trouble=t("score.stopped")) for row in rows]
                where = [t("score.where", where=run.line)] if run.line else []
                differences = _differences(rows, texts)
                whole = rows[0].score is not None and bool(rows[0].score.documents)
                yield (
                    score_table(rows, length, differences, [*notes, *where]),
                    Markup("").join(token_picture(rows[0], other, texts) for other in rows[1:]),
                    Scored(tuple(wanted), tuple(rows), tuple(texts), source, tuple(differences))
                    if whole
                    else None,
                    None if all(row.ended for row in rows) and not turn.stopped.is_set() else kept,
                )
                if turn.stopped.is_set():
                    break

    fetching = go.click(
        ready_for_gpu(host), models, None, show_progress="hidden", trigger_mode="once", **NETWORK
    )
    ended = fetching.success(
        score,
        [models, document, opened, dataset, subset, split, column, rows_wanted, begun_before],
        [table, pictures, found, begun_before],
        **LONG,
    )
    return TextPanel(found, ended, document)


def _begun(
    models: Sequence[FetchedModel | Unavailable], rows: Sequence[Row], texts: Sequence[str]
) -> Begun | None:
    """What can be gone on from; None in the midst of a call, which shows the table alone."""
    there = {
        model.identity: row
        for model, row in zip(models, rows, strict=True)
        if isinstance(model, FetchedModel) and (row.unfinished or (row.score and row.score.documents))
    }
    return Begun(tuple(texts), there) if there else None


def _documents(pasted: str) -> list[str]:
    """A bundled text is its paragraphs, as on the command line; any other text is one document."""
    known = map(bundled_text, BUNDLED)
    return next((documents for documents in known if pasted == "\n\n".join(documents)), [pasted])


def _source(pasted: str, known: tuple[str, str] | None) -> Source:
    """Where the text of the field is from."""
    for name in BUNDLED:
        if pasted == "\n\n".join(bundled_text(name)):
            return Source(f"Alloy's {name.capitalize()} text")
    if known and known[1] == pasted:
        return Source(known[0])
    return Source("pasted text")


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
) -> Markup:
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
    keys = ("score.perplexity", "score.bits", "score.tokens", "score.seconds")
    columns = [column(t("score.model")), *(column(t(key), of_figures=True) for key in keys)]
    body = [_table_row(row, best if len(found) > 1 else None, same_tokens) for row in rows]
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
    return card([scrolling(table(columns, body, caption=caption, style="alloy-scores")), map(tag.p, notes)])


def _difference_words(found: Difference) -> str:
    names = {"model": found.model, "other": found.other}
    if found.interval is None:
        key = "score.difference.outlier" if found.has_outlier else "score.difference.short"
        return t(key, **names)
    low, high = found.interval
    figures = t("score.figures", value=f"{found.bits_per_byte:+.4f}", low=f"{low:+.4f}", high=f"{high:+.4f}")
    said = [t(f"score.difference.{found.verdict}", figures=figures, **names)]
    if found.verdict == "none" and found.detectable is not None:
        said.append(t("score.detectable", value=f"{found.detectable:.4f}"))
    if found.verdict == "none" and found.more_documents is not None:
        said.append(t("score.more", count=found.more_documents, value=f"{found.wanted:.2g}"))
    if found.blocks is not None:
        said.append(t("score.blocks", count=found.blocks))
    return " ".join(said)


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


def token_picture(row: Row, other: Row, texts: Sequence[str]) -> Markup:
    """The text, coloured where one model predicted it better or worse than another; empty before it is known."""
    if not (row.score and row.score.documents and other.score and other.score.documents):
        return Markup("")
    pieces = html(_coloured_texts(row.score, other.score, texts)).rstrip()
    legend = Markup(" ").join(
        [
            _coloured(t("score.picture.better", model=row.name), _FULL_BITS, titled=False),
            _coloured(t("score.picture.worse", model=row.name), -_FULL_BITS, titled=False),
            t("score.picture.scale"),
        ]
    )
    total = sum(map(len, texts))
    cut = (
        tag.p(t("score.picture.cut", count=PICTURE_CHARACTERS, total=total))
        if total > PICTURE_CHARACTERS
        else None
    )
    picture = tag.p(pieces, style="white-space:pre-wrap;line-height:1.75")
    return card(folded(t("score.picture", model=row.name, other=other.name), tag.p(legend), cut, picture))


def _coloured_texts(score: Perplexity, other: Perplexity, texts: Sequence[str]) -> Iterator[Markup]:
    """The texts in coloured pieces, as far as the picture has room."""
    room = PICTURE_CHARACTERS
    for one, two, document in zip(score.documents, other.documents, texts, strict=True):
        parts = segments(one, two)
        at = min(parts.start, room)
        yield escape(document[:at])
        for end, (nats, nats_other) in zip(parts.ends.tolist(), parts.nats.tolist(), strict=True):
            if end > room:
                break
            yield _coloured(document[at:end], (nats_other - nats) / math.log(2))
            at = end
        room -= at
        if room <= 0 or at < (int(parts.ends[-1]) if len(parts.ends) else 0):
            break
        yield Markup("\n\n")


def _coloured(piece: str, bits: float, *, titled: bool = True) -> Markup:
    """A piece of text over blue (bits saved) or orange (bits lost, underlined too, for who sees no colours)."""
    depth = round(min(abs(bits) / _FULL_BITS, 1) * 8) / 8
    if not depth:
        return escape(piece)
    colour, line = (_BETTER, "none") if bits > 0 else (_WORSE, "underline dotted")
    title = t("score.picture.bits", bits=f"{-bits:+.1f}") if titled else None
    style = f"background:rgba({colour},{depth * _DEEPEST:.3f});text-decoration:{line};border-radius:2px"
    return tag.span(piece, style=style, title=title)


def _table_row(row: Row, best: float | None, same_tokens: bool) -> Markup:
    if row.trouble:
        return table_row(row.name, tag.td(f"{t('score.failed')}: {row.trouble}", colspan=4))
    if row.score is None:
        state = t("score.waiting") if row.done is None else f"{t('score.working')} {row.done:.0%}"
        return table_row(row.name, tag.td(state, colspan=4, class_="alloy-quiet"))
    score = row.score
    lead = " best" if score.bits_per_byte == best else ""
    return table_row(
        row.name,
        tag.td(f"{score.perplexity:.3f}", class_="number" + (lead if same_tokens else "")),
        tag.td(f"{score.bits_per_byte:.4f}", class_=f"number{lead}"),
        figure(score.tokens),
        figure(f"{score.seconds:.1f}"),
    )
