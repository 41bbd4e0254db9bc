"""What a training changes: copies of a stack alone, everything, or an adapter; with a teacher that is stored."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evaluation import Cancelled, load_model
from healing import plan_training, run_training
from healing.run import in_memory, result_plan
from healing.stored_teacher import store
from healing.training import trained
from healing.weights import prepare, save
from merging import merge_into_memory, run_plan, stack_recipe
from tests.evaluation.conftest import make_network, make_tokenizer
from tests.healing.conftest import ARGUMENTS


@pytest.fixture
def stack(parent: Path, tmp_path: Path) -> str:
    """A silent copy behind layer 1 and layer 3, trained on a text."""
    (tmp_path / "text.txt").write_text("".join(f"Line {number} of {number % 7}.\n" for number in range(200)))
    rows = "\n".join(f'{{"text": "Line {n} of {n % 7} things, and more of them."}}' for n in range(40))
    (tmp_path / "rows.jsonl").write_text(rows)
    training = f"train: sft\ndatasets: [{{path: rows.jsonl}}]\narguments: {ARGUMENTS}\nevaluate: {{texts: english}}\n"
    return stack_recipe(str(parent), [1, 3]) + "---\n" + training


def test_copies_of_a_silent_stack_are_trained_alone(stack: str, parent: Path, tmp_path: Path) -> None:
    plan = plan_training(stack, folder=tmp_path)
    assert plan.ok, plan.problems
    assert (plan.weights, plan.copies) == ("copies", (2, 5))

    run_training(plan, str(tmp_path / "out"), keep=True)

    before = merge_into_memory(plan.merge).state_dict()
    after = load_file(tmp_path / "out" / "model.safetensors")
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(".2." in name or ".5." in name for name in changed)
    assert any("o_proj" in name for name in changed)


def test_a_silent_stack_has_nothing_to_learn_from_its_parent(stack: str, tmp_path: Path) -> None:
    text = stack.replace("train: sft", "train: distillation").replace("rows.jsonl", "text.txt")

    plan = plan_training(text, folder=tmp_path)

    assert [problem.code for problem in plan.problems] == ["nothing-to-imitate"]


def test_copies_are_asked_of_a_stack_that_has_them(chain: str, tmp_path: Path) -> None:
    plan = plan_training(f"{chain}weights: copies\n", folder=tmp_path)

    assert [problem.code for problem in plan.problems] == ["no-copies"]


def test_all_weights_are_merged_as_they_were_trained(chain: str, parent: Path, tmp_path: Path) -> None:
    plan = plan_training(f"{chain}weights: all\n", folder=tmp_path)
    assert plan.ok, plan.problems
    teacher = load_model(parent, device="cpu")
    student = in_memory("student", plan.merge, teacher.tokenizer, "cpu", "float32")
    network = prepare(student, plan)
    with torch.no_grad():
        for weight in trained(network).values():
            weight.add_(0.1)

    save(network, tmp_path / "adapter", str(parent))
    run_plan(plan.merge, str(tmp_path / "student"))

    found = merge_into_memory(result_plan(plan, tmp_path, None)).state_dict()
    for name, weight in network.state_dict().items():
        assert torch.equal(found[name].float(), weight), name


def test_a_stored_teacher_is_asked_once_and_teaches_what_it_predicts(
    chain: str, parent: Path, tmp_path: Path
) -> None:
    teacher = load_model(parent, device="cpu")
    windows = torch.arange(2, 98).reshape(3, 32)
    path = tmp_path / "teacher.safetensors"

    stored = store(teacher, windows, [2, 0], 5, 1.0, path, "key")

    with torch.no_grad():
        wanted = teacher.network(windows[[0]]).logits[0].log_softmax(-1).topk(5)
    tokens, likely = stored.read([0])
    assert torch.equal(tokens, wanted.indices)
    torch.testing.assert_close(likely, wanted.values, rtol=1e-3, atol=1e-3)
    assert torch.equal(stored.read([2, 0])[0][32:], tokens)
    written = path.stat().st_mtime_ns
    store(teacher, windows, [2, 0], 5, 1.0, path, "key")
    assert path.stat().st_mtime_ns == written
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        store(teacher, windows, [2, 0], 5, 1.0, path, "another key", cancel)


def test_a_run_from_a_stored_teacher_is_near_one_beside_it(chain: str, tmp_path: Path) -> None:
    beside = run_training(plan_training(chain, folder=tmp_path), str(tmp_path / "beside"), keep=True)

    plan = plan_training(f"{chain}top_k: 64\n", folder=tmp_path)
    assert plan.ok, plan.problems
    stored = run_training(plan, str(tmp_path / "stored"), keep=True)

    assert stored.losses[0] <= beside.losses[0]  # fewer outcomes are never further apart
    assert stored.losses[-1] < stored.losses[0]


def test_gold_learns_from_a_teacher_of_another_tokenizer(parent: Path, tmp_path: Path) -> None:
    own, other = make_tokenizer(), make_tokenizer()
    taught = other.train_new_from_iterator(["Say it is number one, or number two."], 300)
    assert len(taught) < len(own)
    make_network(num_hidden_layers=2).save_pretrained(tmp_path / "own")
    make_network(vocab_size=len(taught), num_hidden_layers=2).save_pretrained(tmp_path / "other")
    own.save_pretrained(tmp_path / "own")
    taught.save_pretrained(tmp_path / "other")
    rows = "\n".join(
        f'{{"messages": [{{"role": "user", "content": "Say {n}"}}, {{"role": "assistant", "content": "It is {n}."}}]}}'
        for n in range(8)
    )
    (tmp_path / "rows.jsonl").write_text(rows)
    text = (
        f"merge_method: passthrough\nmodels: [{{model: {tmp_path / 'own'}}}]\n---\ntrain: gold\n"
        f"teacher: {tmp_path / 'other'}\ndatasets: [{{path: rows.jsonl}}]\nevaluate: {{texts: english}}\n"
        "arguments: {max_steps: 3, per_device_train_batch_size: 8, max_length: 64, lora_r: 4, learning_rate: 0.01, "
        "warmup_steps: 0}\n"
    )

    plan = plan_training(text, folder=tmp_path)
    assert plan.ok, plan.problems
    found = run_training(plan, str(tmp_path / "out"), keep=True)

    assert found.losses[-1] < found.losses[0]
