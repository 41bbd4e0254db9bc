"""Merges of models under adapters: what is planned, the same bytes everywhere, and a result that needs nobody."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, VeloraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from checkpoints.problems import Place
from evaluation import check_independence
from examples.models import BASE, model_folder, repository
from merging import CheckpointError, Plan, make_plan, read_recipe, run_plan
from merging.__main__ import main
from merging.result_card import model_card
from tests import ROOT
from tests.hub import Hub
from tests.merges import merged, weight_files, weights
from tests.tiny import tiny_llama

TARGETS = ["q_proj", "down_proj"]


def adapter(base: Path, folder: Path, seed: int, **more: Any) -> Path:
    """A LoRA adapter of random numbers; returns its folder."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(**{"r": 4, "target_modules": TARGETS, **more}))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.05)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters of `base`, the second one DoRA with a tokenizer of its own."""
    place = tmp_path_factory.mktemp("adapters")
    adapter(folder / "base", place / "one", 1)
    adapter(folder / "base", place / "two", 2, use_dora=True)
    (place / "two/tokenizer.json").write_text('{"version": "of two"}')
    (place / "two/tokenizer_config.json").write_text('{"chat_template": "two", "name_or_path": "/secret"}')
    return place


def alone(model: str, **more: Any) -> str:
    return yaml.safe_dump({"merge_method": "passthrough", "models": [{"model": model}], **more})


def codes(plan: Plan) -> list[str]:
    return [problem.code for problem in plan.problems]


def with_peft(base: Path, lora: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return dict(PeftModel.from_pretrained(model, lora).merge_and_unload().state_dict())


def test_base_and_adapter_alone_make_a_model_in_the_dtype_of_the_base(
    folder: Path, adapters: Path, tmp_path: Path
) -> None:
    merged(alone(f"{folder}/base+{adapters}/one"), tmp_path / "out", 10**9)

    ours, base = load_file(tmp_path / "out/model.safetensors"), load_file(folder / "base/model.safetensors")
    exact = with_peft(folder / "base", adapters / "one")
    assert ours.keys() == base.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == torch.bfloat16
        if name.split(".")[-2] in TARGETS:
            assert not torch.equal(tensor, base[name])
            # Rounded once: a number that lies between two may fall to either side by the last bit of float32.
            assert (tensor != exact[name].bfloat16()).sum() <= 1
        else:
            assert torch.equal(tensor, base[name])


@pytest.mark.parametrize("how", ["mica", "velora"])
def test_ways_to_train_that_end_in_plain_factors(how: str, folder: Path, tmp_path: Path) -> None:
    """What only the training differs in is merged as any LoRA, and as PEFT merges it."""
    ways = {"mica": {"init_lora_weights": "mica"}, "velora": {"velora_config": VeloraConfig()}}
    lora = adapter(folder / "base", tmp_path / "lora", 3, **ways[how])
    merged(alone(f"{folder}/base+{lora}", dtype="float32"), tmp_path / "out", 10**9)

    ours, exact = load_file(tmp_path / "out/model.safetensors"), with_peft(folder / "base", lora)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, exact[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["one", "two"])
def test_another_dtype_is_as_exact_as_it_can_be(
    name: str, folder: Path, adapters: Path, tmp_path: Path
) -> None:
    merged(alone(f"{folder}/base+{adapters}/{name}", dtype="float32"), tmp_path / "out", 10**9)

    exact = with_peft(folder / "base", adapters / name)
    for key, tensor in load_file(tmp_path / "out/model.safetensors").items():
        torch.testing.assert_close(tensor, exact[key], atol=1e-7, rtol=1e-6)


def mixed(base: str, one: str, two: str, method: str = "ties") -> str:
    models = [{"model": f"{base}+{one}"}, {"model": {"model": base, "adapters": [two, one]}}]
    parameters = {"weight": 0.6, **({"density": 0.4} if method == "ties" else {})}
    recipe = {"merge_method": method, "base_model": base, "models": models, "parameters": parameters}
    return yaml.safe_dump(recipe)


def test_the_bytes_are_the_same_from_a_folder_and_from_the_hub_with_any_workers_and_blocks(
    folder: Path, adapters: Path, alice: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        hub.put(f"alice/{name}", adapters / name, private=True)
    text = mixed(f"{folder}/base", f"{adapters}/one", f"{adapters}/two")
    merged(text, tmp_path / "first", workers=1)
    expected = weight_files(tmp_path / "first")

    merged(mixed("alice/base", "alice/one", "alice/two"), "hf://alice/out", token=alice, workers=2)
    assert weights(hub, "alice/out") == expected
    monkeypatch.setattr("merging.engine.workspace.BLOCK", 1000)
    monkeypatch.setattr("merging.engine.prefetch.WINDOW", 7000)
    merged(text, tmp_path / "second", workers=3)
    assert weight_files(tmp_path / "second") == expected


def test_a_plan_names_the_adapter_and_counts_its_bytes(folder: Path, adapters: Path) -> None:
    plain = make_plan(read_recipe(alone(f"{folder}/base")))
    plan = make_plan(read_recipe(alone(f"{folder}/base+{adapters}/one")))

    assert plan.ok and Plan.from_json(plan.to_json()) == plan
    [model] = plan.models
    assert [(part.name, part.scale, part.is_folder) for part in model.adapters] == [
        (f"{adapters}/one", 1.0, True)
    ]
    assert model.bytes == plain.models[0].bytes
    factors = sum(t.numel() * 4 for t in load_file(adapters / "one/adapter_model.safetensors").values())
    assert plan.bytes_in == plain.bytes_in + factors
    assert plan.bytes_out == plain.bytes_out
    assert plan.peak_memory_bytes > plain.peak_memory_bytes
    assert plan.summary()["models"][0]["adapters"][0]["commit"] is None
    assert plan.fingerprint != plain.fingerprint
    assert {tensor.dtype for tensor in plan.tensors} == {"BF16"}
    assert all((t.copied_from is None) == (t.name.split(".")[-2] in TARGETS) for t in plan.tensors)


def test_the_card_names_base_and_adapter(folder: Path, adapters: Path, alice: str, hub: Hub) -> None:
    hub.put("alice/one", adapters / "one", private=True)
    plan = make_plan(read_recipe(alone("alice/base+alice/one")), token=alice)

    card = model_card(plan, "out")

    assert "base_model:\n- alice/base\n- alice/one\n" in card
    assert "A model with its adapter merged into it with" in card
    commit = plan.models[0].adapters[0].commit
    assert f"| with the adapter [alice/one](https://huggingface.co/alice/one) | `{commit}` |" in card


def test_shards_without_a_change_are_copied_on_the_hub(
    folder: Path, adapters: Path, alice: str, hub: Hub, tmp_path: Path
) -> None:
    hub.put("alice/one", adapter(folder / "base", tmp_path / "lora", 5, layers_to_transform=[0]))
    merged(alone(f"{folder}/base"), tmp_path / "cut")
    hub.put("alice/cut", tmp_path / "cut")

    plan = make_plan(read_recipe(alone("alice/cut+alice/one")), token=alice, shard_size=150_000)

    assert {shard.copy_of is None for shard in plan.shards} == {True, False}
    assert all(
        shard.copy_of is None or all(t.copied_from is not None for t in shard.tensors)
        for shard in plan.shards
    )


def test_tokenizer_and_template_come_from_the_adapter_that_brings_them(
    folder: Path, adapters: Path, tmp_path: Path
) -> None:
    merged(alone(f"{folder}/base+{adapters}/two"), tmp_path / "two")
    merged(alone(f"{folder}/base+{adapters}/one"), tmp_path / "one")

    assert json.loads((tmp_path / "two/tokenizer.json").read_text()) == {"version": "of two"}
    assert json.loads((tmp_path / "two/tokenizer_config.json").read_text()) == {"chat_template": "two"}
    assert (tmp_path / "one/tokenizer.json").read_text() == "{}"


def test_of_two_tokenizers_no_mixture_is_made(folder: Path, adapters: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "base", tmp_path / "base")
    for file in ("vocab.json", "special_tokens_map.json", "chat_template.jinja"):
        (tmp_path / "base" / file).write_text("{}")

    plan = make_plan(read_recipe(alone(f"{tmp_path}/base+{adapters}/two")))

    assert {*plan.copied_files, *plan.files} == {
        "config.json",
        "generation_config.json",
        "mergekit_config.yml",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_a_template_in_the_bases_tokenizer_config_is_kept(
    folder: Path, adapters: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "base", tmp_path / "base")
    shutil.copytree(adapters / "two", tmp_path / "two")
    (tmp_path / "base/tokenizer_config.json").write_text('{"chat_template": "of the base", "a": 1}')
    (tmp_path / "two/tokenizer_config.json").write_text('{"b": 2}')

    plan = make_plan(read_recipe(alone(f"{tmp_path}/base+{tmp_path}/two")))

    assert json.loads(plan.files["tokenizer_config.json"]) == {"b": 2, "chat_template": "of the base"}


def test_a_plan_warns_where_an_adapter_names_another_base(
    folder: Path, alice: str, hub: Hub, tmp_path: Path
) -> None:
    for name in ("base", "other"):
        option(adapter(folder / "base", tmp_path / name, 1), base_model_name_or_path=f"alice/{name}")
        hub.put(f"alice/lora-of-{name}", tmp_path / name)

    texts = [alone(f"alice/base+alice/lora-of-{name}") for name in ("base", "other")]
    right, wrong = (make_plan(read_recipe(text), token=alice) for text in texts)

    assert right.ok and wrong.ok
    assert [warning.code for warning in right.warnings] == []
    assert [warning.code for warning in wrong.warnings] == ["other-base"]


def test_an_adapter_that_changed_after_the_plan_is_not_used(folder: Path, tmp_path: Path) -> None:
    adapter(folder / "base", tmp_path / "lora", 3)
    plan = make_plan(read_recipe(alone(f"{folder}/base+{tmp_path}/lora")))
    adapter(folder / "base", tmp_path / "lora", 4)

    with pytest.raises(CheckpointError, match="lora has changed since the plan was made"):
        run_plan(plan, str(tmp_path / "out"))


BAD: dict[str, tuple[Any, str, str]] = {
    "no config": (
        lambda f: (f / "adapter_config.json").unlink(),
        "no-adapter-config",
        "has no adapter_config",
    ),
    "no weights": (
        lambda f: (f / "adapter_model.safetensors").unlink(),
        "adapter-without-weights",
        "has no adapter_model",
    ),
    "a kind that is no LoRA": (lambda f: option(f, peft_type="VERA"), "adapter-kind", "of the kind VERA"),
    "BOFT": (lambda f: option(f, peft_type="BOFT"), "adapter-kind", "merge_and_unload"),
    "PiSSA": (
        lambda f: option(f, init_lora_weights="pissa_niter_4"),
        "adapter-changes-base",
        "weights of its base",
    ),
    "aLoRA": (
        lambda f: option(f, alora_invocation_tokens=[1]),
        "adapter-never-merges",
        "alora_invocation_tokens",
    ),
    "Arrow": (lambda f: option(f, arrow_config={"top_k": 2}), "adapter-never-merges", "by PEFT neither"),
    "replicated layers": (
        lambda f: option(f, layer_replication=[[0, 2]]),
        "adapter-never-merges",
        "beside the result",
    ),
    "a prompt": (lambda f: option(f, peft_type="PROMPT_TUNING"), "adapter-never-merges", "(PROMPT_TUNING)"),
    "a prefix of a later kind": (
        lambda f: option(f, peft_type="NEW", num_virtual_tokens=8),
        "adapter-never-merges",
        "num_virtual_tokens",
    ),
    "QALoRA": (lambda f: option(f, use_qalora=True), "adapter-options", "use_qalora"),
    "a wild pattern": (lambda f: option(f, alpha_pattern={"(a+)+$": 1}), "adapter-pattern", "wildcard"),
    "a damaged config": (
        lambda f: (f / "adapter_config.json").write_text("[]"),
        "damaged-adapter-config",
        "not a mapping",
    ),
    "one factor": (lambda f: drop(f, "lora_B"), "adapter-factor", "only one factor"),
    "damaged weights": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 50),
        "header-length",
        "header",
    ),
    "other names": (lambda f: rename(f, "q_proj", "query"), "adapter-modules", "self_attn.query"),
}


def option(folder: Path, **changes: Any) -> None:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))


def drop(folder: Path, word: str) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({name: t for name, t in load_file(file).items() if word not in name}, file)


def rename(folder: Path, old: str, new: str) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({name.replace(old, new): tensor for name, tensor in load_file(file).items()}, file)


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_applied_is_a_problem_with_its_place_and_the_way_out(
    case: str, folder: Path, tmp_path: Path
) -> None:
    adapter(folder / "base", tmp_path / "lora", 1)
    damage, code, said = BAD[case]
    damage(tmp_path / "lora")

    [problem] = make_plan(
        read_recipe(f"merge_method: passthrough\nmodels:\n- model: {folder}/base+{tmp_path}/lora")
    ).problems

    assert (problem.code, problem.where) == (code, Place(3, 10))
    assert said in str(problem)
    assert problem.fix


def test_an_adapter_for_another_base_is_refused_with_the_names(tmp_path: Path, folder: Path) -> None:
    tiny_llama(tmp_path / "wide", 0, intermediate_size=160, num_hidden_layers=5)
    adapter(tmp_path / "wide", tmp_path / "lora", 1)

    problems = make_plan(read_recipe(alone(f"{folder}/base+{tmp_path}/lora"))).problems

    assert [problem.code for problem in problems] == ["adapter-modules", "adapter-misfit"]
    missing, misfits = map(str, problems)
    assert "model.layers.4." in missing
    assert "mlp.down_proj takes 160 to 64 numbers, the base's is [64, 128]" in misfits
    assert f"trained on {tmp_path}/wide" in missing


def test_rows_for_tokens_that_nobody_has_are_refused(tmp_path: Path, folder: Path) -> None:
    adapter(folder / "base", tmp_path / "lora", 1, trainable_token_indices=[3, 4])
    option(tmp_path / "lora", trainable_token_indices={"embed_tokens": [3, 270]})

    [problem] = make_plan(read_recipe(alone(f"{folder}/base+{tmp_path}/lora"))).problems

    assert problem.code == "adapter-rows"
    assert (
        "token 270, the base has 256 tokens, and no model has rows for the 14 tokens between"
        in problem.message
    )


def test_problems_on_the_hub(folder: Path, adapters: Path, alice: str, hub: Hub) -> None:
    hub.add_user("bob")
    hub.put("bob/closed", folder / "base", gated="auto")
    hub.put("bob/lora", adapters / "one", gated="auto")
    hub.put("alice/one", adapters / "one")
    text = "merge_method: linear\nparameters: {weight: 1}\nmodels:\n"
    for model in ("base+alice/none", "one", "base+alice/a", "base+bob/lora"):
        text += f"- model: alice/{model}\n"
    text += "- model: bob/closed+alice/one\n"

    problems = make_plan(read_recipe(text), token=alice).problems

    assert [(p.code, p.where) for p in problems] == [
        ("model-not-found", Place(4, 10)),
        ("adapter", Place(5, 10)),
        ("adapter-is-model", Place(6, 10)),
        ("gated", Place(7, 10)),
        ("gated", Place(8, 10)),
    ]
    assert "+alice/one`" in problems[1].fix
    assert "a whole model" in problems[2].fix
    for problem, closed in zip(problems[3:], ("bob/lora", "bob/closed"), strict=True):
        assert problem.message.startswith(f"{closed} is gated")
        assert problem.fix.startswith("Accept its terms on http") and f"/{closed} and sign in" in problem.fix


def test_the_command_line_applies_and_extracts_in_processes_of_its_own(
    folder: Path, adapters: Path, tmp_path: Path
) -> None:
    """It imports torch in a short way, which has to be enough, and merges in forked workers."""
    merged(alone(f"{folder}/base+{adapters}/one"), tmp_path / "here", 10**9)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(alone(f"{folder}/base+{adapters}/one"))
    extract = ["extract-lora", f"{tmp_path}/out", "--base", f"{folder}/base", "--rank", "2"]

    for arguments in (["run", str(recipe)], extract):
        to = str(tmp_path / ("out" if arguments[0] == "run" else "lora"))
        done = subprocess.run(
            [sys.executable, "-m", "merging", *arguments, "--to", to],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    name = "model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert " 8 matrices" in done.stdout


@pytest.mark.real_models
def test_the_demos_sibling_is_its_base_and_its_adapter_and_needs_neither(tmp_path: Path) -> None:
    sibling, lora = model_folder("SmolLM2-135M-Korean"), tmp_path / "lora"
    lora.mkdir()
    for name, path in repository("SmolLM2-135M-Korean-LoRA").items():
        shutil.copy(path, lora / name)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(alone(f"{model_folder(BASE)}+{lora}"))

    assert main(["run", str(recipe), "--to", str(tmp_path / "out")]) == 0

    shutil.rmtree(lora)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", sibling))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name] != tensor).sum() <= 2, name
    found = check_independence(tmp_path / "out", parents=[str(lora), str(model_folder(BASE))])
    assert found.findings == ()
    assert found.answer
