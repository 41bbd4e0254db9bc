"""The table of a model card: structure from headers, speed and memory from a process that can reach no other model."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation import Cancelled, EvaluationError, load_model, perplexity
from evaluation.__main__ import CANNOT_BE_JUDGED, DONE, main
from evaluation.footprint import Footprint, Spread, footprint
from evaluation.remark import Remark
from evaluation.report import Report
from evaluation.sandbox import Outcome, ask
from evaluation.structure import (
    Structure,
    config_changes,
    read_structure,
    references,
    same_weights_other_numbers,
    structure_changes,
)
from tests.evaluation.conftest import TEXT, make_network, make_tokenizer

MakeFolder = Callable[..., Path]


def structure(folder: Path) -> Structure:
    return read_structure(folder.name, folder)


def test_structure_is_what_the_files_hold(make_folder: MakeFolder) -> None:
    network = make_network().to(torch.bfloat16)
    found = structure(make_folder(network))

    assert {name: tensor.shape for name, tensor in found.tensors.items()} == {
        name: tuple(weight.shape) for name, weight in network.state_dict().items()
    }
    assert found.dtypes == {"bfloat16": found.parameters}
    assert found.parameters == sum(weight.numel() for weight in network.state_dict().values())


def test_only_differences_are_told_and_layers_stand_together(make_folder: MakeFolder) -> None:
    one = structure(make_folder(make_network(num_hidden_layers=4, vocab_size=410), name="one"))
    two = structure(make_folder(name="two"))

    changes = [str(change.remark) for change in structure_changes(one, two)]

    assert "changed: model.embed_tokens.weight 410 x 32 here, 400 x 32 there" in changes
    assert "only here: model.layers.*.mlp.up_proj.weight 64 x 32 (2 of them)" in changes
    assert len(changes) == 2 + 9
    assert config_changes(one, two) == {"num_hidden_layers": (4, 2), "vocab_size": (410, 400)}
    assert structure_changes(two, two) == []


def test_bfloat16_is_not_taken_for_compression(make_folder: MakeFolder) -> None:
    wide = structure(make_folder(name="wide"))
    half = structure(make_folder(make_network().to(torch.bfloat16), name="half"))
    small = structure(make_folder(make_network(num_hidden_layers=1).to(torch.bfloat16), name="small"))

    assert "the number format alone" in str(same_weights_other_numbers([wide, half]))
    assert same_weights_other_numbers([wide, wide]) is None
    assert same_weights_other_numbers([wide, small]) is None


@pytest.mark.parametrize(
    "start", [b"", b"\xff" * 30, b"\x02" + b"\0" * 7 + b"[]", b"\x09" + b"\0" * 7 + b'{"a": {}}']
)
def test_a_file_without_a_header_is_said(start: bytes, make_folder: MakeFolder) -> None:
    folder = make_folder()
    (folder / "model.safetensors").write_bytes(start)

    with pytest.raises(EvaluationError, match=r"model\.safetensors is damaged"):
        read_structure("m", folder)


def test_what_a_checkpoint_says_of_its_base_counts(make_folder: MakeFolder) -> None:
    folder = make_folder()
    assert references(folder, []) == []

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "base_model_name_or_path": "a/base"}))
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "a/base"}')

    tied = ["adapter_config.json points at a/base.", "config.json points at a/base."]
    assert list(map(str, references(folder, []))) == tied
    assert list(map(str, references(folder, ["q_proj.lora_A.weight"]))) == [
        *tied,
        "There are LoRA tensors that were not merged.",
    ]


def test_what_memory_cannot_hold_is_measured_from_the_disk(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def measured(_: str, given: dict[str, Any], **__: object) -> Outcome:
        asked.update(given)
        return Outcome({"device": "cpu", "dtype": "float32", "offloaded": True}, "")

    monkeypatch.setattr("evaluation.footprint.ask", measured)
    monkeypatch.chdir(tmp_path)

    found = footprint(make_folder(), device="cpu", offload=Path("disk"))

    assert asked["offload"] == str(tmp_path / "disk")  # the process that measures is in another folder
    assert "| ran on | cpu, float32, part of it on the disk |" in Report((found,)).to_markdown()


def test_a_measurement_is_ended(make_folder: MakeFolder) -> None:
    cancel = threading.Event()
    cancel.set()

    with pytest.raises(Cancelled):
        footprint(make_folder(), device="cpu", cancel=cancel)


@pytest.mark.parametrize("means", [("landlock",), ("namespace",), ()])
def test_weights_that_are_a_link_do_not_stand_alone(
    means: tuple[str, ...], make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are opened by Rust, where Python's audit hook sees nothing."""
    monkeypatch.setattr("evaluation.footprint.ask", partial(ask, means=means))
    base, leech = make_folder(name="base"), make_folder(name="leech")
    (leech / "model.safetensors").unlink()
    (leech / "model.safetensors").symlink_to(base / "model.safetensors")

    found = footprint(leech, device="cpu", out_of_reach=[base], repeats=1, new_tokens=2)

    assert not found.independent
    assert f"model.safetensors is a link to {base / 'model.safetensors'}" in " ".join(
        map(str, found.dependence)
    )
    if found.confined_by != "python":
        assert found.tokens_per_second is None


def test_every_answer_has_the_same_number_of_tokens(make_folder: MakeFolder) -> None:
    """A model without a chat template that goes on with the person's next line, and ends there in a chat."""
    tokenizer = make_tokenizer(template=None)
    line = tokenizer("\nUser:", add_special_tokens=False)["input_ids"]
    network = make_network(max_position_embeddings=512)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        for place, token in enumerate(line):
            network.model.embed_tokens.weight[token, place] = 1.0
            network.lm_head.weight[line[(place + 1) % len(line)], place] = 10.0

    found = footprint(make_folder(network, tokenizer), device="cpu", repeats=1, new_tokens=32)

    assert (found.independent, found.new_tokens) == (True, 32)


def test_loading_is_timed_without_imports(make_folder: MakeFolder) -> None:
    folder = make_folder()
    load_model(make_folder(name="imports everything"), device="cpu")
    began = time.perf_counter()
    load_model(folder, device="cpu")
    seconds = time.perf_counter() - began

    assert footprint(folder, device="cpu", repeats=1, new_tokens=2).load_seconds < max(10 * seconds, 1.0)


def test_spread_by_hand() -> None:
    assert Spread.of([1.0, 3.0]) == Spread(2.0, 2**0.5, 2)
    assert Spread.of([5.0]) == Spread(5.0, 0.0, 1)


def test_the_report_as_markdown(make_folder: MakeFolder) -> None:
    one, two = make_folder(name="one"), make_folder(make_network(num_hidden_layers=1), name="two")
    prints = (
        Footprint("a|b", None, structure(one), True, "", "landlock", "cpu", "float32", 1.5, 2 * 10**9, None,
                  Spread(0.05, 0.001, 5), Spread(12.345, 0.5, 5), 32),
        Footprint("two", None, structure(two), False, (Remark("adapter-needs-base", {"adapter": "a|b"}),)),
    )  # fmt: skip
    scores = tuple(perplexity(load_model(folder), TEXT) for folder in (one, two))

    lines = Report(prints, scores).to_markdown().splitlines()

    assert lines[0] == "|  | a\\|b | two |"
    assert "| stands alone | yes | no: a\\|b is an adapter and needs its base. |" in lines
    assert "| tokens per second | 12.35 ± 0.50 | - |" in lines
    assert "| first token, ms | 50 ± 1 | - |" in lines
    assert f"| perplexity | {scores[0].perplexity:.4f} | {scores[1].perplexity:.4f} |" in lines
    assert any("num_hidden_layers: 2 here, 1 there" in line for line in lines)
    assert (
        "- Stands alone: it answered in a process that could read no other model (held by Landlock)." in lines
    )


def test_compare_on_the_command_line(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The other's tokenizer is a link into the folder of the first, which is out of its reach."""
    one, other = make_folder(name="one"), make_folder(name="other")
    (other / "tokenizer_config.json").unlink()
    (other / "tokenizer_config.json").symlink_to(one / "tokenizer_config.json")
    quick = ["--text", "english", "--repeats", "2", "--new-tokens", "6", "--offload", str(tmp_path / "disk")]

    assert main(["compare", str(one), str(other), *quick, "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    alone, needy = found["models"]

    assert (alone["independent"], alone["dependence"]) == (True, "")
    assert (alone["device"], alone["dtype"], alone["new_tokens"]) == ("cpu", "float32", 6)
    assert (alone["device_bytes"], alone["offloaded"]) == (None, False)
    assert alone["load_seconds"] > 0 and alone["first_token_seconds"]["mean"] > 0
    assert alone["host_bytes"] > 100_000_000  # torch alone is more
    assert alone["tokens_per_second"]["count"] == 2
    assert alone["tokens_per_second"]["mean"] > alone["tokens_per_second"]["deviation"] >= 0
    assert alone["dtypes"] == {"float32": alone["parameters"]}

    assert not needy["independent"] and "out of reach" in needy["dependence"]
    assert "tokenizer_config.json is a link to" in needy["dependence"]
    assert needy["tokens_per_second"] is None

    assert found["differences"][0]["verdict"] == "none"
    assert found["structure"] == [{"other": str(other), "changes": [], "config": {}}]


def test_compare_looks_for_every_model_before_it_measures_one(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.footprint.ask", lambda *_, **__: pytest.fail("it measured"))

    assert main(["compare", str(make_folder()), "./nothing"]) == CANNOT_BE_JUDGED
    assert "is neither a folder here nor a model's id" in capsys.readouterr().err
