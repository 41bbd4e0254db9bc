"""Results in a model's card: what stands there stays, what is measured anew is replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import (
    EvaluationError,
    LanguageModel,
    Perplexity,
    TextSource,
    benchmark_results,
    card_with,
    difference,
    interval,
    perplexity,
    perplexity_results,
    write_card,
)
from evaluation.__main__ import CANNOT_BE_JUDGED, DONE, main
from evaluation.benchmarked import Benchmarked, TaskScore
from evaluation.paired import PairedScore
from tests.evaluation.conftest import TEXT, make_network
from tests.hub import Hub

MakeFolder = Callable[..., Path]
TEXTS = [TEXT * 20, TEXT[::-1] * 10]
CARD = """---
license: mit
model-index:
- name: Theirs
  results:
  - task:
      type: text-generation
    dataset:
      type: other
      name: Other
    extra: kept
    metrics:
    - type: acc
      value: 0.5
---

# A model

What its author wrote.
"""


@pytest.fixture
def score(model: LanguageModel) -> Perplexity:
    return perplexity(replace(model, name="ann/model", commit="0" * 40), TEXTS, context=32, stride=16)


@pytest.fixture
def results(score: Perplexity, make_model: Callable[..., LanguageModel]) -> list[EvalResult]:
    parent = perplexity(make_model(make_network(seed=1), name="parent"), TEXTS, context=32, stride=16)
    return perplexity_results(score, TEXTS, TextSource("A text"), [difference(score, parent, TEXTS)])


@pytest.fixture
def benchmarked() -> Benchmarked:
    answers = dict.fromkeys(range(20), 1.0)
    task = TaskScore("kmmlu_law", "2.0", "acc", 0.3, 0.1, answers, "HAERAE-HUB/KMMLU", "Law", "test")
    return Benchmarked("ann/model", "0" * 40, "float32", 5, False, 20, "0.4", (task,))


def test_a_card_says_text_commit_settings_and_interval(score: Perplexity, results: list[EvalResult]) -> None:
    read = ModelCard(card_with("", "model", results)).data.eval_results

    assert [one.metric_type for one in read] == ["perplexity", "bits_per_byte", "bits_per_byte_difference"]
    assert [one.metric_value for one in read[:2]] == [score.perplexity, score.bits_per_byte]
    told = read[1].metric_args
    assert (told["commit"], told["context"], told["stride"], told["bos"]) == ("0" * 40, 32, 16, False)
    assert told["interval_95"] == list(interval(score, TEXTS))
    assert told["interval_95"][0] < score.bits_per_byte < told["interval_95"][1]
    assert len(told["text_sha256"]) == 64
    assert read[2].metric_args["verdict"] in ("better", "worse", "none")


def test_another_text_or_benchmark_stands_beside_and_the_same_is_replaced(
    score: Perplexity, results: list[EvalResult], benchmarked: Benchmarked
) -> None:
    other = [TEXT * 30]
    elsewhere = perplexity_results(
        replace(score, documents=score.documents[:1]), other, TextSource("Another")
    )
    pair = PairedScore("ann/model", "ann/parent", 20, 0.1, (0.01, 0.19))
    card = card_with(CARD, "model", results)
    card = card_with(card, "model", [*elsewhere, *benchmark_results(benchmarked, [pair])])
    again = [replace(one, metric_value=1.5) for one in results[:1]]

    made = card_with(card, "model", again)
    read = ModelCard(made).data

    assert made.startswith(CARD.partition("\n---\n")[0])  # another name's entry
    assert read.model_name == "model"
    told = [(one.dataset_name, one.metric_type) for one in read.eval_results]
    assert told.count(("Other", "acc")) == 1
    assert told.count(("A text", "perplexity")) == told.count(("Another", "perplexity")) == 1
    assert [one.metric_value for one in read.eval_results if one.dataset_name == "A text"].count(1.5) == 1
    task = next(one for one in read.eval_results if one.dataset_type == "HAERAE-HUB/KMMLU")
    assert (task.dataset_config, task.metric_args["standard_error"]) == ("Law", 0.1)
    assert task.metric_name == "kmmlu_law, acc, 5-shot"


def test_what_the_author_wrote_stays(results: list[EvalResult]) -> None:
    once = card_with(CARD, "model", results, "| a table |")
    twice = card_with(once, "model", results, "| a newer table |")

    assert twice.startswith("---\nlicense: mit\n")
    assert "extra: kept" in twice
    assert "What its author wrote." in twice
    assert "| a newer table |" in twice
    assert "| a table |" not in twice
    assert card_with(twice, "model", results, "| a newer table |") == twice


def metadata(card: str) -> Any:
    """What stands at the top of a card; the Hub's own `ModelCard` makes one entry of several."""
    return yaml.safe_load(card.removeprefix("\ufeff").split("---")[1])


def test_a_models_own_entry_gets_its_results(results: list[EvalResult]) -> None:
    two = "---\nmodel-index:\n- name: parent\n  results: []\n- name: model\n  results: []\n---\nbody\n"

    parent, model = metadata(card_with(two, "model", results))["model-index"]

    assert parent["results"] == []
    assert len(model["results"][0]["metrics"]) == 3


# What may stand around our entry. Loading and dumping it again would change most of these lines.
_LINES = st.sampled_from(
    [
        "license: mit",
        "language:\n- no\n- ko",
        "language: [no, ko]  # Norwegian",
        "version: 1.10",
        "# a comment",
        "",
        "tags: {a: 'x', b: \"y\"}",
        "summary: |\n  # no comment\n  two lines\n",
        "folded: >-\n  a\n\n  b",
        "date: 2024-01-01",
        "count: 0x10",
        "nothing:",
        "text: 한국어 \N{GRINNING FACE}",
        "anchor: &a [1]\nalias: *a",
    ]
)
_OTHERS = st.sampled_from(
    [
        "- name: Theirs\n  results: []",
        "- name: 'no'\n  results:\n  - task: {type: x}  # a comment\n    metrics:\n    - {type: acc, value: 1.10}",
        "- {name: Flow, results: []}  # on one line",
        "# of the next one",
    ]
)
_OURS = st.sampled_from(
    [
        "",
        "- name: model\n  results: []",
        "- name: model  # ours\n  results:",
        "- {name: model, results: []}",
        "- name: model\n  results:\n  - task:\n      type: text-generation\n    dataset:\n      type: a\n"
        "      name: b\n    metrics:\n    - type: acc\n      value: 0.50\n      name: |\n        # two\n        lines",
    ]
)


@st.composite
def _cards(draw: st.DrawFn) -> tuple[str, str]:
    """A card with its line breaks, cut where our entry is or may be added."""
    before, after = (draw(st.lists(_LINES, max_size=4, unique=True)) for _ in range(2))
    after = [line for line in after if line not in before]
    theirs = draw(st.lists(_OTHERS, max_size=3, unique=True))
    ours = draw(_OURS)
    at = draw(st.integers(0, len(theirs)))
    index = [*theirs[:at], *([ours] if ours else []), *theirs[at:]]
    has_index = any(entry.startswith("-") for entry in index)
    block = ["model-index:", *index] if has_index else []
    lines = [
        "---",
        *before,
        *block,
        *after,
        "---",
        draw(st.sampled_from(["", "body", "# A title\n\nbody\n"])),
    ]
    text = draw(st.sampled_from(["", "\ufeff"])) + "\n".join(lines)
    if ours:
        start = text.index(ours)
        cut = text[:start], text[start + len(ours) :]
    else:
        cut = text, ""
    new_line = draw(st.sampled_from(["\n", "\r\n"]))
    return cut[0].replace("\n", new_line), (ours + "\0" + cut[1]).replace("\n", new_line)


@given(_cards())
@settings(max_examples=200, deadline=None)
def test_everything_outside_our_entry_keeps_its_bytes(cut: tuple[str, str]) -> None:
    before, rest = cut
    ours, _, after = rest.partition("\0")
    card = before + ours + after
    result = EvalResult("text-generation", "text", "a text", "perplexity", 1.5, metric_name="Perplexity")

    made = card_with(card, "model", [result])

    if ours:
        assert made.startswith(before)
        assert made.endswith(after)
    else:
        _assert_only_added(card, made)
    [entry] = [one for one in metadata(made)["model-index"] if one["name"] == "model"]
    assert entry["results"][-1]["metrics"] == [{"type": "perplexity", "value": 1.5, "name": "Perplexity"}]
    assert len(entry["results"]) == 1 + ("acc" in ours)
    assert card_with(made, "model", [result]) == made


def _assert_only_added(card: str, made: str) -> None:
    """The card is what is left when one run of text is taken out."""
    at = next((n for n, (one, two) in enumerate(zip(card, made, strict=False)) if one != two), len(card))
    assert made.endswith(card[at:])


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("", "---\nmodel-index:\n- {0}\n---\n"),
        ("body\r\n", "---\r\nmodel-index:\r\n- {0}\r\n---\r\nbody\r\n"),
        ("---\rlicense: no\r---\rbody\r", "---\nmodel-index:\n- {0}\n---\n---\rlicense: no\r---\rbody\r"),
        ("---\n---\nbody", "---\nmodel-index:\n- {0}\n---\nbody"),
        ("---\nmodel-index:\nlicense: no\n---\n", "---\nmodel-index:\n- {0}\nlicense: no\n---\n"),
        ("---\nmodel-index: []  # none\n---\n", "---\nmodel-index:\n- {0}  # none\n---\n"),
        ("---\n{license: no}\n---\n", "---\n{license: no, model-index: [{1}]}\n---\n"),
        ("---\nmodel-index: [{name: a, results: []}]\n---\n",
         "---\nmodel-index: [{name: a, results: []}, {1}]\n---\n"),
        ("---\n  license: no\n---\n", "---\n  license: no\n  model-index:\n  - {0}\n---\n"),
    ],
)  # fmt: skip
def test_where_an_entry_is_added(card: str, expected: str) -> None:
    new_line = "\r\n" if "\r\n" in card else "\n"
    indent = "  " * ("  license" in card) + "  "
    block = ["name: m", "results:", "- task:", "    type: t", "  dataset:", "    name: d", "    type: s",
             "  metrics:", "  - type: acc", "    value: 0.5"]  # fmt: skip
    flow = "{name: m, results: [{task: {type: t}, dataset: {name: d, type: s}, metrics: [{type: acc, value: 0.5}]}]}"
    wanted = expected.replace("{0}", (new_line + indent).join(block)).replace("{1}", flow)

    assert card_with(card, "m", [EvalResult("t", "s", "d", "acc", 0.5)]) == wanted


def test_a_section_is_replaced_where_it_is() -> None:
    card = "title\r\n\r\n<!-- evaluation: begin -->\r\nold\r\n<!-- evaluation: end -->\r\nmore\r\n"

    assert card_with(card, "m", [], "new\n\n| a |") == card.replace(
        "old", "## Evaluation\r\n\r\nnew\r\n\r\n| a |"
    )


def test_results_are_committed_or_proposed(
    hub: Hub, results: list[EvalResult], make_folder: MakeFolder
) -> None:
    ann, bob = hub.add_user("ann"), hub.add_user("bob")
    hub.put("ann/model", make_folder())
    hub.put("ann/model", {"README.md": CARD.encode()})

    with pytest.raises(EvaluationError, match="or propose it as a pull request"):
        write_card("ann/model", results, token=bob)
    written = write_card("ann/model", results, token=ann)
    assert written.url.endswith(hub.repo("ann/model").find().id)
    assert "bits_per_byte" in hub.read("ann/model", "README.md").decode()

    before = hub.read("ann/model", "README.md")
    proposed = write_card("ann/model", [replace(results[0], metric_value=2.5)], pull_request=True, token=ann)
    assert proposed.pull_request
    assert proposed.url.endswith("/discussions/1")
    assert hub.read("ann/model", "README.md") == before
    assert b"2.5" in hub.read("ann/model", "README.md", "refs/pr/1")


def test_a_commit_in_between_is_not_lost(
    hub: Hub, results: list[EvalResult], make_folder: MakeFolder
) -> None:
    token = hub.add_user("ann")
    hub.put("ann/model", make_folder())
    moved = hub.fault("POST", "/commit/", status=412, times=1)

    write_card("ann/model", results, token=token)

    assert moved.hits == 1
    assert b"bits_per_byte" in hub.read("ann/model", "README.md")


def test_a_card_that_cannot_be_read_is_left_alone(results: list[EvalResult], make_folder: MakeFolder) -> None:
    folder = make_folder()
    for card, words in (
        ("---\na: [\n---\n", "is not valid YAML"),
        ("---\nmodel-index: a\n---\n", "no list of models"),
        ("---\nmodel-index: [{results: 1}]\n---\n", "no list of results"),
    ):
        (folder / "README.md").write_text(card)
        with pytest.raises(EvaluationError, match=words):
            write_card(folder, results)
        assert (folder / "README.md").read_text() == card


def test_what_cannot_be_written_is_said(results: list[EvalResult], score: Perplexity, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="Choose at least one"):
        write_card(tmp_path, [])
    with pytest.raises(EvaluationError, match="is a folder"):
        write_card(tmp_path, results, pull_request=True)
    with pytest.raises(EvaluationError, match="no card of its own"):
        write_card("ann/base+ann/adapter", results)
    with pytest.raises(EvaluationError, match="which no card can hold"):
        perplexity_results(replace(score, perplexity=float("inf")), TEXTS, TextSource("A text"))


def test_the_command_writes_the_first_models_card(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = make_folder(), make_folder(make_network(seed=1), name="two")

    command = ["perplexity", str(one), str(two), "--text", "english", "--json", "--card"]
    assert main([*command, "commit"]) == DONE
    assert main([*command, "pull-request"]) == CANNOT_BE_JUDGED

    read = ModelCard.load(one / "README.md").data.eval_results
    assert {result.dataset_name for result in read} == {"Alloy's English text"}
    assert len(read) == 3
    assert not (two / "README.md").exists()
    assert "is a folder" in capsys.readouterr().err
