"""What a training takes, beside what it was planned to take."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from evaluation import load_model
from examples.models import BASE, model_folder
from healing import HealPlan, costs, plan_training
from healing.costs import kept_of, operations_of, seconds_of, tokens_of
from healing.data import windows
from healing.distillation import Distillation
from healing.run import in_memory
from healing.training import TrainingObjective
from healing.trl_loss import trl_loss
from healing.weights import prepare
from merging import cut_recipe, stack_recipe
from tests import ROOT
from tests.evaluation.conftest import make_network, make_tokenizer

# Of the figures that a plan states.
MEMORY, TIME = 0.15, 2.0


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose layers are much wider than an adapter's rank."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    sizes = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6}
    make_network(**sizes, max_position_embeddings=128, tie_word_embeddings=True).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def planned(recipe: str, training: str, tmp_path: Path) -> HealPlan:
    line = json.dumps({"text": "Ships sail from harbour to harbour. " * 60})
    (tmp_path / "text.jsonl").write_text(f"{line}\n" * 4)
    arguments = "{max_steps: 1, per_device_train_batch_size: 2, max_length: 64, lora_r: 4}"
    rest = f"datasets: [{{path: text.jsonl}}]\narguments: {arguments}\nevaluate: {{texts: english}}\n"
    plan = plan_training(f"{recipe}---\n{training}\n{rest}", folder=tmp_path)
    assert plan.ok, plan.problems
    return plan


def objective_of(plan: HealPlan, model: Path, tmp_path: Path) -> tuple[TrainingObjective, Any]:
    teacher = load_model(model, device="cpu")
    student = in_memory("student", plan.merge, teacher.tokenizer, "cpu", "float32")
    network = prepare(student, plan)
    if plan.training.kind.by_trl:
        return trl_loss(plan.training, student, network, plan.rows, tmp_path), network
    return Distillation(student, teacher, windows(student, plan.documents, 64)), network


@pytest.mark.parametrize(
    "training", ["train: distillation", "train: distillation\nweights: all", "train: sft\nweights: copies"]
)
def test_a_step_keeps_and_computes_what_was_planned(training: str, wide: Path, tmp_path: Path) -> None:
    recipe = stack_recipe(str(wide), [2]) if "copies" in training else cut_recipe(str(wide), [1])
    plan = planned(recipe, training, tmp_path)
    objective, network = objective_of(plan, wide, tmp_path)
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.shape[-1:] != (400,):  # logits are planned apart
            kept[storage.data_ptr()] = storage
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        objective.loss([0, 1]).backward()

    measured = sum(storage.nbytes() for storage in kept.values())
    assert kept_of(plan) == pytest.approx(measured, rel=MEMORY)
    taught = sum(weight.numel() for weight in load_model(wide, device="cpu").network.parameters())
    assert operations_of(plan, taught) == pytest.approx(counter.get_total_flops(), rel=0.25)


def test_an_update_reads_and_writes_what_is_trained(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(cut_recipe(str(wide), [1]), "train: distillation\nweights: all", tmp_path)
    monkeypatch.setattr(costs, "_speed", lambda _: float("inf"))
    monkeypatch.setattr(costs, "_bandwidth", lambda _: 1e9)

    weights = sum(tensor.elements for tensor in plan.merge.tensors)
    # A gradient's norm, and AdamW's moments and update.
    assert seconds_of(plan, weights) == pytest.approx(88 * weights / 1e9)


def test_tokens_of_rows_are_estimated_from_their_bytes() -> None:
    assert tokens_of({"text": "word" * 25}) == 25
    assert tokens_of({"text": "다" * 20}) == 30
    pair = {"prompt": "word" * 5, "chosen": "word" * 7, "rejected": "word" * 9}
    assert tokens_of(pair) == 14
    assert tokens_of({"messages": [{"role": "user", "content": "word" * 5}]}) > 5


MEASURED = """
import json, resource, sys, time
from pathlib import Path
import torch
from healing import plan_training, run_training

text, to = sys.argv[1:]
plan = plan_training(Path(text).read_text(), device="cpu")
assert plan.ok, plan.problems
times = []
run_training(plan, to, keep=True, on_step=lambda _: times.append(time.process_time()))
a_step = (times[-1] - times[0]) / (len(times) - 1) / torch.get_num_threads()  # of a machine that does nothing else
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([plan.memory_bytes, peak, plan.seconds, a_step * len(times)]))
"""


@pytest.mark.real_models
@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("training", "size", "length"),
    [
        ("train: distillation", 1, 128),
        ("train: distillation", 4, 512),
        ("train: distillation\nhidden_states: 1.0", 2, 128),
        ("train: distillation\ntop_k: 64", 2, 128),
        ("train: distillation\nweights: all", 1, 128),
        ("train: sft", 2, 256),
        ("train: sft\nweights: copies", 2, 256),
        ("train: dpo", 1, 256),
        ("train: orpo", 1, 256),
    ],
)
def test_a_plan_of_the_demo_states_what_its_training_takes(
    training: str, size: int, length: int, tmp_path: Path
) -> None:
    base = str(model_folder(BASE))
    recipe = stack_recipe(base, [7, 15, 23]) if "copies" in training else cut_recipe(base, [15, 16, 17, 18])
    texts = [text[:4000] for text in topics.values()]
    rows: list[dict[str, str]] = [{"text": text} for text in texts]
    if "po" in training:
        rows = [{"prompt": "Explain.", "chosen": one, "rejected": other} for one, other in pairwise(texts)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "chain.yaml").write_text(
        f"{recipe}---\n{training}\ndatasets: [{{path: {tmp_path / 'rows.jsonl'}}}]\n"
        f"arguments: {{max_steps: 3, per_device_train_batch_size: {size}, max_length: {length}}}\n"
        "evaluate: {texts: english}\n"
    )
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "chain.yaml"), str(tmp_path / "out")]

    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    memory, peak, seconds, took = json.loads(said.splitlines()[-1])
    assert memory == pytest.approx(peak, rel=MEMORY)
    assert took / TIME < seconds < took * TIME
