"""The command line: tables and JSON, and an exit status for every end."""

from __future__ import annotations

import io
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluation import load_model, perplexity
from evaluation.__main__ import CANNOT_BE_JUDGED, DONE, main
from evaluation.text import bundled_text
from tests import ROOT
from tests.evaluation.conftest import TEXT, make_network

MakeFolder = Callable[..., Path]


def test_perplexity_as_json(make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = make_folder(), make_folder(make_network(seed=1), name="two")

    status = main(["perplexity", str(one), str(two), "--text", "english", "--stride", "16", "--json"])

    found = json.loads(capsys.readouterr().out)
    expected = perplexity(load_model(one), bundled_text("english"), stride=16)
    assert status == DONE
    assert found["models"][0]["nll_nats"] == pytest.approx(expected.nll_nats)
    assert [model["stride"] for model in found["models"]] == [16, 16]
    assert found["differences"][0]["other"] == str(two)
    assert found["differences"][0]["verdict"] in ("better", "worse", "none")


def test_perplexity_as_a_table(
    make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 30)
    folder = make_folder()

    status = main(["perplexity", str(folder), str(folder), "--text", str(tmp_path / "text.txt")])

    told = capsys.readouterr().out
    assert status == DONE
    assert "bits/byte" in told
    assert "64/32" in told
    assert "no difference that this text can show" in told


def test_the_command_reads_standard_input(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `python -m evaluation`, in this process."""
    monkeypatch.setattr(
        sys, "argv", ["evaluation", "perplexity", str(make_folder()), "--text", "-", "--json"]
    )
    # Korean in a terminal that says nothing of UTF-8.
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode()), encoding="ascii"))

    monkeypatch.delitem(sys.modules, "evaluation.__main__")  # as nobody has imported it
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("evaluation.__main__", run_name="__main__")

    assert ended.value.code == DONE
    assert json.loads(capsys.readouterr().out)["models"][0]["tokens"] > 100


def test_what_cannot_be_judged_ends_with_status_2(
    make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder()
    (tmp_path / "empty.txt").write_text("")
    spoilt = make_folder(name="spoilt")
    weights = load_file(spoilt / "model.safetensors")
    weights["model.embed_tokens.weight"][:] = torch.nan
    save_file(weights, spoilt / "model.safetensors", {"format": "pt"})

    for arguments, words in (
        ([str(folder), "--text", str(tmp_path / "empty.txt")], "is empty"),
        ([str(tmp_path / "nothing")], "is neither a folder here nor a model's id"),
        ([str(folder), "--text", "korean", "--context", "65"], "expected 1 to 64"),
        ([str(spoilt), "--text", "korean"], "answers with NaN"),
    ):
        assert main(["perplexity", *arguments]) == CANNOT_BE_JUDGED
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["perplexity", "a/b/c"],
        ["compare", ".", "a/b/c"],
        ["weights", "a/b/c"],
        ["benchmark", "a/b/c"],
        ["chat", "a/b/c"],
        ["perplexity", ".", "--text", "nothing.txt"],
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_reported_before_torch_is_imported(arguments: list[str]) -> None:
    code = (
        "import sys; from evaluation.__main__ import main; status = main(sys.argv[1:])\n"
        "print(status, [name for name in ('torch', 'transformers') if name in sys.modules])"
    )

    ran = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)

    assert (ran.stdout, "error: " in ran.stderr) == (f"{CANNOT_BE_JUDGED} []\n", True), ran.stderr
