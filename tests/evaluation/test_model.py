"""Loading: what is accepted, what is refused with which words, and what stays in memory."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from evaluation import EvaluationError, LanguageModel, load_model, perplexity, reply
from evaluation import model as model_module
from evaluation.model import LoadedModels
from tests.evaluation.conftest import TEXT, make_network, make_tokenizer
from tests.forks import forked, status

MakeFolder = Callable[..., Path]
MakeModel = Callable[..., LanguageModel]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], LoadedModels]:
    """Give the CPU an empty store of models with a bound in bytes."""

    def make(max_bytes: int) -> LoadedModels:
        store = LoadedModels("cpu", max_bytes)
        monkeypatch.setitem(model_module._LOADED, "cpu", store)
        return store

    return make


def test_a_folder_is_loaded_with_its_facts(make_folder: MakeFolder) -> None:
    folder = make_folder()

    model = load_model(folder, device="cpu")

    weights = load_file(folder / "model.safetensors")
    assert (model.name, model.commit, model.device) == (str(folder), None, "cpu")
    assert model.parameters == sum(weight.numel() for weight in weights.values())
    assert model.bytes == 4 * model.parameters
    assert (model.context, model.has_chat_template, model.starts_with_bos) == (64, True, False)
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_bos_is_a_rule_of_the_tokenizer(make_model: MakeModel) -> None:
    assert make_model(tokenizer=make_tokenizer(adds_bos=True)).starts_with_bos


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_on_a_cpu_if_that_fits(
    make_folder: MakeFolder, loaded: Callable[[int], LoadedModels], half: torch.dtype
) -> None:
    folder = make_folder(make_network().to(half))
    size = (folder / "model.safetensors").stat().st_size
    weights = load_file(folder / "model.safetensors")

    loaded(2 * size)
    wide = load_model(folder, device="cpu")
    loaded(2 * size - 1)
    narrow = load_model(folder, device="cpu")

    name = str(half).removeprefix("torch.")
    assert (wide.stored_dtype, wide.dtype, narrow.stored_dtype, narrow.dtype) == (name, "float32", name, name)
    assert wide.bytes == 2 * narrow.bytes
    state = wide.network.state_dict()
    assert all(torch.equal(state[key], weight.float()) for key, weight in weights.items())


def test_a_model_is_loaded_once_also_by_many_at_the_same_time(make_folder: MakeFolder) -> None:
    folder = make_folder()

    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: load_model(folder, device="cpu"), range(8)))

    assert len({id(model) for model in models}) == 1


def test_a_folder_that_was_merged_over_is_loaded_anew(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    before = load_model(folder, device="cpu")
    shutil.move(folder, tmp_path / "old")
    make_folder(make_network(seed=1))

    after = load_model(folder, device="cpu")

    assert after is load_model(folder, device="cpu")
    assert not torch.equal(before.network.lm_head.weight, after.network.lm_head.weight)
    assert before not in model_module._LOADED["cpu"]._models.values()


def test_the_least_recently_used_model_leaves_first(
    make_folder: MakeFolder, loaded: Callable[[int], LoadedModels]
) -> None:
    folders = [make_folder(make_network(seed), name=str(seed)) for seed in range(4)]
    size = (folders[0] / "model.safetensors").stat().st_size
    loaded(3 * size)
    first, second, third = (load_model(folder, device="cpu") for folder in folders[:3])
    assert load_model(folders[0], device="cpu") is first

    load_model(folders[3], device="cpu")

    assert load_model(folders[0], device="cpu") is first
    assert load_model(folders[2], device="cpu") is third
    assert load_model(folders[1], device="cpu") is not second


def test_the_newest_model_stays_even_if_it_alone_is_too_large(
    make_folder: MakeFolder, loaded: Callable[[int], LoadedModels]
) -> None:
    loaded(1)
    folder = make_folder()

    assert load_model(folder, device="cpu") is load_model(folder, device="cpu")


def test_a_model_that_does_not_fit_is_refused_with_the_numbers(
    make_folder: MakeFolder, loaded: Callable[[int], LoadedModels], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(1)
    monkeypatch.setattr(model_module, "_memory", lambda _: (16_000, 8_000))

    with pytest.raises(EvaluationError, match=r"needs 0\.0 GB for its weights, and 0\.0 GB are free"):
        load_model(make_folder(), device="cpu")


def test_memory_that_is_held_is_free_of_models_until_the_work_ends(
    make_folder: MakeFolder, loaded: Callable[[int], LoadedModels], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder()
    size = (folder / "model.safetensors").stat().st_size
    store = loaded(100 * size)
    load_model(folder, device="cpu")
    # What is free while no model is loaded.
    room = [3 * size]
    monkeypatch.setattr(
        model_module, "_memory", lambda _: (9 * size, room[0] - sum(m.bytes for m in store._models.values()))
    )

    with store.hold(2 * size):
        assert len(store._models) == 1  # there was room enough
        with pytest.raises(EvaluationError, match="are free here"), store.hold(2 * size):
            pass
        assert not store._models
        load_model(folder, device="cpu")
        room[0] = int(2.5 * size)
        store._models.clear()
        with pytest.raises(EvaluationError, match="for its weights"):
            load_model(folder, device="cpu")

    assert load_model(folder, device="cpu")


def test_garbage_is_collected_once_for_all_that_leave(
    make_folder: MakeFolder, loaded: Callable[[int], LoadedModels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection takes a second where much is loaded."""
    folders = [make_folder(name=str(number)) for number in range(3)]
    size = (folders[0] / "model.safetensors").stat().st_size
    store = loaded(3 * size)
    collected: list[int] = []
    monkeypatch.setattr(model_module.gc, "collect", lambda: collected.append(len(store._models)))

    for folder in folders[:2]:
        load_model(folder, device="cpu")
    with store.hold(1):
        pass
    assert collected == []

    assert store.make_room(3 * size) > 0
    assert collected == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_does_not_fit_is_read_from_the_disk_when_that_is_asked(
    make_folder: MakeFolder,
    loaded: Callable[[int], LoadedModels],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    dtype: torch.dtype,
) -> None:
    folder = make_folder(make_network().to(dtype))
    texts = [TEXT * 3, TEXT[5:]]
    talk = [{"role": "user", "content": "Hi"}]
    model = load_model(folder, device="cpu")
    whole, *_, said = (
        perplexity(model, texts, context=32),
        *reply(model, talk, max_new_tokens=4, temperature=0),
    )
    loaded(1 << 20)
    monkeypatch.setattr(model_module, "_memory", lambda _: (200_000, 80_000))  # of 150,000 in float32
    offloaded = load_model(folder, device="cpu", offload=tmp_path / "disk")

    found = perplexity(offloaded, texts, context=32)
    *_, said_then = reply(offloaded, talk, max_new_tokens=4, temperature=0)

    assert said_then == said
    assert offloaded.offloaded
    assert offloaded.bytes < 80_000
    assert any(parameter.device.type == "meta" for parameter in offloaded.network.parameters())
    assert found.dtype == "float32"
    assert found.nll_nats == pytest.approx(whole.nll_nats, rel=1e-6)


def test_a_fork_can_load_while_another_thread_of_the_parent_loads(make_folder: MakeFolder) -> None:
    """As on ZeroGPU, where a GPU call is a fork. The child would wait without end."""
    load_model(make_folder(), device="cpu")
    store = model_module._LOADED["cpu"]
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with model_module._reading, store._lock:
            held.set()
            release.wait()

    def load() -> bool:
        with model_module._reading, store._lock:
            return True

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = forked(load)
    release.set()
    holder.join()

    assert status(child) == 0


def drop(folder: Path, name: str) -> None:
    (folder / name).unlink()


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    drop(folder, "model.safetensors")


def with_index(folder: Path, file: str) -> None:
    names = load_file(folder / "model.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, file)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def without_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def with_nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_shape(folder: Path) -> None:
    edit(folder, "config.json", hidden_size=48)


def with_code(folder: Path) -> None:
    """A model of an unknown kind that brings code along, which would leave a file behind."""
    edit(folder, "config.json", model_type="strange", auto_map={"AutoConfig": "code.Config"})
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\nclass Config: pass\n")


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        drop(folder, name)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_config_names_no_kernels_of_the_hub(key: str, make_folder: MakeFolder) -> None:
    """transformers would load compiled code from there."""
    folder = make_folder()
    edit(folder, "config.json", **{key: "eve/kernel"})

    config = load_model(folder, device="cpu").network.config

    assert config._attn_implementation in ("sdpa", "eager")
    assert "eve" not in str(config.to_dict())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: drop(folder, "config.json"), r"has no config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json .* is not JSON"),
        (lambda folder: drop(folder, "model.safetensors"), "has no weights: model.safetensors is missing"),
        (as_pickle, r"has only pytorch_model\.bin.*safetensors/convert"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "not clear which of the two"),
        (
            lambda folder: with_index(folder, "lost.safetensors"),
            r"names lost\.safetensors, which is missing",
        ),
        (
            lambda folder: with_index(folder, "../other/model.safetensors"),
            r"names ../other/model\.safetensors, which is missing",
        ),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text("[]"),
            "index.json is damaged",
        ),
        (without_tensor, r"lacks 1 tensor .* 'model\.layers\.1\.mlp\.up_proj\.weight'"),
        (with_nan, "answers with NaN"),
        (cut, "cannot be loaded"),
        (other_shape, "cannot be loaded"),
        (with_code, "cannot be used"),
        (without_tokenizer, "has no tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "has no tokenizer that can be read"),
    ],
)
def test_a_spoilt_folder_is_refused_with_the_reason(
    make_folder: MakeFolder, spoil: Callable[[Path], object], words: str
) -> None:
    make_folder(name="other")
    folder = make_folder()
    spoil(folder)

    with pytest.raises(EvaluationError, match=words) as refused:
        load_model(folder, device="cpu")

    assert str(folder) in str(refused.value)
    assert not (folder / "ran").exists()


def test_models_that_cannot_continue_a_text_are_refused(make_folder: MakeFolder) -> None:
    small: dict[str, Any] = {"vocab_size": 400, "num_attention_heads": 2, "max_position_embeddings": 64}
    bert = BertConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, **small)
    t5 = T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=2, vocab_size=400)
    torch.manual_seed(0)

    with pytest.raises(EvaluationError, match="both directions"):
        load_model(make_folder(BertForMaskedLM(bert), name="bert"), device="cpu")
    with pytest.raises(EvaluationError, match="cannot be loaded as a causal language model"):
        load_model(make_folder(T5ForConditionalGeneration(t5), name="t5"), device="cpu")


def test_a_model_made_of_several_files(make_folder: MakeFolder) -> None:
    folder = make_folder()
    expected = "".join(reply(load_model(folder, device="cpu"), [{"role": "user", "content": "Hi"}], seed=3))
    make_network().save_pretrained(folder, max_shard_size="20KB")
    drop(folder, "model.safetensors")
    assert len(list(folder.glob("model-*.safetensors"))) > 2

    model = load_model(folder, device="cpu")

    assert "".join(reply(model, [{"role": "user", "content": "Hi"}], seed=3)) == expected


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("./nowhere", {}, "is neither a folder here nor a model's id"),
        (Path("nowhere"), {}, "nowhere: there is no such folder"),
        ("/etc", {"allow_folders": False}, "/etc' is not a model's id"),
        (Path("model"), {"allow_folders": False}, "model: there is no such folder that can be read here"),
        ("a/b@main", {"revision": "dev"}, "two revisions"),
        ("a/b", {"device": "tpu"}, "Expected auto, cpu or cuda"),
    ],
)
def test_a_name_that_cannot_be_meant_is_said(name: str | Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        load_model(name, **{"device": "cpu", **settings})


def test_a_folder_has_no_revisions(make_folder: MakeFolder) -> None:
    with pytest.raises(
        EvaluationError, match="is a folder, and only models on the Hub have revisions such as 'main'"
    ):
        load_model(make_folder(), revision="main", device="cpu")


def test_a_gpu_that_is_not_there_is_said(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EvaluationError, match="there is no GPU here"):
        load_model(make_folder(), device="cuda")
