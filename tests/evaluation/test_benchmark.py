"""Benchmarks by lm-eval's own KMMLU task, on a small data set of its shape."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from evaluation import Cancelled, EvaluationError, LanguageModel, harness, load_model
from evaluation import model as model_module
from evaluation.__main__ import DONE, main
from evaluation.benchmark import benchmark
from evaluation.benchmarked import Benchmarked, TaskScore
from evaluation.bootstrap import paired_bootstrap
from evaluation.harness import BENCHMARKS, _tasks_known
from evaluation.paired import paired
from tests.evaluation.conftest import make_network, make_tokenizer

MakeModel = Callable[..., LanguageModel]


@pytest.fixture
def reader(make_model: MakeModel) -> LanguageModel:
    return make_model(make_network(max_position_embeddings=512))


@torch.no_grad()
def by_hand(model: LanguageModel, folder: Path) -> dict[int, float]:
    """Whether the likeliest of the four letters is the answer, question by question."""
    found = {}
    for number, line in enumerate((folder / "data" / "test.jsonl").read_text().splitlines()):
        row = json.loads(line)
        asked = f"{row['question']}\nA. {row['A']}\nB. {row['B']}\nC. {row['C']}\nD. {row['D']}\n정답："
        nats = []
        for letter in "ABCD":
            tokens = model.tokenizer(f"{asked} {letter}")["input_ids"]
            start = len(model.tokenizer(asked)["input_ids"])
            logits = model.network(torch.tensor([tokens])).logits[0].log_softmax(-1)
            nats.append(sum(float(logits[at - 1, tokens[at]]) for at in range(start, len(tokens))))
        found[number] = float(max(range(4), key=nats.__getitem__) == row["answer"] - 1)
    return found


def test_kmmlu_is_asked_as_lm_eval_asks_it(reader: LanguageModel, kmmlu: Path) -> None:
    seen: list[tuple[int, int]] = []

    found = benchmark(
        reader, ["kmmlu_here"], folder=kmmlu, few_shot=0, on_progress=lambda *now: seen.append(now)
    )

    [score] = found.scores
    assert score.answers == by_hand(reader, kmmlu)
    assert (score.task, score.metric, score.version) == ("kmmlu_here", "acc", "2.0")
    share = sum(score.answers.values()) / 12
    assert score.value == pytest.approx(share)
    assert score.stderr == pytest.approx(math.sqrt(share * (1 - share) / 11), rel=1e-3)
    assert seen[-1] == (48, 48)


def test_chosen_questions_are_asked_and_have_their_own_numbers(reader: LanguageModel, kmmlu: Path) -> None:
    found = benchmark(
        reader,
        ["kmmlu_here"],
        folder=kmmlu,
        few_shot=0,
        samples={"kmmlu_here": [7, 2, 11]},
        metric="acc,none",
    )

    whole = by_hand(reader, kmmlu)
    assert found.scores[0].answers == {number: whole[number] for number in (2, 7, 11)}
    assert harness.question_counts(["kmmlu_here"], kmmlu) == {"kmmlu_here": 12}
    assert not benchmark(reader, ["kmmlu_here"], folder=kmmlu, few_shot=0, limit=2, metric="f1").scores


def test_a_model_that_lies_on_the_disk_answers_the_same(
    make_folder: Callable[..., Path], kmmlu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(make_network(max_position_embeddings=512))
    monkeypatch.setattr(model_module, "_LOADED", {"cpu": model_module.LoadedModels("cpu", 1 << 20)})
    monkeypatch.setattr(model_module, "_memory", lambda _: (200_000, 80_000))
    model = load_model(folder, device="cpu", offload=tmp_path / "disk")

    found = benchmark(model, ["kmmlu_here"], folder=kmmlu, few_shot=0, limit=4)

    assert model.offloaded
    monkeypatch.undo()
    whole = by_hand(load_model(folder, device="cpu"), kmmlu)
    assert found.scores[0].answers == {number: whole[number] for number in range(4)}


def test_limit_few_shot_and_chat_template_change_what_is_asked(reader: LanguageModel, kmmlu: Path) -> None:
    found = benchmark(reader, ["kmmlu_here"], folder=kmmlu, limit=3, few_shot=2, chat_template=True)

    assert len(found.scores[0].answers) == 3
    assert (found.limit, found.few_shot, found.chat_template) == (3, 2, True)


def test_a_model_at_a_commit_is_asked_once(reader: LanguageModel, kmmlu: Path, tmp_path: Path) -> None:
    at_commit = replace(reader, commit="0" * 40)
    calls: list[int] = []

    def ask(model: LanguageModel, **settings: Any) -> Benchmarked:
        return benchmark(
            model,
            ["kmmlu_here"],
            folder=kmmlu,
            cache=tmp_path / "cache",
            on_progress=lambda *now: calls.append(now[0]),
            **settings,
        )

    first = ask(at_commit, limit=2)
    asked = len(calls)
    assert ask(at_commit, limit=2) == first
    assert len(calls) == asked > 0

    ask(at_commit, limit=3)
    ask(reader, limit=2)  # a folder has no commit
    ask(reader, limit=2)
    assert len(list((tmp_path / "cache").glob("*.json"))) == 2
    assert len(calls) > asked


def test_a_benchmark_stops(reader: LanguageModel, kmmlu: Path) -> None:
    cancel = threading.Event()

    with pytest.raises(Cancelled):
        benchmark(
            reader,
            ["kmmlu_here"],
            folder=kmmlu,
            batch_size=1,
            cancel=cancel,
            on_progress=lambda *_: cancel.set(),
        )


def test_what_was_stopped_goes_on_where_it_stood(reader: LanguageModel, kmmlu: Path, tmp_path: Path) -> None:
    at_commit = replace(reader, commit="1" * 40)
    cancel = threading.Event()
    totals: list[int] = []

    def ask(on_progress: Callable[[int, int], None]) -> Benchmarked:
        return benchmark(
            at_commit,
            ["kmmlu_here"],
            folder=kmmlu,
            batch_size=1,
            cache=tmp_path / "cache",
            cancel=cancel,
            on_progress=on_progress,
        )

    def stop_late(done: int, total: int) -> None:
        totals.append(total)
        if done >= 5:
            cancel.set()

    with pytest.raises(Cancelled):
        ask(stop_late)
    cancel.clear()
    found = ask(lambda _, total: totals.append(total))

    assert totals[0] == 48
    assert totals[-1] < 48
    assert found.scores[0].answers == by_hand(reader, kmmlu)


@pytest.fixture
def folder_of_kinds(kmmlu: Path) -> Path:
    """More tasks on the same data: a tag, plain groups, and metrics that are no means over questions."""
    data = kmmlu / "data"
    shared = {"include": str(kmmlu / "kmmlu_here.yaml")}
    texts = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data / "test.jsonl")}},
        "test_split": "test",
    }
    written = {"output_type": "generate_until", "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4}}
    rolling = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{B}}",
    }
    prompt = {"doc_to_text": "Q: {{question}} A:", "doc_to_target": "{{B}}"}
    tasks: dict[str, dict[str, Any]] = {
        "tagged_one": {**shared, "task": "tagged_one", "tag": "tag_here"},
        "tagged_two": {**shared, "task": "tagged_two", "tag": "tag_here"},
        "plain_group": {"group": "plain_group", "task": ["tagged_one", "scored_group"]},
        "scored_group": {
            "group": "scored_group",
            "task": ["tagged_two", "kmmlu_here"],
            "aggregate_metric_list": [{"metric": "acc"}],
        },
        "lacking_group": {
            "group": "lacking_group",
            "task": ["mcc_here"],
            "aggregate_metric_list": [{"metric": "exact_match"}],
        },
        "mcc_here": {**shared, "task": "mcc_here", "metric_list": [{"metric": "mcc"}]},
        "bleu_here": {**texts, **written, **prompt, "task": "bleu_here", "metric_list": [{"metric": "bleu"}]},
        "rolling_here": {
            **texts, **rolling, "task": "rolling_here",
            "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
        },
        "middle_here": {
            **shared, "task": "middle_here",
            "metric_list": [{"metric": "acc", "aggregation": "median", "higher_is_better": True}],
        },
    }  # fmt: skip
    for name, task in tasks.items():
        (kmmlu / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return kmmlu


@pytest.mark.parametrize(
    ("asked", "totals"),
    [
        (["tag_here"], ["tagged_one", "tagged_two"]),
        (["plain_group"], ["tagged_one", "scored_group"]),
        (["scored_group"], ["scored_group"]),
        (["lacking_group"], ["mcc_here"]),
        (["tag_here", "tagged_one"], ["tagged_one", "tagged_two"]),
    ],
)
def test_names_without_a_score_of_their_own_have_those_of_their_parts(
    reader: LanguageModel, folder_of_kinds: Path, asked: list[str], totals: list[str]
) -> None:
    found = benchmark(reader, asked, folder=folder_of_kinds, few_shot=0, limit=3)

    assert [total.name for total in found.totals] == totals
    scores = {score.task: score.value for score in found.scores}
    assert all(scores.get(total.name, total.value) == total.value for total in found.totals)
    assert {total.name: total.questions for total in found.totals}.get("scored_group", 6) == 6


def test_a_task_that_is_named_twice_is_asked_once(reader: LanguageModel, folder_of_kinds: Path) -> None:
    names = ["scored_group", "tag_here", "kmmlu_here"]

    found = benchmark(reader, names, folder=folder_of_kinds, few_shot=0, limit=2)

    assert [(total.name, total.questions) for total in found.totals] == [
        ("scored_group", 4),
        ("tagged_one", 2),
        ("tagged_two", 2),
        ("kmmlu_here", 2),
    ]
    assert sorted(score.task for score in found.scores) == ["kmmlu_here", "tagged_one", "tagged_two"]


def test_groups_with_a_common_task_are_refused_before_anything_is_asked(
    reader: LanguageModel, folder_of_kinds: Path
) -> None:
    asked: list[int] = []

    with pytest.raises(EvaluationError, match="plain_group and scored_group both contain kmmlu_here"):
        benchmark(
            reader,
            ["plain_group", "scored_group"],
            folder=folder_of_kinds,
            on_progress=lambda done, _: asked.append(done),
        )

    assert asked == []


@pytest.mark.parametrize("task", ["mcc_here", "rolling_here", "bleu_here", "middle_here", "kmmlu_here"])
def test_a_difference_is_that_of_the_metric(
    make_model: MakeModel, folder_of_kinds: Path, tmp_path: Path, task: str
) -> None:
    one, two = (
        benchmark(
            replace(
                make_model(make_network(seed, max_position_embeddings=512), name=str(seed)),
                commit=str(seed) * 40,
            ),
            [task],
            folder=folder_of_kinds,
            few_shot=0,
            cache=tmp_path / "cache",
        )
        for seed in (0, 1)
    )

    found = paired(one, two)

    assert found.difference == pytest.approx(one.totals[0].value - two.totals[0].value)
    assert found.questions == one.scores[0].questions == 12
    assert (found.interval is None) == (task == "bleu_here")
    assert bool(found.metric) == (task != "kmmlu_here") == (not one.scores[0].answers)
    assert task != "bleu_here" or "not compared question by question" in found.words
    if found.interval:
        assert found.interval[0] <= found.difference <= found.interval[1]
    kept = [
        benchmark(model, [task], folder=folder_of_kinds, few_shot=0, cache=tmp_path / "cache")
        for model in [
            replace(make_model(make_network(0, max_position_embeddings=512), name="0"), commit="0" * 40)
        ]
    ]
    assert kept == [one]  # from JSON


def metric_scored(name: str, parts: list[Any], aggregation: str, value: float, **more: Any) -> Benchmarked:
    task = TaskScore(
        "t", "1", aggregation, value, None, {}, aggregation=aggregation, parts=dict(enumerate(parts)), **more
    )
    return Benchmarked(name, None, "float32", 0, False, None, "0", (task,))


def test_a_perplexity_is_compared_by_drawing_questions_for_both() -> None:
    """Each of 40 texts is 0.1 nats a word easier for one model, so the ratio of perplexities is known exactly."""
    lengths = [10 + i % 7 for i in range(40)]
    easy = [(-2.0 * n, n) for n in lengths]
    hard = [(-2.1 * n, n) for n in lengths]
    value = {"easy": math.exp(2.0), "hard": math.exp(2.1)}
    one = metric_scored("merge", easy, "weighted_perplexity", value["easy"], higher_is_better=False)
    two = metric_scored("parent", hard, "weighted_perplexity", value["hard"], higher_is_better=False)

    found = paired(one, two)

    assert found.interval == pytest.approx((value["easy"] - value["hard"],) * 2)
    assert "merge has a lower (better) weighted_perplexity of t than parent" in found.words
    assert "has a higher (worse)" in paired(two, one).words


def test_the_bootstrap_of_a_mean_is_about_its_normal_interval() -> None:
    random = np.random.default_rng(0)
    model, other = random.normal(0.1, 1, 100).tolist(), random.normal(0, 1, 100).tolist()

    interval = paired_bootstrap(lambda values: sum(values) / len(values), model, other)

    apart = np.array(model) - np.array(other)
    reach = 1.984 * apart.std(ddof=1) / 10
    assert interval == pytest.approx((apart.mean() - reach, apart.mean() + reach), abs=0.03)


def test_metrics_of_texts_and_of_few_questions_are_not_compared() -> None:
    texts = [("a b c d", ("a b", "c d"))] * 20
    few = [(0, 1)] * 9

    of_texts = paired(*[metric_scored(name, texts, "bleu", 3.0) for name in "ab"])
    of_few = paired(*[metric_scored(name, few, "matthews_corrcoef", 0.0) for name in "ab"])
    unknown = paired(*[metric_scored(name, [1.0] * 20, "", 3.0) for name in "ab"])

    assert of_texts.interval is None and "bleu of t is computed over all questions at once" in of_texts.words
    assert of_few.interval is None and "9 questions are too few" in of_few.words
    assert unknown.interval is None and unknown.has_no_interval_for_its_metric


def test_metrics_beside_means_are_named_as_left_out() -> None:
    means = [scored(name, [1.0, 0.0] * 10) for name in "ab"]
    both = [
        replace(
            one,
            scores=(*one.scores, replace(metric_scored("", [(0, 1)] * 20, "f1", 0.5).scores[0], task="u")),
        )
        for one in means
    ]

    found = paired(*both)

    assert (found.questions, found.left_out) == (20, ("f1 of u",))
    assert found.words.endswith("Not compared here, as they are not means over questions: f1 of u.")


def test_no_difference_comes_with_what_would_decide_it() -> None:
    """100 questions, 10 won and 10 lost: the deviation of a difference is 0.4495, and 0.1259 = 2.8 x 0.4495 / 10."""
    one = scored("a", [1.0] * 10 + [0.0] * 10 + [1.0] * 80)
    two = scored("b", [0.0] * 10 + [1.0] * 10 + [1.0] * 80)

    found = paired(one, two)

    assert found.verdict == "none"
    assert found.detectable == pytest.approx(2.8016 * 0.44947 / 10, rel=1e-3)
    assert found.more_questions == math.ceil((2.8016 * 0.44947 / 0.01) ** 2) - 100
    assert "usually show differences of 0.126 or more" in found.words


def scored(name: str, answers: list[float]) -> Benchmarked:
    task = TaskScore("t", "1", "acc", 0.0, None, dict(enumerate(answers)))
    return Benchmarked(name, None, "float32", 0, False, None, "0", (task,))


def test_the_paired_comparison_by_hand() -> None:
    """Of 100 questions both know 50; one knows 20 more, the other 0: d = 0.2, its deviation sqrt(0.16 * 100/99)."""
    one = scored("merge", [1.0] * 70 + [0.0] * 30)
    two = scored("parent", [1.0] * 50 + [0.0] * 50)

    found = paired(one, two)

    reach = 1.959964 * math.sqrt(0.16 * 100 / 99) / 10
    assert found.difference == pytest.approx(0.2)
    assert found.interval == pytest.approx((0.2 - reach, 0.2 + reach))
    assert "merge scores higher than parent" in found.words
    assert "no difference that these questions can show" in paired(one, one).words
    assert "too few" in paired(scored("a", [1.0] * 9), scored("b", [0.0] * 9)).words


def test_what_was_asked_otherwise_is_not_compared() -> None:
    with pytest.raises(EvaluationError, match="Ask both the same way"):
        paired(scored("a", [1.0]), replace(scored("b", [1.0]), few_shot=5))


def test_what_is_offered_is_there_without_the_index_of_everything() -> None:
    assert set(BENCHMARKS) <= set(_tasks_known(None, everything=False).all_tasks)


def test_what_cannot_be_asked_is_said(
    make_model: MakeModel, kmmlu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kmmlu / "data" / "test.jsonl").unlink()
    small = _tasks_known(kmmlu, everything=False)
    monkeypatch.setattr(harness, "_tasks_known", lambda *_, **__: small)
    mute = make_model(tokenizer=make_tokenizer(template=None))

    for tasks, settings, words in (
        ([], {}, "at least one task"),
        (["nonsense"], {}, "no task 'nonsense'. Offered first: kmmlu"),
        (["kmmlu_accounting"], {"limit": 0}, "limit=0"),
        (["kmmlu_accounting"], {"chat_template": True}, "has no chat template"),
        (["kmmlu_here"], {"folder": kmmlu}, "ended early"),
    ):
        with pytest.raises(EvaluationError) as refused:
            benchmark(mute, tasks, **settings)
        assert words in str(refused.value)


def test_benchmark_on_the_command_line(
    make_folder: Callable[..., Path], kmmlu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [
        str(make_folder(make_network(seed, max_position_embeddings=512), name=str(seed))) for seed in (0, 1)
    ]
    asked = ["--tasks", "kmmlu_here", "--task-folder", str(kmmlu)]

    assert main(["benchmark", *folders, *asked, "--json"]) == DONE

    found = json.loads(capsys.readouterr().out)
    assert [len(model["scores"][0]["answers"]) for model in found["models"]] == [12, 12]
    assert found["paired"][0]["questions"] == 12
