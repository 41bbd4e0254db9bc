"""Training runs of tiny models: what they leave behind, and that a killed one continues with the same bits."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evaluation import Cancelled, EvaluationError, LanguageModel, load_model, perplexity
from evaluation.text import bundled_text
from healing import HealPlan, plan_training, run, run_training, training
from healing.command_line import DONE, NOT_HEALED, main
from healing.distillation import Distillation
from healing.run import STATE, in_memory, result_plan
from healing.training import State, Trainer, TrainingStep, learning_rate, trained
from healing.weights import prepare, save
from merging import merge_into_memory, run_plan
from tests import ROOT


@pytest.fixture
def plan(chain: str, tmp_path: Path) -> HealPlan:
    found = plan_training(chain, folder=tmp_path)
    assert found.ok
    return found


def trainer_of(
    plan: HealPlan, state: Path, parent: Path, windows: torch.Tensor | None = None
) -> tuple[Trainer, Distillation]:
    """A trainer of the plan's student, on (n, length) sequences."""
    teacher = load_model(parent, device="cpu")
    student = in_memory("student", plan.merge, teacher.tokenizer, "cpu", "float32")
    network = prepare(student, plan)
    given = plan.training
    sequences = torch.arange(2, 66).reshape(2, 32) if windows is None else windows
    loss = Distillation(student, teacher, sequences, plan.pairs, given.hidden_states)
    return Trainer("student", network, loss, given.arguments, plan.key, State(state)), loss


def adapter_of(chain: str, folder: Path, to: Path) -> dict[str, torch.Tensor]:
    run_training(
        plan_training(chain, folder=folder), str(to), work=to.parent / "work", adapter_only=True, keep=True
    )
    return load_file(to / "adapter_model.safetensors")


def test_a_run_is_judged_on_what_is_written(plan: HealPlan, tmp_path: Path) -> None:
    steps: list[int] = []

    found = run_training(
        plan,
        str(tmp_path / "out"),
        work=tmp_path / "work",
        keep=True,
        on_step=lambda step: steps.append(step.number),
    )

    assert steps == [1, 2, 3, 4, 5, 6]
    assert len(found.losses) == 6
    again = perplexity(load_model(tmp_path / "out", device="cpu"), bundled_text("english"))
    assert again.nll_nats == found.judgement.after.nll_nats
    assert found.judgement.before.nll_nats != again.nll_nats
    card = (tmp_path / "out" / "README.md").read_text()
    assert "train: distillation" in card
    assert "## Training" in card
    assert str(tmp_path / "work") not in card
    assert (tmp_path / "out" / "mergekit_config.yml").read_text() == plan.training.text
    assert not (tmp_path / "work").exists()


def test_the_engine_merges_the_adapter_as_peft_does(plan: HealPlan, tmp_path: Path, parent: Path) -> None:
    trainer, _ = trainer_of(plan, tmp_path / STATE, parent)
    network = trainer.network
    with torch.no_grad():
        for weight in trained(network).values():
            weight.copy_(0.1 * torch.randn_like(weight))
    save(network, tmp_path / "adapter", str(parent))
    run_plan(plan.merge, str(tmp_path / "student"))

    ours = merge_into_memory(result_plan(plan, tmp_path, None)).state_dict()

    theirs = network.merge_and_unload().state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name].float(), tensor, rtol=1e-5, atol=1e-6)


# Runs a chain, and dies at a point of it, without a word.
KILLED = """
import os, signal, sys, torch
from pathlib import Path
import healing.run as run, healing.training as training
from healing import plan_training

torch.set_num_threads(1)
text, folder, to, point = sys.argv[1:]
save_file, perplexity = training.save_file, run.perplexity
calls = {"save": 0, "score": 0}

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def save(tensors, path, about):
    calls["save"] += 1
    if calls["save"] == int(point[-1]):
        Path(path).write_bytes(b"half written")
        die()
    save_file(tensors, path, about)

def score(*given, **more):
    calls["score"] += 1
    return die() if calls["score"] == 3 else perplexity(*given, **more)

def on_step(step):
    if point == f"after step {step.number}":
        die()

if point == "before the first step": run.Trainer.train = die
if point == "before the merge": run.result_plan = die
if point == "while it is judged": run.perplexity = score
if point.startswith("while file"): training.save_file = save
plan = plan_training(Path(text).read_text(), folder=Path(folder))
run.run_training(plan, to, work=Path(to).parent / "work", adapter_only=True, keep=True, on_step=on_step)
"""
POINTS = (
    "before the first step",
    "while file 1",
    "after step 1",
    "while file 3",
    "after step 5",
    "before the merge",
    "while it is judged",
)


@pytest.mark.parametrize(
    ("point", "top_k"),
    [
        ("after step 3", 0),
        *(pytest.param(point, 0, marks=pytest.mark.nightly) for point in POINTS),
        pytest.param("while file 1", 8, marks=pytest.mark.nightly),  # the teacher's predictions
        pytest.param("while file 3", 8, marks=pytest.mark.nightly),
    ],
)
def test_a_killed_run_continues_with_the_same_bits(
    point: str, top_k: int, chain: str, tmp_path: Path
) -> None:
    chain += f"top_k: {top_k}\n" if top_k else ""
    whole = adapter_of(chain, tmp_path, tmp_path / "whole" / "adapter")
    (tmp_path / "heal.yaml").write_text(chain)
    to = tmp_path / "again" / "adapter"
    arguments = [str(tmp_path / "heal.yaml"), str(tmp_path), str(to), point]

    died = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, check=False)

    assert died.returncode == -signal.SIGKILL
    assert not to.exists()
    assert (to.parent / "work").exists()
    continued = adapter_of(chain, tmp_path, to)
    assert continued.keys() == whole.keys()
    assert all(torch.equal(continued[name], tensor) for name, tensor in whole.items())
    assert not (to.parent / "work").exists()


def test_hidden_states_are_learned_too(chain: str, tmp_path: Path, parent: Path) -> None:
    plain = plan_training(chain, folder=tmp_path)
    plan = plan_training(f"{chain}hidden_states: 1.0\n", folder=tmp_path)
    ids = torch.arange(2, 34)[None]

    _, loss = trainer_of(plan, tmp_path / STATE, parent, ids)
    found = loss.loss([0])
    alone = trainer_of(plain, tmp_path / STATE, parent, ids)[1].loss([0])

    assert isinstance(loss.teacher, LanguageModel)
    with torch.no_grad():
        ours = loss.student.network(ids, output_hidden_states=True).hidden_states
        theirs = loss.teacher.network(ids, output_hidden_states=True).hidden_states
    # The states of the last layers are given behind the final norm there, so only the others are compared so.
    first = [1 - torch.cosine_similarity(ours[n], theirs[n], dim=-1).mean() for n in (1, 2)]
    assert all(float(one) == pytest.approx(0, abs=1e-6) for one in first)
    assert float(found.detach()) > float(alone.detach())
    found.backward()
    assert any(weight.grad.any() for weight in trained(loss.student.network).values())  # type: ignore[union-attr]


def test_a_student_like_its_teacher_has_no_loss(
    plan: HealPlan, chain: str, tmp_path: Path, parent: Path
) -> None:
    whole = f"merge_method: passthrough\nmodels: [{{model: {parent}}}]\n---{chain.partition('---')[2]}"

    _, loss = trainer_of(plan_training(whole, folder=tmp_path), tmp_path / STATE, parent)

    assert float(loss.loss([0]).detach()) == pytest.approx(0, abs=1e-6)


def test_the_loss_of_what_is_read_falls(plan: HealPlan, tmp_path: Path, parent: Path) -> None:
    trainer, _ = trainer_of(plan, tmp_path / STATE, parent)

    trainer.train()  # each step reads both sequences

    assert trainer.losses == sorted(trainer.losses, reverse=True)
    assert trainer.losses[-1] < 0.9 * trainer.losses[0]


@pytest.mark.parametrize("scored", [1, 2, 3])
def test_a_run_that_is_cancelled_while_it_is_judged_leaves_nothing(
    scored: int, plan: HealPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel, calls = threading.Event(), []

    def score(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == scored:
            cancel.set()
        return perplexity(*given, **more)

    monkeypatch.setattr(run, "perplexity", score)

    with pytest.raises(Cancelled):
        run_training(plan, str(tmp_path / "out"), work=tmp_path / "work", keep=True, cancel=cancel)

    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("step", [1, 6])
def test_a_run_that_is_cancelled_or_interrupted_leaves_nothing(
    step: int, plan: HealPlan, tmp_path: Path
) -> None:
    cancel = threading.Event()

    def interrupt(found: TrainingStep) -> None:
        if found.number == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(plan, str(tmp_path / "out"), work=tmp_path / "work", on_step=interrupt)
    with pytest.raises(Cancelled):
        run_training(
            plan,
            str(tmp_path / "out"),
            work=tmp_path / "work",
            keep=True,
            on_step=lambda found: cancel.set() if found.number == step else None,
            cancel=cancel,
        )

    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_of_others_is_not_used(plan: HealPlan, tmp_path: Path) -> None:
    mine = tmp_path / "work" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("years of work")

    with pytest.raises(EvaluationError) as caught:
        run_training(plan, str(tmp_path / "out"), work=mine.parent)

    assert [problem.code for problem in caught.value.problems] == ["work-folder-taken"]
    assert mine.read_text() == "years of work"


def test_another_runs_state_is_not_continued(
    chain: str, plan: HealPlan, tmp_path: Path, parent: Path
) -> None:
    trainer_of(plan, tmp_path / STATE, parent)[0].train()
    other = plan_training(chain.replace("0.003", "0.004"), folder=tmp_path)

    with pytest.raises(EvaluationError, match="the state of another run"):
        trainer_of(other, tmp_path / STATE, parent)[0].train()


def test_a_loss_that_is_not_finite_ends_the_run(plan: HealPlan, tmp_path: Path, parent: Path) -> None:
    trainer, _ = trainer_of(plan, tmp_path / STATE, parent)
    with torch.no_grad():
        next(iter(trained(trainer.network).values())).fill_(torch.inf)

    with pytest.raises(EvaluationError, match="not finite at step 1"):
        trainer.train()


def test_a_full_disk_is_said(
    plan: HealPlan, tmp_path: Path, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    save_file = training.save_file

    def full(tensors: Any, path: Path, about: Any) -> None:
        if len(steps) == 2:
            path.write_bytes(b"half written")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, about)

    monkeypatch.setattr(training, "save_file", full)

    with pytest.raises(EvaluationError, match="no room on the disk"):
        trainer_of(plan, tmp_path / STATE, parent)[0].train(lambda step: steps.append(step.number))

    # The state before is there, nothing else takes room, and the run continues once there is some.
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("state")] == [STATE]
    monkeypatch.setattr(training, "save_file", save_file)
    trainer_of(plan, tmp_path / STATE, parent)[0].train(lambda step: steps.append(step.number))
    assert steps == [1, 2, 3, 4, 5, 6]


def test_the_rate_grows_and_falls(plan: HealPlan) -> None:
    rates = [learning_rate(plan.training.arguments, step) for step in range(6)]

    assert rates[0] == max(rates) == 0.003
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0.003 / 20


def test_what_did_not_heal_is_not_written(
    chain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "heal.yaml"
    path.write_text(chain.replace("texts: english", "texts: english, stop_above: 0.0001"))
    command = ["run", str(path), "--to", str(tmp_path / "out"), "--json"]

    assert main(command) == NOT_HEALED
    out, err = capsys.readouterr()
    assert not json.loads(out)["healed"]
    assert json.loads(out)["written"] is None
    assert "was not written" in err
    assert not (tmp_path / "out").exists()
    assert main([*command[:-1], "--keep"]) == DONE
    assert "| after |" in capsys.readouterr().out
    assert (tmp_path / "out" / "config.json").exists()
