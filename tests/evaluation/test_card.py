"""Results in a model's card: what stands there stays, what is measured anew is replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard

from evaluation import (
    EvaluationError,
    LanguageModel,
    Perplexity,
    Source,
    benchmark_results,
    card_with,
    difference,
    interval,
    perplexity,
    perplexity_results,
    write_card,
)
from evaluation.__main__ import CANNOT_BE_JUDGED, DONE, main
from evaluation.benchmark import Benchmarked, PairedScore, TaskScore
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
    return perplexity_results(score, TEXTS, Source("A text"), [difference(score, parent, TEXTS)])


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
    elsewhere = perplexity_results(replace(score, documents=score.documents[:1]), other, Source("Another"))
    pair = PairedScore("ann/model", "ann/parent", 20, 0.1, (0.01, 0.19))
    card = card_with(CARD, "model", results)
    card = card_with(card, "model", [*elsewhere, *benchmark_results(benchmarked, [pair])])
    again = [replace(one, metric_value=1.5) for one in results[:1]]

    read = ModelCard(card_with(card, "model", again)).data

    assert read.model_name == "Theirs"
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
        ("---\na: [\n---\n", "no valid YAML"),
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
        perplexity_results(replace(score, perplexity=float("inf")), TEXTS, Source("A text"))


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
