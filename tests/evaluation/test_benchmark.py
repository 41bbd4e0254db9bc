"""Benchmarks by lm-eval's own KMMLU task, on a small data set of its shape."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import torch
import yaml

import evaluation.benchmark as benchmark_module
from evaluation import Cancelled, EvaluationError, LanguageModel, load_model
from evaluation import model as model_module
from evaluation.__main__ import DONE, main
from evaluation.benchmark import BENCHMARKS, Benchmarked, TaskScore, _tasks_known, benchmark, paired
from tests.evaluation.conftest import make_network, make_tokenizer

MakeModel = Callable[..., LanguageModel]


@pytest.fixture
def kmmlu(tmp_path: Path) -> Path:
    """A folder with lm-eval's task `kmmlu_accounting`, its data in the folder `data` there."""
    for split, count in (("test", 12), ("dev", 5)):
        rows = [
            {
                "question": f"{i} 더하기 {i}는?",
                "A": "1",
                "B": str(2 * i),
                "C": "3",
                "D": "4",
                "answer": 1 + i % 4,
            }
            for i in range(count)
        ]
        path = tmp_path / "kmmlu" / "data" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(json.dumps(row) for row in rows))
    own = Path(lm_eval.tasks.__file__).parent / "kmmlu" / "default" / "kmmlu_accounting.yaml"
    changed = {"dataset_path": str(path.parent), "dataset_name": "default", "fewshot_split": "validation"}
    task = yaml.safe_dump({"include": str(own), "task": "kmmlu_here", **changed})
    (tmp_path / "kmmlu" / "kmmlu_here.yaml").write_text(task)
    return tmp_path / "kmmlu"


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
    monkeypatch.setattr(benchmark_module, "_tasks_known", lambda *_, **__: small)
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
