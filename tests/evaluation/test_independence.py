"""Whether a model stands on its own: what ties it to others is found, and it is loaded with nobody in reach."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from evaluation import check_independence
from evaluation.__main__ import main as judge
from evaluation.sandbox import Outcome
from merging.__main__ import main
from tests.evaluation.conftest import MakeFolder
from tests.hub import Hub
from tests.merges import merged


def adapter(base: Path, folder: Path) -> Path:
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj"])
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(parameter.requires_grad * 0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return folder


def test_base_and_adapter_merged_by_the_command_line_need_neither(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    base = make_folder(name="base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"_name_or_path": str(base)}))
    lora = adapter(base, tmp_path / "lora")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"merge_method: passthrough\nmodels: [{{model: {base}+{lora}}}]\ndtype: bfloat16\n")
    assert main(["run", str(recipe), "--to", str(tmp_path / "out")]) == 0
    shutil.rmtree(base)
    shutil.rmtree(lora)

    found = check_independence(tmp_path / "out", parents=[str(base), str(lora)])

    assert found.findings == ()
    assert found.ok and found.answer and found.confined_by
    assert not (tmp_path / "out/adapter_config.json").exists()
    assert str(tmp_path) not in (tmp_path / "out/config.json").read_text()


def test_base_and_adapter_merged_from_the_hub_to_the_hub_need_neither(
    make_folder: MakeFolder, tmp_path: Path, hub: Hub
) -> None:
    token = hub.add_user("alice")
    base = make_folder(name="base")
    hub.put("alice/base", base, private=True)
    hub.put("alice/lora", adapter(base, tmp_path / "lora"), private=True)
    recipe = {"merge_method": "passthrough", "models": [{"model": "alice/base+alice/lora"}]}
    merged(yaml.safe_dump(recipe), "hf://alice/out", token=token)
    for name in ("alice/base", "alice/lora"):
        del hub.store.repos[name]
    shutil.rmtree(base)
    shutil.rmtree(tmp_path / "lora")

    found = check_independence("alice/out", parents=["alice/base", "alice/lora"], token=token)

    assert found.findings == ()
    assert found.answer


def with_config(**more: object) -> Callable[[Path, Path], None]:
    def change(folder: Path, other: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | more))

    return change


def linked(folder: Path, other: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(other / "model.safetensors")


def bare_adapter(folder: Path, other: Path) -> None:
    shutil.rmtree(folder)
    adapter(other, folder)


@pytest.mark.parametrize(
    ("tie", "said"),
    [
        (with_config(_name_or_path="/home/me/base"), "config.json has _name_or_path: '/home/me/base'"),
        (
            with_config(text_config={"made_of": "org/parent"}),
            "config.json, text_config, made_of names the parent org/parent",
        ),
        (with_config(auto_map={"AutoModel": "org/parent--code.Model"}), "auto_map"),
        (linked, "model.safetensors is a link to"),
        (bare_adapter, "is an adapter, not a whole model"),
        (lambda folder, other: (folder / "adapter_config.json").write_text("{}"), "adapter_config.json"),
    ],
)
def test_what_ties_a_model_to_another(
    tie: Callable[[Path, Path], object], said: str, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "evaluation.independence.ask", lambda *_, **__: Outcome({"said": "I answer", "lacking": ""}, "")
    )
    folder, other = make_folder(), make_folder(name="other")
    tie(folder, other)

    found = check_independence(folder, parents=["org/parent"])

    assert not found.ok
    assert any(said in str(finding) for finding in found.findings), found.findings


def test_another_folder_is_out_of_reach(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The process that loads is one that would follow an adapter's config to its base."""
    base = make_folder(name="base")
    lora = adapter(base, tmp_path / "lora")
    for file in base.glob("tokenizer*"):
        shutil.copy(file, lora)
    monkeypatch.setattr("evaluation.independence.weight_files", lambda *_: {})

    found = check_independence(lora)

    said = "\n".join(map(str, found.findings))
    assert "With nothing else in reach it does not answer" in said
    assert f"out of reach: '{base}/config.json'" in said


def test_independence_on_the_command_line(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, other = make_folder(), make_folder(name="other")

    assert judge(["independent", str(folder)]) == 0
    assert f"{folder} needs nothing else (" in capsys.readouterr().out

    linked(folder, other)
    assert judge(["independent", str(folder), "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert not said["ok"]
    assert f"model.safetensors is a link to {other / 'model.safetensors'}." in said["findings"]
