"""The model that a quantized one was made from is found, and no other is taken for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merging import make_plan, read_recipe
from merging.planning.originals import find_original
from tests.checkpoints.gguf.written import write_gguf
from tests.hub import Hub

SIZES = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2}
QUANTIZED = SIZES | {"quantization_config": {"quant_method": "bitsandbytes"}}


def put(hub: Hub, name: str, config: dict[str, Any] | None, card: str = "") -> None:
    hub.add_user(name.partition("/")[0])
    files = {"README.md": f"---\n{card}\n---\n".encode()} if card else {"notes.txt": b""}
    if config is not None:
        files["config.json"] = json.dumps(config).encode()
    hub.put(name, files)


@pytest.mark.parametrize(
    ("config", "card", "others", "expected"),
    [
        (QUANTIZED, "", {"ann/big": SIZES}, "ann/big"),
        (QUANTIZED, "", {}, ""),
        (QUANTIZED, "", {"ann/big": QUANTIZED}, ""),
        (QUANTIZED, "", {"ann/big": SIZES | {"hidden_size": 32}}, ""),
        (QUANTIZED | {"_name_or_path": "eve/Big"}, "", {"eve/Big": SIZES}, "eve/Big"),
        (QUANTIZED | {"_name_or_path": "/root/big"}, "", {}, ""),
        (QUANTIZED, "base_model: eve/Big", {"eve/Big": SIZES}, "eve/Big"),
        (QUANTIZED, "base_model: eve/raw", {"eve/raw": SIZES}, ""),
        (QUANTIZED, "base_model: eve/raw\nbase_model_relation: quantized", {"eve/raw": SIZES}, "eve/raw"),
        (QUANTIZED, "base_model: eve/raw\nbase_model_relation: finetune", {"eve/raw": SIZES}, ""),
        (None, "", {"ann/big": SIZES}, "ann/big"),
    ],
)
def test_it_is_found_by_name_config_and_card(
    config: dict[str, Any] | None, card: str, others: dict[str, dict[str, Any]], expected: str, hub: Hub
) -> None:
    put(hub, "ann/big-bnb-4bit", config, card)
    for name, other in others.items():
        put(hub, name, other)

    assert find_original("ann/big-bnb-4bit", False) == expected


@pytest.mark.parametrize("name", ["ann/big-GGUF", "ann/big-GGUF/big.Q4_K_M.gguf"])
def test_gguf_files_name_their_original(name: str, hub: Hub, tmp_path: Path) -> None:
    put(hub, "ann/big", SIZES)
    content = write_gguf(tmp_path / "x.gguf", {}, {}, architecture="unheard-of").read_bytes()
    hub.put("ann/big-GGUF", {"big.Q4_K_M.gguf": content, "README.md": b""})

    plan = make_plan(read_recipe(f"merge_method: passthrough\nmodels: [{{model: {name}}}]\n"))

    [problem] = plan.problems
    assert (problem.code, problem.values["original"]) == ("gguf-not-understood", "ann/big")


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_gguf_files_say_what_they_were_made_from(place: str, hub: Hub, tmp_path: Path) -> None:
    put(hub, "eve/Big", SIZES)
    put(hub, "eve/Raw", SIZES)
    bases = {
        f"general.base_model.{n}.repo_url": f"https://huggingface.co/eve/{name}"
        for n, name in enumerate(["Raw", "Big"])
    }
    tensors = {"token_embd.weight": ("Q8_0", np.zeros((8, 34), np.uint8))}
    file = write_gguf(tmp_path / "Big.Q8_0.gguf", tensors, metadata=bases)
    hub.add_user("ann")
    hub.put("ann/Big-GGUF", {"Big.Q8_0.gguf": file.read_bytes()})
    name = "ann/Big-GGUF" if place == "hub" else str(file)

    plan = make_plan(read_recipe(f"merge_method: passthrough\nmodels: [{{model: {name}}}]\n"))

    [warning] = [problem for problem in plan.warnings if problem.code == "dequantized"]
    assert warning.values["original"] == "eve/Big"


def test_a_gguf_file_of_this_machine_is_named_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "big.gguf").write_bytes(b"GGUF")

    plan = make_plan(read_recipe(f"merge_method: passthrough\nmodels: [{{model: {tmp_path}/big.gguf}}]\n"))

    assert [problem.code for problem in plan.problems] == ["damaged-gguf"]
