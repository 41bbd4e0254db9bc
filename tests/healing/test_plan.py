"""What is known of a training run before it starts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints.problems import Place
from healing import plan_training
from healing.command_line import CANNOT_BE_TRAINED, DONE, main
from healing.plan import layer_pairs
from merging import make_plan, read_recipe, stack_recipe
from tests.evaluation.conftest import make_network, make_tokenizer
from tests.hub.hub import Hub


def test_a_plan_knows_layers_tokens_and_costs(chain: str, tmp_path: Path, parent: Path) -> None:
    plan = plan_training(chain, folder=tmp_path)

    assert plan.problems == ()
    assert plan.teacher == str(parent)
    assert plan.pairs == ((0, 0), (1, 1), (2, 4))
    summary = plan.summary()
    assert summary["tokens"] == 6 * 2 * 32
    assert 0 < summary["memory_bytes"] < 2e9
    assert summary["seconds"] > 0
    assert json.dumps(summary)


@given(runs=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=4))
@settings(max_examples=10, deadline=None)
def test_pairs_name_the_last_layer_made_of_each(runs: list[tuple[int, int]], parent: Path) -> None:
    ranges = [[first, min(first + count, 5)] for first, count in runs]
    slices = [{"sources": [{"model": str(parent), "layer_range": one}]} for one in ranges]
    sources = [layer for first, end in ranges for layer in range(first, end)]

    pairs = layer_pairs(
        make_plan(read_recipe(json.dumps({"merge_method": "passthrough", "slices": slices}))), str(parent)
    )

    assert dict(pairs) == {
        layer: source for layer, source in enumerate(sources) if source not in sources[layer + 1 :]
    }
    assert layer_pairs(make_plan(read_recipe(stack_recipe(str(parent), [1]))), "another") == ()


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("evaluate:", "top_k: 2000\nevaluate:", "top-k-too-large"),
        ("path: text.txt", "path: english", "trained-on-judged"),
        ("path: text.txt", "path: nothing.txt", "text-unreadable"),
        ("path: text.txt", "path: HAERAE-HUB/KMMLU", "trained-on-benchmark"),
        ("texts: english", "texts: text.txt", "trained-on-judged"),
        ("lora_r: 4", "lora_r: 40", "rank-too-large"),
        ("max_length: 32", "max_length: 320000", "training-text-short"),
        ("train: distillation", "train: distillation\nteacher: /nowhere", None),
        ("max_length: 32", "max_length: 129", "training-beyond-context"),
        ("layer_range: [0, 2]", "layer_range: [0, 9]", "layer-range"),
    ],
)
def test_problems_are_known_before_a_model_is_loaded(
    old: str, new: str, code: str | None, chain: str, tmp_path: Path
) -> None:
    assert old in chain

    plan = plan_training(chain.replace(old, new), folder=tmp_path)

    assert not plan.ok
    assert code is None or plan.problems[0].code == code
    assert all(problem.message for problem in plan.problems)
    if code in ("rank-too-large", "training-beyond-context", "top-k-too-large"):
        assert isinstance(plan.problems[0].where, Place)


def test_a_default_length_is_one_that_the_model_can_read(chain: str, tmp_path: Path) -> None:
    plan = plan_training(chain.replace("max_length: 32, ", ""), folder=tmp_path)

    assert plan.problems == ()
    assert plan.training.arguments.max_length == 128


def test_memory_that_is_not_there_is_said_with_both_numbers(chain: str, tmp_path: Path) -> None:
    plan = plan_training(chain, folder=tmp_path, memory=500_000_000)

    [problem] = plan.problems
    assert problem.code == "training-too-large"
    assert "0.5 GB are free" in problem.message


def test_a_teacher_of_another_vocabulary_is_refused(chain: str, tmp_path: Path) -> None:
    make_network(vocab_size=500).save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")

    plan = plan_training(f"{chain}teacher: {tmp_path / 'other'}\n", folder=tmp_path)

    [problem] = plan.problems
    assert problem.code == "teacher-vocabulary"
    assert problem.values["rows"] == 500


def test_two_parents_need_a_teacher_to_be_named(parent: Path, tmp_path: Path) -> None:
    make_network(seed=1, num_hidden_layers=5).save_pretrained(tmp_path / "other")
    (tmp_path / "text.txt").write_text("Words to learn. " * 40)
    models = [{"model": str(parent)}, {"model": str(tmp_path / "other")}]
    recipe = {"merge_method": "linear", "parameters": {"weight": 0.5}, "models": models}
    training = {
        "train": "distillation",
        "datasets": [{"path": "text.txt"}],
        "arguments": {"max_length": 32, "lora_r": 4},
    }
    chain = yaml.safe_dump_all([recipe, training])

    assert plan_training(chain, folder=tmp_path).problems[0].code == "no-teacher"
    assert plan_training(f"{chain}teacher: {parent}\n", folder=tmp_path).ok


def test_the_command_shows_the_plan(chain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "heal.yaml"
    path.write_text(chain)

    assert main(["plan", str(path)]) == DONE
    assert "steps         6, up to 384 tokens" in capsys.readouterr().out
    assert main(["plan", str(path), "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["ok"]
    path.write_text(chain.replace("train: distillation", "train: magic"))
    assert main(["plan", str(path)]) == CANNOT_BE_TRAINED
    assert "line 10" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["distillation", "sft", "dpo", "orpo"])
def test_texts_of_one_token_are_refused(kind: str, chain: str, tmp_path: Path) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c"} if kind in ("dpo", "orpo") else {"text": "a"}
    (tmp_path / "rows.jsonl").write_text("\n".join([json.dumps(row)] * 500))
    text = chain.replace("train: distillation", f"train: {kind}").replace("text.txt", "rows.jsonl")

    [problem] = plan_training(text, folder=tmp_path).problems

    assert problem.code == "training-texts-tiny"


def test_the_plan_states_what_a_run_costs_here_and_on_rented_machines(
    hub: Hub, chain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "heal.yaml"
    path.write_text(chain)

    assert main(["plan", str(path)]) == DONE
    said = capsys.readouterr().out
    assert "price         nothing on this machine" in said
    assert re.search(r"rented        cpu-upgrade \(.+\): about \d+ minutes with its start, \$\d+\.\d\d", said)
    assert main(["plan", str(path), "--json"]) == DONE
    prices = json.loads(capsys.readouterr().out)["prices"]
    assert [one["dollars"] for one in prices] == sorted(one["dollars"] for one in prices)
    assert {"machine", "title", "seconds", "dollars"} == prices[0].keys()
    hub.fault("GET", "/api/jobs/hardware", status=503, times=None)
    assert main(["plan", str(path), "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["prices"] == []
