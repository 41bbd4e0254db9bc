"""The script that measures on a GPU, run without one, so that it does not fail on a typo the day there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import gpu
from merging.methods import METHODS


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert gpu.main(["--device", "cpu", "--size", "tiny", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if "Error" in line]
    return lines


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOY_CACHE", str(tmp_path / "cache"))


def test_every_method_and_copies(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "--only", "methods", "copies")
    for method in METHODS:
        [row] = [line for line in lines if line.startswith(f"| `{method}` ")]
        assert row.split(" | ")[4] == "same bits", row
    assert [line for line in lines if line.startswith("| copied beside arithmetic")]


def test_what_time_does_not_suffice_for_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "--minutes", "0")
    assert [line.partition(":")[0] for line in lines if "not measured" in line] == [*gpu.PARTS]


def test_a_part_that_fails_does_not_take_the_others_along(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: gpu.Bench) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(gpu.PARTS, "methods", broken)
    gpu.main(["--device", "cpu", "--size", "tiny", "--only", "methods", "copies"])
    lines = capsys.readouterr().out.splitlines()
    assert "methods: RuntimeError: out of memory" in lines
    assert lines[-1].startswith("| copied beside arithmetic")


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if gpu.torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "torch finds no GPU here" in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.real_models
def test_chat_perplexity_and_search(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALLOY_CACHE")
    lines = said(capsys, "--only", "chat", "perplexity", "search")
    assert len([line for line in lines if line.startswith("| cpu")]) == 3
