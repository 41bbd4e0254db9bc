"""The one table of the Score tab: verdicts first, a column for each model, a part for each finding."""

from __future__ import annotations

from dataclasses import replace

from evaluation import Difference, TextSource
from evaluation.benchmarked import Benchmarked, Total
from evaluation.chat_check import ChatCheck, Checked
from tests.ui.test_cards import EVIL, score, shown
from ui.score.benchmarks import BenchmarkAnswers
from ui.score.chat_check import Talked
from ui.score.findings import Findings
from ui.score.overview import overview
from ui.score.reading import TextRow
from ui.score.text import ScoredTexts


def scored(*names: str, tokens: tuple[int, ...] = (2000, 2000)) -> ScoredTexts:
    scores = [
        replace(score(1.5 - place / 10, count), model=name)
        for place, (name, count) in enumerate(zip(names, tokens, strict=True))
    ]
    worse = Difference(names[0], names[1], 0.1, (0.05, 0.15), 1.1, (1.05, 1.15), 1000, 10)
    rows = tuple(TextRow(one.model, score=one) for one in scores)
    return ScoredTexts(names, rows, ("text",), TextSource("a text"), (worse,))


def asked(*names: str) -> BenchmarkAnswers:
    return BenchmarkAnswers(names, tuple(_benchmarked(name, place) for place, name in enumerate(names)))


def _benchmarked(name: str, place: int) -> Benchmarked:
    total = Total("kmmlu", "acc", 0.25 + place / 4, 0.05, 100)
    return Benchmarked(name, None, "bfloat16", None, False, None, "0.4", (), (total,))


def talked(*names: str) -> Talked:
    answers = (Checked("?", "", ("empty", "cut")), Checked("?", "Yes.", ()))
    return Talked(names, tuple(ChatCheck(name, None, answers) for name in names))


def test_verdicts_come_first_and_every_model_has_a_column() -> None:
    found = {"text": scored("merge", "a"), "benchmarks": asked("merge", "b"), "chat": talked("merge", "a")}

    tags = shown(overview(Findings("merge", found)))

    verdict = (
        "merge predicts this text worse than a (+0.1000 bits per byte, 95 % interval +0.0500 to +0.1500)."
    )
    assert verdict in tags.text and tags.text.index(verdict) < tags.text.index("Bits per byte")
    assert tags.names.count("table") == 1
    assert "mergeab" in tags.text  # the head
    assert "kmmlu, acc0.250 ± 0.050–0.500 ± 0.050" in tags.text
    assert "Faulty of 2 answers11–" in tags.text
    assert "Bits per byte1.50001.4000–" in tags.text
    assert [name for name, _ in tags.attributes].count("colspan") == 3


def test_perplexities_of_other_tokens_are_left_out() -> None:
    tags = shown(overview(Findings("merge", {"text": scored("merge", "a", tokens=(2000, 2600))})))

    assert "Bits per byte" in tags.text and "Perplexity" not in tags.text
    assert "colspan" not in dict(tags.attributes)  # one part needs no heading


def test_names_are_text() -> None:
    shown(overview(Findings(EVIL, {"text": scored(EVIL, "a"), "chat": talked(EVIL, EVIL + "2")})))
