"""Losses by TRL: the steps that are taken here are those of TRL's own trainers, and bad rows are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

import healing.plan
from checkpoints.problems import Place
from evaluation import EvaluationError, load_model
from healing import HealPlan, plan_training
from healing.as_trl import as_trl_config
from healing.command_line import DONE, main
from healing.preferences import margins, preferred
from healing.run import in_memory
from healing.settings import Arguments, read_training
from healing.training import State, Trainer, learning_rate, trained
from healing.trl_loss import _MAKERS, trl_loss
from healing.weights import prepare
from tests.evaluation.conftest import make_network, make_tokenizer

ROWS: dict[str, list[dict[str, Any]]] = {
    "sft": [{"prompt": f"How many are {n}?", "completion": f" There are {n} ships."} for n in range(4)],
    "dpo": [{"prompt": f"How many are {n}?", "chosen": f" {n} ships.", "rejected": " None."} for n in range(4)],
}  # fmt: skip
ROWS["orpo"] = ROWS["dpo"]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
Planned = Callable[..., HealPlan]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a chat template."""
    folder = tmp_path_factory.mktemp("models") / "talker"
    make_network(num_hidden_layers=2).save_pretrained(folder)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def planned(model: Path, tmp_path: Path) -> Planned:
    """Plans the training of a copy of the model on rows."""

    def plan(kind: str, rows: list[dict[str, Any]], more: str = "", loss: str = "") -> HealPlan:
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        text = (
            f"merge_method: passthrough\nmodels: [{{model: {model}}}]\n---\ntrain: {kind}\n"
            "datasets: [{path: rows.jsonl}]\nevaluate: {texts: english}\n"
            f"arguments: {{max_steps: 3, per_device_train_batch_size: 4, max_length: 64, lora_r: 4, "
            f"learning_rate: 0.01, warmup_steps: 1{loss}}}\n{more}"
        )
        return plan_training(text, folder=tmp_path)

    return plan


def trainer_of(plan: HealPlan, model: Path, folder: Path) -> Trainer:
    loaded = load_model(model, device="cpu")
    student = in_memory("student", plan.merge, loaded.tokenizer, "cpu", "float32")
    network = prepare(student, plan)
    loss = trl_loss(plan.training, student, network, plan.rows, folder)
    return Trainer(
        "student", network, loss, plan.training.arguments, plan.key, State(folder / "state.safetensors")
    )


def trls_own(plan: HealPlan, model: Path, folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights after TRL's own training of the same rows with the same rates."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    trainer, config = {
        "sft": (SFTTrainer, SFTConfig),
        "dpo": (DPOTrainer, DPOConfig),
        "orpo": (ORPOTrainer, ORPOConfig),
    }[plan.training.kind.name]
    given, loaded = plan.training.arguments, load_model(model, device="cpu")
    student = in_memory("student", plan.merge, loaded.tokenizer, "cpu", "float32")
    network = prepare(student, plan)
    optimizer = torch.optim.AdamW(trained(network).values(), lr=1.0, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(given, step))
    arguments = config(
        output_dir=str(folder / "theirs"), max_steps=given.max_steps, max_length=given.max_length,
        per_device_train_batch_size=given.per_device_train_batch_size, logging_steps=1, report_to="none",
        use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no", disable_tqdm=True,
        **plan.training.loss,
    )  # fmt: skip
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = Dataset.from_list([dict(row) for row in plan.rows])
    made = trainer(
        model=network, args=arguments, processing_class=tokenizer, train_dataset=rows,
        optimizers=(optimizer, schedule),
    )  # fmt: skip
    made.train()
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    return losses, trained(network)


@pytest.mark.parametrize(("kind", "loss"), [("sft", ""), ("dpo", ", beta: 0.3"), ("orpo", ", beta: 0.2")])
def test_steps_are_those_of_trls_own_trainer(
    kind: str, loss: str, planned: Planned, model: Path, tmp_path: Path
) -> None:
    plan = planned(kind, ROWS[kind], loss=loss)
    assert plan.ok, plan.problems

    trainer = trainer_of(plan, model, tmp_path)
    trainer.train()
    losses, theirs = trls_own(plan, model, tmp_path)

    assert trainer.losses == pytest.approx(losses, abs=2e-4)
    ours = trained(trainer.network)
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-3, atol=1e-4)


def test_dpo_begins_at_log_2_and_a_chosen_answer_becomes_likelier(
    planned: Planned, model: Path, tmp_path: Path
) -> None:
    plan = planned("dpo", ROWS["dpo"])
    trainer = trainer_of(plan, model, tmp_path)

    trainer.train()

    assert trainer.losses[0] == pytest.approx(0.6931, abs=1e-4)  # -log sigmoid 0
    assert trainer.losses[-1] < trainer.losses[0]


def test_margins_are_sums_of_log_probabilities(model: Path) -> None:
    loaded = load_model(model, device="cpu")
    pair = {"prompt": "One two", "chosen": " three four", "rejected": " five"}

    [found] = margins(loaded, [pair], 64)

    def likelihood(answer: str) -> float:
        ids = loaded.tokenizer("One two" + answer, add_special_tokens=False)["input_ids"]
        begun = len(loaded.tokenizer("One two", add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            logits = loaded.network(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(logits[at - 1, ids[at]]) for at in range(begun, len(ids)))

    assert found == pytest.approx(likelihood(" three four") - likelihood(" five"), abs=1e-4)


def test_preferences_have_a_paired_interval() -> None:
    before = [-1.0, 1.0, -2.0, 0.5, -0.5, 2.0]

    found = preferred(before, [margin + 1 for margin in before])

    assert (found.pairs, found.before, found.after) == (6, 0.5, pytest.approx(4 / 6))
    assert found.gain == pytest.approx(1)
    assert found.is_better
    assert not preferred(before, before).is_better
    assert preferred(before[:3], before[:3]).interval is None


def test_preferences_are_judged_on_pairs_that_were_held_out(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": f"Question {n} about item{n} and thing{n} of {n * 7}?"}],
         "chosen": [{"role": "assistant", "content": f"Yes, number {n} it is, by all of {n * 3} means."}],
         "rejected": [{"role": "assistant", "content": f"No {n}."}]}
        for n in range(60)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = tmp_path / "dpo.yaml"
    path.write_text(
        f"merge_method: passthrough\nmodels: [{{model: {model}}}]\n---\ntrain: dpo\n"
        "datasets: [{path: rows.jsonl}]\n"
        "arguments: {max_steps: 4, per_device_train_batch_size: 4, max_length: 64, lora_r: 4, learning_rate: 0.01}\n"
    )

    assert main(["run", str(path), "--to", str(tmp_path / "out"), "--json", "--keep"]) == DONE

    found = json.loads(capsys.readouterr().out)
    assert found["preferred"]["pairs"] == 6
    assert found["preferred"]["after"] >= found["preferred"]["before"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pairs of answers that were held out" in card


TEXTS = [{"text": f"There are {n} ships in the harbour."} for n in range(4)]


@pytest.mark.parametrize(
    ("rows", "loss"),
    [(ROWS["sft"], "assistant_only_loss: true"), (TEXTS, "completion_only_loss: true")],
)
def test_a_loss_that_the_rows_do_not_have_is_known_before(
    rows: list[dict[str, Any]], loss: str, planned: Planned
) -> None:
    [problem] = planned("sft", rows, loss=f", {loss}").problems

    assert problem.code == "rows-without-columns"
    assert isinstance(problem.where, Place)


def test_what_trl_refuses_is_said(
    planned: Planned, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("not\nthese rows")

    monkeypatch.setitem(_MAKERS, "sft", refuse)

    with pytest.raises(EvaluationError, match="TRL refuses the rows or the arguments: not these rows"):
        trainer_of(planned("sft", TEXTS), model, tmp_path)


def test_without_trl_the_plan_says_what_to_install(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing.plan, "find_spec", lambda _: None)

    [problem] = planned("sft", TEXTS).problems

    assert problem.code == "no-trl"


def test_rows_that_are_cut_are_a_warning(planned: Planned) -> None:
    long = [*TEXTS, {"text": "One more ship. " * 40}]

    [warning] = planned("sft", long).warnings

    assert warning.code == "rows-cut"
    assert (warning.values["count"], warning.values["rows"]) == (1, 5)
    assert planned("sft", TEXTS).warnings == ()


def test_conversations_need_a_chat_template_before_a_model_is_loaded(
    planned: Planned, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "silent")
    tokenizer = make_tokenizer(template=None)
    (tmp_path / "silent" / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(tmp_path / "silent")
    rows = [
        {"messages": [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Ho there"}]}
    ]
    text = planned("sft", rows).training.text.replace(str(model), str(tmp_path / "silent"))

    [problem] = plan_training(text, folder=tmp_path).problems

    assert problem.code == "rows-without-template"


def test_conversations_need_a_chat_template(planned: Planned, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}]
    plan = planned("sft", rows)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    student = in_memory("student", plan.merge, tokenizer, "cpu", "float32")

    with pytest.raises(EvaluationError, match="no chat template"):
        trl_loss(plan.training, student, student.network, rows, tmp_path)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_trls_command_line_reads_what_is_printed_for_it(kind: str, tmp_path: Path) -> None:
    from trl import ModelConfig, ScriptArguments, TrlParser
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.sft_config import SFTConfig

    text = (
        f"merge_method: passthrough\nmodels: [{{model: org/one}}]\n---\ntrain: {kind}\n"
        "datasets: [{path: rows.jsonl}]\narguments: {max_steps: 7, lora_r: 3}\n"
    )
    path = tmp_path / "trl.yaml"
    path.write_text(as_trl_config(read_training(text)))
    config = {"sft": SFTConfig, "dpo": DPOConfig}[kind]

    _, arguments, model = TrlParser((ScriptArguments, config, ModelConfig)).parse_args_and_config(
        ["--config", str(path), "--bf16", "false", "--use_cpu", "true"], fail_with_unknown_args=False
    )[:3]

    assert (arguments.max_steps, model.lora_r, model.use_peft) == (7, 3, True)
    assert arguments.learning_rate == Arguments().learning_rate
