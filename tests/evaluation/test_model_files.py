"""Models on the Hub: found at a commit, read only by those who may, and nothing but safetensors downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import constants

from evaluation import EvaluationError, fetch_model, load_model, model_files
from evaluation.model_files import find_model, weight_files
from tests.evaluation.conftest import make_network
from tests.hub import Hub

MakeFolder = Callable[..., Path]


def downloads(hub: Hub) -> set[str]:
    """Names of the files whose content was sent."""
    return {exchange.path.rpartition("/")[2] for exchange in hub.log if exchange.method == "GET"}


def test_a_model_is_loaded_at_its_commit_and_then_asked_for_only(hub: Hub, make_folder: MakeFolder) -> None:
    hub.add_user("ann")
    commit = hub.put("ann/model", make_folder())

    model = load_model("ann/model", token=False, device="cpu")
    hub.log.clear()
    again = load_model("hf://ann/model@main", token=False, device="cpu")

    assert again is model
    assert (model.name, model.commit) == ("ann/model", commit)
    assert {exchange.method for exchange in hub.log} == {"HEAD"}
    assert {exchange.path.rpartition("/")[2] for exchange in hub.log} == {"config.json"}


def test_a_branch_that_moved_is_loaded_anew_and_a_commit_stays(hub: Hub, make_folder: MakeFolder) -> None:
    hub.add_user("ann")
    first = hub.put("ann/moves", make_folder())
    old = load_model("ann/moves", token=False, device="cpu")
    second = hub.put("ann/moves", make_folder(make_network(seed=1), name="new"))

    new = load_model("ann/moves", token=False, device="cpu")

    assert (old.commit, new.commit) == (first, second)
    assert load_model("ann/moves", revision=first, token=False, device="cpu") is old
    assert load_model(f"ann/moves@{second}", token=False, device="cpu") is new


def test_a_private_model_is_never_served_to_somebody_else(hub: Hub, make_folder: MakeFolder) -> None:
    """Neither from memory nor from the files that its owner's visit left on the disk."""
    ann, bob = hub.add_user("ann"), hub.add_user("bob")
    hub.put("ann/secret", make_folder(), private=True)
    mine = load_model("ann/secret", token=lambda: ann, device="cpu")

    for token in (bob, False, "hf_wrong"):
        with pytest.raises(EvaluationError, match="ann/secret") as refused:
            load_model("ann/secret", token=token, device="cpu")
        assert str(token) not in str(refused.value)
        with pytest.raises(EvaluationError, match="ann/secret"):
            load_model("ann/secret", revision=mine.commit, token=token, device="cpu")

    assert load_model("ann/secret", token=ann, device="cpu") is mine


def test_a_gated_model_wants_its_terms_accepted(hub: Hub, make_folder: MakeFolder) -> None:
    hub.add_user("ann")
    bob = hub.add_user("bob")
    hub.put("ann/gated", make_folder(), gated="manual")

    with pytest.raises(EvaluationError, match=f"is gated.*{constants.ENDPOINT}/ann/gated"):
        load_model("ann/gated", token=bob, device="cpu")
    hub.grant("ann/gated", "bob")

    assert load_model("ann/gated", token=bob, device="cpu").name == "ann/gated"


def test_only_what_is_needed_is_downloaded(hub: Hub, make_folder: MakeFolder) -> None:
    hub.add_user("ann")
    hub.put("ann/full", make_folder())
    others = {
        "pytorch_model.bin": b"a pickle",
        "consolidated.safetensors": b"the same weights again",
        "modeling_strange.py": b"raise SystemExit",
        "onnx/model.onnx": b"the same weights again",
        "README.md": b"# A model",
    }
    hub.put("ann/full", others)

    load_model("ann/full", token=False, device="cpu")

    assert "model.safetensors" in downloads(hub)
    assert not downloads(hub) & {Path(name).name for name in others}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ann/nothing", "ann/nothing was not found"),
        ("ann/there@v2", "no revision 'v2'"),
        ("ann/adapter", r"ann/adapter is an adapter, not a whole model. Write `BASE\+ann/adapter`"),
        ("ann/pickle", r"has only pytorch_model\.bin"),
        ("not a name", "not a name' is neither a folder here nor a model's id"),
        ("ann//there", "neither a folder here nor a model's id"),
    ],
)
def test_what_is_not_on_the_hub_is_said(hub: Hub, name: str, words: str) -> None:
    hub.add_user("ann")
    hub.put("ann/there", {"config.json": b"{}"})
    hub.put("ann/adapter", {"adapter_config.json": b"{}"})
    hub.put("ann/pickle", {"config.json": b"{}", "pytorch_model.bin": b"a pickle"})

    with pytest.raises(EvaluationError, match=words):
        load_model(name, token=False, device="cpu")


def test_offline_the_cached_revision_is_judged(
    hub: Hub, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_user("ann")
    commit = hub.put("ann/kept", make_folder())
    load_model("ann/kept", token=False, device="cpu")
    hub.log.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    found = find_model("ann/kept", token=False)

    size = (make_folder() / "model.safetensors").stat().st_size
    assert (found.commit, weight_files("it", found.fetch())) == (commit, {"model.safetensors": size})
    assert load_model(f"ann/kept@{commit}", token=False, device="cpu").commit == commit
    with pytest.raises(EvaluationError, match="ann/other is not in the Hugging Face cache"):
        find_model("ann/other")
    with pytest.raises(EvaluationError, match="adapter ann/kept has no adapter_config"):
        find_model("ann/kept+ann/kept")
    assert len(hub.log) == 0

    monkeypatch.setenv("SPACE_ID", "you/alloy")
    assert find_model("ann/kept").commit == commit
    for visitor in ("hf_visitor", False):
        with pytest.raises(EvaluationError, match="the Hub cannot be asked who may read it"):
            find_model("ann/kept", token=visitor)


def test_a_hub_in_trouble_is_said(hub: Hub, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    token = hub.add_user("ann")
    hub.put("ann/model", make_folder())

    hub.fault(path="config.json", status=500, times=None)
    with pytest.raises(EvaluationError, match="status 500") as refused:
        load_model("ann/model", token=token, device="cpu")
    assert token not in str(refused.value)

    def unreachable(*_: Any, **__: Any) -> None:
        raise httpx2.ConnectError("refused")

    monkeypatch.setattr(model_files, "get_hf_file_metadata", unreachable)
    with pytest.raises(EvaluationError, match=r"The Hub did not answer for ann/model \(ConnectError\)"):
        load_model("ann/model", token=token, device="cpu")


def test_an_index_that_names_pickles_is_refused_before_they_come(hub: Hub, make_folder: MakeFolder) -> None:
    folder = make_folder()
    (folder / "model.safetensors").rename(folder / "weights.bin")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "weights.bin"}}')
    hub.add_user("mallory")
    hub.put("mallory/model", folder)
    hub.log.clear()

    with pytest.raises(EvaluationError, match=r"only weights\.bin"):
        load_model("mallory/model", token=False, device="cpu")
    with pytest.raises(EvaluationError, match=r"only weights\.bin"):
        load_model(folder, device="cpu")

    assert "weights.bin" not in downloads(hub)


def test_a_name_is_a_name_and_no_pattern(hub: Hub, make_folder: MakeFolder) -> None:
    folder = make_folder()
    (folder / "sub").mkdir()
    for name in ("*.json", "sub/huge.json"):
        (folder / name).write_text("{}")
    hub.add_user("mallory")
    hub.put("mallory/model", folder)
    hub.log.clear()

    fetched = fetch_model("mallory/model", token=False, allow_folders=False)

    assert (fetched.folder / "*.json").is_file()
    assert "huge.json" not in downloads(hub)
