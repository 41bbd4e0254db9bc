"""The command line: what it prints, where, and with which status."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from merging.__main__ import main
from merging.methods import METHODS
from tests import ROOT
from tests.tiny import tiny_llama


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("ab"):
        tiny_llama(folder / name, seed)
    models = "".join(f"- {{model: {folder / name}, parameters: {{weight: 1}}}}\n" for name in "ab")
    path = folder / "recipe.yaml"
    path.write_text(f"merge_method: linear\nmodels:\n{models}")
    return path


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.yaml"
    path.write_text("merge_method: liner\nmodels: [{model: /nowhere at all}]\n")
    return path


def test_plan_describes(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(recipe)]) == 0

    out, err = capsys.readouterr()
    assert "Linear: Weighted average of the models" in out
    assert "to read       658 kB" in out
    assert "\nnormalize: true\n" in out
    assert "has no tokenizer" in err


def test_plan_shows_what_each_tensor_gets(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What people do not expect of the language: norm and head take a gradient's first value, as embeddings do, a
    lone layer the last one, and filters are looked for anywhere in a name."""
    models = [recipe.parent / name for name in "ab"]
    slices = [
        {"sources": [{"model": str(model), "layer_range": layers} for model in models]}
        for layers in ([0, 3], [3, 4])
    ]
    t = [{"filter": "attn", "value": [0.1, 0.2]}, {"value": [0.5, 0.9]}]
    text = yaml.safe_dump(
        {"merge_method": "slerp", "base_model": str(models[0]), "slices": slices, "parameters": {"t": t}}
    )
    path = recipe.parent / "stack.yaml"
    path.write_text(text)

    assert main(["plan", str(path)]) == 0
    out = capsys.readouterr().out
    assert main(["plan", str(path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)

    assert "\n  self_attn: 0.1 (layer 0), 0.15 (layer 1), 0.2 (layer 2), 0.2 (layer 3)\n" in out
    assert "\n  embed_tokens, norm: 0.5\n" in out
    others, attention, outside = data["parameters"]["t"]
    assert attention["tensors"] == "self_attn"
    assert others["values"] == pytest.approx([0.5, 0.7, 0.9, 0.9])
    assert outside == {"tensors": "embed_tokens, norm", "values": [0.5], "by_layer": False}


def test_plan_as_json(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(recipe), "--json", "--shard-size", "0.1MB"]) == 0

    plan = json.loads(capsys.readouterr().out)
    assert plan["ok"] is True
    assert plan["shards"] > 1
    assert {"tensors", "bytes_in", "bytes_out", "peak_memory_bytes", "disk_bytes", "problems"} <= plan.keys()


def test_a_recipe_that_cannot_be_merged_ends_with_2(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(broken), "--json"]) == 2
    out, err = capsys.readouterr()
    [problem] = json.loads(out)["problems"]
    assert problem.keys() == {"code", "message", "fix", "where", "values"}
    assert "line 1, column 15: There is no merge method 'liner'. Did you mean 'linear'?" in err

    assert main(["run", str(broken), "--to", "/tmp/never"]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_problems_of_the_models_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("merge_method: passthrough\nmodels: [{model: /nowhere at all}]\n")

    assert main(["plan", str(path), "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["ok"] is False
    assert "neither a folder here nor a model's id" in err
    assert main(["run", str(path), "--to", str(tmp_path / "out")]) == 2


def test_run_merges(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", str(recipe), "--to", str(tmp_path / "out"), "--workers", "2", "--shard-size", "100kB"]

    assert main(arguments) == 0

    out = capsys.readouterr().out
    assert str(tmp_path / "out") in out
    assert "read by folder, written by folder\n" in out
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert main(arguments) == 2  # a folder with a model is not replaced
    capsys.readouterr()
    assert main([*arguments, "--overwrite", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["location"] == str(tmp_path / "out")
    assert (result["read_by"], result["written_by"]) == (["folder"], ["folder"])


def test_a_recipe_from_standard_input(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with recipe.open() as text:
        monkeypatch.setattr("sys.stdin", text)
        assert main(["plan", "-"]) == 0


def test_anything_else_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0", "-1", "2 parsecs", "nan"])
def test_sizes_that_are_none(size: str, recipe: Path) -> None:
    with pytest.raises(SystemExit):
        main(["plan", str(recipe), "--shard-size", size])


def test_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [method["name"] for method in listed] == list(METHODS)
    assert all({"title", "summary", "paper", "parameters"} <= method.keys() for method in listed)

    assert main(["methods"]) == 0
    assert "density (a number from 0 to 1, one a model; default 1.0)" in capsys.readouterr().out


def test_a_bar_when_a_terminal_watches(recipe: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "merging", "run", str(recipe), "--to", str(tmp_path / "out")]

    done = subprocess.run(command, cwd=ROOT, stderr=theirs, stdout=subprocess.PIPE, check=True)
    os.close(theirs)

    seen = os.read(ours, 100_000).decode()
    assert "329 kB of 329 kB" in seen
    assert "s left" in seen
    assert str(tmp_path / "out") in done.stdout.decode()


def test_numbers_that_are_none_end_a_strict_run_with_a_status_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_llama(tmp_path / "model", 0, dtype=torch.bfloat16)
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][:] = 1e5
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    path = tmp_path / "recipe.yaml"
    path.write_text(f"merge_method: passthrough\nmodels: [{{model: {model}}}]\ndtype: float16\n")
    to = str(tmp_path / "out")

    assert main(["run", str(path), "--to", to]) == 0
    assert "are infinite or NaN, in 1 tensor: model.norm.weight" in capsys.readouterr().err
    assert main(["run", str(path), "--to", to, "--overwrite", "--strict", "--json"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["not_finite"] == {"model.norm.weight": len(tensors["model.norm.weight"])}
    assert "are infinite or NaN" in err
    path.write_text(path.read_text().replace("float16", "bfloat16"))
    assert main(["run", str(path), "--to", to, "--overwrite", "--strict"]) == 0


def test_the_card_states_the_strictest_licence_of_the_parents(recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.read_text())
    cards = {"a": "---\nlicense: mit\n---\n", "b": "---\nlicense: llama3.1\n---\n"}
    for name, card in cards.items():
        shutil.copytree(recipe.parent / name, tmp_path / name)
        (tmp_path / name / "README.md").write_text(card)
        path.write_text(path.read_text().replace(str(recipe.parent / name), str(tmp_path / name)))

    assert main(["run", str(path), "--to", str(tmp_path / "out")]) == 0

    assert "license: llama3.1\n" in (tmp_path / "out" / "README.md").read_text()


MEANT = (
    "merge_method: linear\ndtype: float32 # wide\nmodels:\n"
    "- model: {0}/a\n  weight: 1\n- model: {0}/b\n  weight: 2\n"
)


def test_fix_prints_the_mended_recipe(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(MEANT.format(recipe.parent))

    assert main(["plan", str(path), "--fix"]) == 0

    out, err = capsys.readouterr()
    assert out == path.read_text().replace("  weight", "  parameters:\n    weight")
    assert err.count("fixed: Move 'weight' under `parameters:`") == 2
    assert "weight: 1\n- model" in path.read_text()


def test_fix_writes_the_mended_recipe_in_place(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(MEANT.format(recipe.parent) + "parameters: {dtype: bfloat16}\n")

    assert main(["plan", str(path), "--fix", "--in-place"]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert "error: " in err
    assert "'dtype'" in err
    assert path.read_text().count("parameters:\n    weight") == 2
    assert "parameters: {dtype: bfloat16}" in path.read_text()
    with pytest.raises(SystemExit):
        main(["plan", "-", "--fix", "--in-place"])
    with pytest.raises(SystemExit):
        main(["plan", str(path), "--in-place"])
