"""Search while typing: what the visitor may see, and no waiting for a Hub that does not answer."""

from __future__ import annotations

import json

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save as tensor_file

from tests.hub import Hub
from ui.hub.account import Account
from ui.hub.search import (
    MAX_OFFERED,
    MIN_QUERY,
    SECONDS_OF_SILENCE,
    HubModel,
    HubSearch,
    descriptions,
    kept_in_place,
)

NOBODY = Account("nobody")


def names(found: list[HubModel]) -> list[str]:
    return [model.name for model in found]


def put(hub: Hub, name: str, card: str = "", config: str = '{"model_type": "llama"}', **files: bytes) -> None:
    hub.put(
        name,
        {"README.md": f"---\n{card}\n---\n".encode(), "config.json": config.encode()}
        | {".".join(path.rsplit("_", 1)): data for path, data in files.items()},
    )


@pytest.fixture
def family(hub: Hub) -> Hub:
    """A base, what was made from it, and strangers that are liked better."""
    hub.add_user("bob")
    weights = tensor_file({"w": torch.zeros(1000)})
    put(hub, "bob/tiny-base", "license: mit", model_safetensors=weights)
    put(hub, "bob/tiny-chat", "base_model: bob/tiny-base\nlicense: apache-2.0", model_safetensors=weights)
    put(hub, "bob/tiny-code", "base_model: bob/tiny-base", model_safetensors=weights)
    large = tensor_file({"w": torch.zeros(3000)})
    put(hub, "bob/tiny-large", model_safetensors=large)
    put(hub, "bob/tiny-qwen", config='{"model_type": "qwen2"}', model_safetensors=weights)
    quantized = '{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}'
    put(hub, "bob/tiny-gptq", config=quantized, model_safetensors=weights)
    put(hub, "bob/tiny-hqq", config=quantized.replace("gptq", "hqq"), model_safetensors=weights)
    put(hub, "bob/tiny-gguf", tiny_gguf=b"GGUF")
    put(hub, "bob/tiny-old", pytorch_model_bin=b"PK")
    put(
        hub,
        "bob/tiny-lora",
        "library_name: peft\nbase_model: bob/tiny-base",
        adapter_model_safetensors=weights,
    )
    for liked in ("bob/tiny-large", "bob/tiny-qwen", "bob/tiny-gptq", "bob/tiny-gguf", "bob/tiny-old"):
        hub.repo(liked).downloads = 100
    hub.repo("bob/tiny-code").gated = "auto"
    hub.repo("bob/tiny-chat").likes = 7
    return hub


def test_relatives_come_first_and_what_does_not_fit_last(family: Hub) -> None:
    search = HubSearch()
    first = search.model("bob/tiny-chat@main", NOBODY)
    assert first and first.about == "llama · 1 k · apache-2.0 · ♥ 7"

    found = search("tiny", NOBODY, first)

    assert set(names(found[:4])) == {"bob/tiny-base", "bob/tiny-chat", "bob/tiny-code", "bob/tiny-lora"}
    assert names(found[4:5]) == ["bob/tiny-old"]
    assert set(names(found[5:7])) == {"bob/tiny-gptq", "bob/tiny-gguf"}
    assert set(names(found[7:])) == {"bob/tiny-large", "bob/tiny-qwen", "bob/tiny-hqq"}
    assert names(search("tiny", NOBODY))[0] != "bob/tiny-base"  # by downloads alone


def test_each_is_described_with_what_stands_in_its_way(family: Hub) -> None:
    search = HubSearch()
    first = search.model("bob/tiny-chat", NOBODY)

    said = json.loads(descriptions(search("tiny", NOBODY, first), first))

    assert {name.removeprefix("bob/tiny-"): it for name, it in said.items()} == {
        "base": ["llama · 1 k · mit", True],
        "chat": ["llama · 1 k · apache-2.0 · ♥ 7", True],
        "code": ["llama · 1 k · gated: accept its terms on its page first", True],
        "lora": ["llama · adapter: write base+adapter", True],
        "old": ["llama · pickle files only: read without being run", True],
        "large": ["llama · 3 k · does not match 1 k: different size", False],
        "qwen": ["qwen2 · 1 k · does not match llama: different architecture", False],
        "gptq": ["llama · 1 k · quantized (gptq): its original merges better", True],
        "hqq": ["llama · 1 k · quantized (hqq): cannot be merged", False],
        "gguf": ["llama · quantized (GGUF): its original merges better", True],
    }


def test_the_first_model_is_asked_for_once(family: Hub) -> None:
    now = [0.0]
    search = HubSearch(clock=lambda: now[0])
    family.log.clear()
    for query in ("ti", "tin", "tiny"):
        search(query, NOBODY, search.model("bob/tiny-chat", NOBODY))

    assert len(list(family.log)) == 2 + 3  # the model, its relatives, and what was typed

    assert search.model("bob/nothing", NOBODY) is None
    assert search.model("./a/folder", NOBODY) is None
    assert names(search("tiny", NOBODY))  # a name that is half typed is no silence
    assert search("x" * (MIN_QUERY - 1), NOBODY) == []


def test_what_a_visitor_may_see_is_not_told_to_another(hub: Hub) -> None:
    token = hub.add_user("ann")
    hub.put("ann/Secret-Tiny", {"config.json": b"{}"}, private=True)
    search = HubSearch()

    assert search.model("ann/Secret-Tiny", Account("visitor", token))
    assert search.model("ann/Secret-Tiny", NOBODY) is None


def test_a_list_with_strange_entries_is_read_as_far_as_it_goes() -> None:
    found = HubModel.listed(
        {"id": "a/b", "config": None, "safetensors": None, "tags": None, "gated": "manual"}
    )

    assert found == HubModel("a/b", gated=True)


def test_a_visitor_finds_public_models_and_their_own(hub: Hub) -> None:
    token = hub.add_user("ann")
    hub.add_user("bob")
    hub.put("ann/Secret-Tiny", {"config.json": b"{}"}, private=True)
    hub.put("bob/Tiny-Public", {"config.json": b"{}"})
    search = HubSearch()

    assert names(search("tiny", NOBODY)) == ["bob/Tiny-Public"]
    assert set(names(search("tiny", Account("visitor", token)))) == {"bob/Tiny-Public", "ann/Secret-Tiny"}
    assert search("nothing-like-this", NOBODY) == []


def test_one_letter_is_not_searched(hub: Hub) -> None:
    hub.log.clear()

    assert HubSearch()("t", NOBODY) == []
    assert not list(hub.log)


def test_a_silent_hub_is_not_asked_again_for_a_while(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_user("bob")
    hub.put("bob/Tiny", {"config.json": b"{}"})
    now = [100.0]
    search = HubSearch(clock=lambda: now[0])
    with monkeypatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
        assert search("tiny", NOBODY) == []

    assert search("tiny", NOBODY) == []
    now[0] += SECONDS_OF_SILENCE + 1
    assert names(search("tiny", NOBODY)) == ["bob/Tiny"]


def test_an_answer_that_is_no_list_of_models_is_no_trouble(hub: Hub) -> None:
    hub.fault("GET", "/api/models", status=500)

    assert HubSearch()("tiny", NOBODY) == []


def test_what_an_open_list_shows_stays_at_its_place() -> None:
    assert kept_in_place(["a/1", "a/2"], ["b/1", "a/2"], "a") == ["a/1", "a/2", "b/1"]
    assert kept_in_place(["a/1", "a/2"], [], "2") == ["a/1", "a/2"]

    many = [f"a/{i}" for i in range(MAX_OFFERED)]
    joined = kept_in_place(many, ["b/1", "b/17"], "1")
    assert len(joined) == MAX_OFFERED
    assert {"b/1", "b/17"} <= set(joined)
    assert all(joined[i] == name for i, name in enumerate(many) if "1" in name)
    assert kept_in_place(["x"] * MAX_OFFERED, ["x/1"], "x")[-1] == "x/1"
