"""Everything that cannot be judged, on the command line and on the page: a sentence each that says what to do."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import gradio as gr
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from evaluation.__main__ import CANNOT_BE_JUDGED, DONE, main
from tests.evaluation.conftest import TEXT, make_network, make_tokenizer
from tests.hub import Hub
from tests.ui.conftest import event
from ui.host import Host
from ui.page import build_page


@dataclass(frozen=True)
class Case:
    """One bad input; all else is good.

    Args:
        words: in the answer
        model: a folder beside the others, or a name on the Hub
        text: what the file holds; None for no such file
        dataset: a folder beside the others, or a name on the Hub
        column: of it
        settings: of the command line alone
        on_page: whether a page can be given it at all
    """

    words: str
    model: str = "whole"
    text: bytes | None = TEXT.encode()
    dataset: str = ""
    column: str = "text"
    settings: tuple[str, ...] = ()
    on_page: bool = True


CASES = {
    "empty text": Case("is empty. Give a text", text=b" \n "),
    "text shorter than two tokens": Case("Expected a text of at least two tokens", text=b"A"),
    "one character of several tokens": Case("nothing to score: 1 text with 1 character", text="녕".encode()),
    "text that is not UTF-8": Case("is not UTF-8: byte 0", text="한글".encode("cp949")),
    "file that does not exist": Case("cannot be read (No such file", text=None, on_page=False),
    "model without tokenizer": Case("has no tokenizer", model="mute"),
    "encoder-only model": Case("reads a text in both directions, as encoders", model="encoder"),
    "NaN weights": Case("its weights hold NaN or Inf", model="spoilt"),
    "model that does not exist": Case("ann/nothing was not found", model="ann/nothing"),
    "folder that does not exist": Case("neither a folder here nor a model", model="./nothing"),
    "gated model": Case("is gated, and this login has no access", model="bob/gated"),
    "gated dataset": Case("It is gated: accept its terms on its page", dataset="bob/gated"),
    "dataset that does not exist": Case("Check its name, its split", dataset="./nothing"),
    "empty dataset": Case("empty has no text in the column 'text' of 'test'", dataset="empty"),
    "dataset of empty rows": Case("blank has no text in the column 'text' of 'test'", dataset="blank"),
    "missing column": Case("no column 'body'. Expected one of: text, n", dataset="rows", column="body"),
    "column of numbers": Case("holds int, not text", dataset="rows", column="n"),
    "context longer than the model has": Case(
        "context=65: expected 1 to 64", settings=("--context", "65"), on_page=False
    ),
    "stride larger than the window": Case(
        "stride=33: expected 1 to the context, 32",
        settings=("--context", "32", "--stride", "33"),
        on_page=False,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and data sets, good and bad."""
    folder = tmp_path_factory.mktemp("shelf")
    for name in ("whole", "mute", "spoilt"):
        make_network().save_pretrained(folder / name)
    weights = load_file(folder / "spoilt" / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, folder / "spoilt" / "model.safetensors", {"format": "pt"})
    sizes: dict[str, Any] = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64}
    bert = BertConfig(num_attention_heads=2, num_hidden_layers=2, max_position_embeddings=64, **sizes)
    torch.manual_seed(0)
    BertForMaskedLM(bert).save_pretrained(folder / "encoder")
    for name in ("whole", "spoilt", "encoder"):
        make_tokenizer().save_pretrained(folder / name)
    for name, rows in (("rows", [{"text": TEXT, "n": 1}]), ("empty", []), ("blank", [{"text": " "}])):
        (folder / name).mkdir()
        (folder / name / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def world(shelf: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The shelf is at hand, and a Hub with a gated model and data set."""
    monkeypatch.chdir(shelf)
    hub.add_user("bob")
    hub.put("bob/gated", shelf / "whole", gated="auto")
    read = datasets.load_dataset

    def load(name: str, *rest: Any, **how: Any) -> Any:
        if name == "bob/gated":
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' is a gated dataset on the Hub.")
        return read(name, *rest, **how)

    monkeypatch.setattr(datasets, "load_dataset", load)
    yield


@pytest.fixture(scope="module")
def page() -> gr.Blocks:
    page: gr.Blocks = build_page(Host.from_environment({}))
    return page


def arguments(case: Case, text: Path) -> list[str]:
    if case.text is not None:
        text.write_bytes(case.text)
    read = ["--dataset", case.dataset, "--column", case.column] if case.dataset else ["--text", str(text)]
    return ["perplexity", case.model, *read, *case.settings]


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_on_the_command_line(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = arguments(case, tmp_path / "text.txt")

    assert main(asked) == CANNOT_BE_JUDGED
    said = capsys.readouterr()
    assert case.words in said.err and said.err.startswith("error: ")
    assert said.out == ""
    assert main([*asked, "--json"]) == CANNOT_BE_JUDGED
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert case.words in told["problems"][0]["message"]


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.on_page], ids=[k for k, v in CASES.items() if v.on_page]
)
def test_on_the_page(case: Case, page: gr.Blocks, tmp_path: Path) -> None:
    assert case.text is not None
    (tmp_path / "text.txt").write_bytes(case.text)

    try:
        score = event(page, "TextPanel._score")
        panel = score.__self__
        fields = panel.fields
        given = {
            panel.models: [case.model],
            panel.begun: None,
            fields.dataset.name: case.dataset,
            fields.dataset.subset: "",
            fields.dataset.split: "test",
            fields.dataset.column: case.column,
            fields.dataset.rows: 100,
            **event(page, "TextFields._open")(str(tmp_path / "text.txt")),
        }
        *_, last = score(given, None, SimpleNamespace(session_hash="visitor"))
        said = last[panel.table]
        assert last[panel.found] is None
    except gr.Error as error:
        said = str(error.message)

    assert case.words in said.replace("&#39;", "'")


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("command", ["benchmark", "chat", "compare", "weights"])
def test_the_other_commands_say_it_the_same_way(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "ann/nothing", "--json"]) == CANNOT_BE_JUDGED

    said = capsys.readouterr()
    assert "ann/nothing was not found" in json.loads(said.out)["problems"][0]["message"]
    assert "was not found" in said.err


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(("content", "words"), [(b"", "is empty"), (b"\xb0\xa1", "is not UTF-8")])
def test_standard_input(
    content: bytes, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    assert main(["perplexity", "whole", "--text", "-"]) == CANNOT_BE_JUDGED
    assert f"error: standard input {words}" in capsys.readouterr().err


def no_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.usefixtures("world")
def test_numbers_that_json_cannot_say_are_null(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sure = make_network()
    with torch.no_grad():
        sure.lm_head.weight *= 10_000  # thousands of nats a token: no float holds the perplexity
    sure.save_pretrained(tmp_path / "sure")
    make_tokenizer().save_pretrained(tmp_path / "sure")

    assert main(["perplexity", str(tmp_path / "sure"), "whole", "--text", "english", "--json"]) == DONE
    found = json.loads(capsys.readouterr().out, parse_constant=no_constant)
    assert found["models"][0]["perplexity"] is None and found["models"][0]["bits_per_byte"] > 100
    assert found["differences"][0]["perplexity_ratio"] is None
    assert found["differences"][0]["verdict"] == "worse"

    assert main(["weights", "spoilt", "--against", "whole", "--json"]) == DONE
    found = json.loads(capsys.readouterr().out, parse_constant=no_constant)
    assert any("NaN or Inf" in said for said in found["doctor"])
