"""Files beside config and weights: data goes along, code only from beside the config, and what does not is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from merging import Plan, make_plan, read_recipe, run_plan
from tests.hub import Hub
from tests.tiny import tiny_llama

DATA = (
    "tekken.json",
    "tiktoken.model",
    "spm.model",
    "qwen.tiktoken",
    "source.spm",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
CODE = {
    "modeling_mine.py": (
        "from transformers import LlamaForCausalLM\nfrom .configuration_mine import MineConfig\n"
        "from .parts_mine import NOTHING\nclass Mine(LlamaForCausalLM):\n    config_class = MineConfig\n"
    ),
    "configuration_mine.py": (
        "from transformers import LlamaConfig\nclass MineConfig(LlamaConfig):\n    model_type = 'mine'\n"
    ),
    "parts_mine.py": "NOTHING = 0\n",
    "train.py": "raise SystemExit\n",
}
OWN = {
    "model_type": "mine",
    "architectures": ["Mine"],
    "auto_map": {
        "AutoConfig": "configuration_mine.MineConfig",
        "AutoModelForCausalLM": "modeling_mine.Mine",
    },
}


def model(path: Path, files: dict[str, str], **config: Any) -> Path:
    tiny_llama(path, len(path.name))
    for name, text in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(text)
    changed = json.loads((path / "config.json").read_text()) | config
    (path / "config.json").write_text(json.dumps(changed))
    return path


def plan_of(*models: Path | str, **options: Any) -> Plan:
    recipe = {
        "merge_method": "linear",
        "parameters": {"weight": 1},
        "models": [{"model": str(m)} for m in models],
    }
    plan = make_plan(read_recipe(yaml.safe_dump(recipe)), **options)
    assert plan.problems == ()
    return plan


def codes(plan: Plan) -> set[str]:
    usual = {"no-generation-config", "result-without-tokenizer"}
    return {warning.code for warning in plan.warnings} - usual


def test_data_goes_along(tmp_path: Path) -> None:
    files = dict.fromkeys(DATA, "{}") | {"notes.json": "{}", "training_args.bin": "x"}
    plan = plan_of(model(tmp_path / "a", files), model(tmp_path / "b", {}))

    assert plan.copied_files == dict.fromkeys(DATA, 0)
    assert codes(plan) == set()


def test_processors_come_from_the_donor_and_the_tokenizer_from_its_model(tmp_path: Path) -> None:
    one = model(tmp_path / "a", {"preprocessor_config.json": "{}", "tekken.json": "{}"})
    plan = plan_of(one, model(tmp_path / "b", {"preprocessor_config.json": "{}", "spm.model": "x"}))

    assert plan.copied_files == {"preprocessor_config.json": 0, "tekken.json": 0}


def test_what_is_no_data_is_named_and_weights_are_not_merged(tmp_path: Path) -> None:
    one = model(tmp_path / "a", {"2_Dense/config.json": "{}", "3_Other/pytorch_model.bin": "x"})
    save_file({"linear.weight": torch.ones(2, 2)}, one / "2_Dense" / "model.safetensors")
    plan = plan_of(one, model(tmp_path / "b", {}))

    assert set(plan.copied_files) == {"2_Dense/config.json", "2_Dense/model.safetensors"}
    said = {
        warning.code: warning.values["files"]["first"]
        for warning in plan.warnings
        if "files" in warning.values
    }
    assert said == {"left-behind": ["3_Other/pytorch_model.bin"], "not-merged": ["2_Dense/model.safetensors"]}


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        ({"tokenizer_config.json": "{}"}, True),
        ({"tokenizer_config.json": '{"tokenizer_class": "LlamaTokenizer"}', "added_tokens.json": "{}"}, True),
        ({"tokenizer_config.json": '{"tokenizer_class": "ByT5Tokenizer"}'}, False),
        ({"tokenizer_config.json": "{}", "tekken.json": "{}"}, False),
        ({"spm.model": "x"}, False),
    ],
)
def test_settings_alone_are_no_tokenizer(files: dict[str, str], lacks: bool, tmp_path: Path) -> None:
    plan = plan_of(model(tmp_path / "a", files), model(tmp_path / "b", {}))

    assert ("result-without-tokenizer" in {warning.code for warning in plan.warnings}) == lacks


def test_code_beside_the_config_goes_along(tmp_path: Path) -> None:
    """With what it imports, and with nothing else; the result then loads where that is allowed."""
    one, other = (model(tmp_path / name, CODE, **OWN) for name in "ab")
    plan = plan_of(one, other)
    to = tmp_path / "out"
    run_plan(plan, str(to))

    [said] = [warning for warning in plan.warnings if warning.code == "code-copied"]
    assert said.values["files"] == ["configuration_mine.py", "modeling_mine.py", "parts_mine.py"]
    assert {file.name for file in to.glob("*.py")} == set(said.values["files"])
    assert json.loads((to / "config.json").read_text())["auto_map"] == OWN["auto_map"]
    own = get_class_from_dynamic_module("modeling_mine.Mine", str(to))
    own.from_pretrained(to)


FOREIGN = {
    "AutoConfig": "eve/code--config_eve.Eve",
    "AutoModel": "eve/code--modeling_eve.Eve",
    "AutoOther": "x",
}


def test_kernels_elsewhere_are_not_named(tmp_path: Path) -> None:
    """transformers loads compiled code from a repository that a config names for attention."""
    one = model(
        tmp_path / "a", {}, attn_implementation="eve/kernel", part={"experts_implementation": "eve/more@v1:f"}
    )
    plan = plan_of(one, model(tmp_path / "b", {}, attn_implementation="sdpa"))

    config = json.loads(plan.files["config.json"])
    assert "attn_implementation" not in config and config["part"] == {}
    warned = [warning.values["reference"] for warning in plan.warnings if warning.code == "code-elsewhere"]
    assert warned == ["eve/kernel", "eve/more@v1:f"]


def test_code_elsewhere_is_not_named(tmp_path: Path) -> None:
    """In whichever file; nor is code that is missing, or a reference that is none."""
    files = {
        "tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["eve/code--tok_eve.Slow", null]}, "x": 1}',
        "preprocessor_config.json": '{"auto_map": {"AutoProcessor": "eve/code--proc.P"}, "y": 2}',
        "processor_config.json": '{"auto_map": {"AutoProcessor": "gone.P"}, "z": 3}',
    }
    one = model(tmp_path / "a", files, auto_map=FOREIGN, part={"auto_map": {"AutoModel": "../../x.Y"}})
    plan = plan_of(one, model(tmp_path / "b", {}))

    config = json.loads(plan.files["config.json"])
    assert "auto_map" not in config
    assert config["part"] == {}
    assert json.loads(plan.files["tokenizer_config.json"]) == {"x": 1}
    assert json.loads(plan.files["preprocessor_config.json"]) == {"y": 2}
    assert json.loads(plan.files["processor_config.json"]) == {"z": 3}
    assert set(plan.copied_files) == set()
    assert codes(plan) == {"code-elsewhere", "code-missing"}
    references = [
        warning.values["reference"] for warning in plan.warnings if warning.code == "code-elsewhere"
    ]
    assert len(references) == 4


def test_code_elsewhere_is_copied_on_request_at_its_commit(hub: Hub, tmp_path: Path) -> None:
    token = hub.add_user("eve")
    code = {
        "config_eve.py": b"class Eve: pass\n",
        "modeling_eve.py": b"from .config_eve import Eve\n",
        "more.py": b"",
    }
    commit = hub.put("eve/code", code)
    one = model(tmp_path / "a", {}, auto_map=FOREIGN | {"AutoLost": "eve/none--x.Y"})
    plan = plan_of(one, model(tmp_path / "b", {}), keep_code=True, token=token)

    assert json.loads(plan.files["config.json"])["auto_map"] == {
        "AutoConfig": "config_eve.Eve",
        "AutoModel": "modeling_eve.Eve",
    }
    assert plan.files["modeling_eve.py"] == code["modeling_eve.py"].decode()
    assert {file for file in plan.files if file.endswith(".py")} == {"config_eve.py", "modeling_eve.py"}
    pinned = [warning for warning in plan.warnings if warning.code == "code-pinned"]
    assert {warning.values["commit"] for warning in pinned} == {str(getattr(commit, "id", commit))}
    assert "model-not-found" in codes(plan)


def test_code_that_a_model_on_the_hub_names_by_its_own_repository_is_its_own(
    hub: Hub, tmp_path: Path
) -> None:
    token = hub.add_user("ann")
    one = model(tmp_path / "a", CODE, **OWN | {"auto_map": {"AutoModel": "ann/mine--modeling_mine.Mine"}})
    hub.put("ann/mine", {file.name: file.read_bytes() for file in one.iterdir()})
    plan = plan_of("ann/mine", "ann/mine", token=token)

    assert json.loads(plan.files["config.json"])["auto_map"] == {"AutoModel": "modeling_mine.Mine"}
    assert plan.copied_files["modeling_mine.py"] == 0
    assert codes(plan) == {"code-copied"}
