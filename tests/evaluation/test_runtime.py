"""What runs a model that is to answer, and in which number format."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import evaluation.model as model_module
from checkpoints.problems import Cancelled, DestinationError, Problem
from evaluation import EvaluationError, FetchedModel, LanguageModel, fetch_model, load_fetched, reply, runtime
from evaluation.llama_model import LlamaModel
from evaluation.model import LoadedModels
from evaluation.processor import bytes_per_second, generates_quicker
from evaluation.runtime import TYPES, load_to_answer
from tests.evaluation.conftest import MakeFolder, make_network, make_tokenizer

ASK = [{"role": "user", "content": "What is a merge?"}]


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> LoadedModels:
    """Nothing is loaded before, and all fits."""
    store = LoadedModels("cpu", 10**9)
    monkeypatch.setitem(model_module._LOADED, "cpu", store)
    return store


@pytest.fixture
def half(make_folder: MakeFolder) -> FetchedModel:
    return fetch_model(make_folder(make_network(max_position_embeddings=512).to(torch.bfloat16)))


class Writer:
    """Writes GGUF files, and counts them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.kinds: list[str] = []
        self.folders: list[Path] = []
        self._error = error

    def __call__(self, place: str, kind: str, folder: Path) -> Path:
        from tests.evaluation.tiny_gguf import write_gguf

        self.kinds.append(kind)
        self.folders.append(folder)
        if self._error:
            raise self._error
        network = load_fetched(fetch_model(place), "cpu").network
        return write_gguf(folder / "model.gguf", network, make_tokenizer())


@pytest.mark.parametrize("is_quicker", [True, False])
def test_answers_are_generated_in_the_quicker_type_and_scores_in_float32(
    half: FetchedModel, monkeypatch: pytest.MonkeyPatch, is_quicker: bool
) -> None:
    monkeypatch.setattr(model_module, "generates_quicker", lambda _: is_quicker)

    answers, scores = load_to_answer(half, "cpu"), load_fetched(half, "cpu")

    assert isinstance(answers, LanguageModel)
    assert (answers.dtype, scores.dtype) == ("bfloat16" if is_quicker else "float32", "float32")
    assert (answers is scores) != is_quicker
    assert load_to_answer(half, "cpu") is answers
    assert load_fetched(half, "cpu") is scores


def test_a_model_of_float32_stays_what_it_is(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "generates_quicker", lambda _: True)
    fetched = fetch_model(make_folder())

    scores = load_fetched(fetched, "cpu")

    assert load_to_answer(fetched, "cpu") is scores


def test_speeds_are_measured_once() -> None:
    assert generates_quicker(torch.bfloat16) in (True, False)
    assert 10**7 < bytes_per_second() < 10**13
    assert generates_quicker.cache_info().misses == bytes_per_second.cache_info().misses == 1
    generates_quicker(torch.bfloat16)
    assert generates_quicker.cache_info().misses == 1


def test_what_llama_cpp_runs_is_written_once_and_not_kept(half: FetchedModel) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    write = Writer()

    model = load_to_answer(half, "cpu", write_gguf=write)
    again = load_to_answer(half, "cpu", write_gguf=write)
    asked = load_to_answer(half, "cpu", write_gguf=write, runtime="transformers")

    assert isinstance(model, LlamaModel) and again is model
    assert (write.kinds, write.folders[0].exists()) == (["BF16"], False)
    assert isinstance(asked, LanguageModel)
    said = "".join(reply(model, ASK, max_new_tokens=10, temperature=0))
    assert said == "".join(reply(load_fetched(half, "cpu"), ASK, max_new_tokens=10, temperature=0))
    assert isinstance(load_to_answer(half, "cpu"), LanguageModel)  # nothing writes a file


def test_a_model_that_is_evicted_ends_its_process(half: FetchedModel, store: LoadedModels) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    model = load_to_answer(half, "cpu", write_gguf=Writer())
    assert isinstance(model, LlamaModel) and model.server._running
    process = psutil.Process(model.server._running._process.pid)

    del model
    store.make_room(10**9)
    gc.collect()

    assert not process.is_running()


def test_what_llama_cpp_cannot_run_is_run_by_transformers(half: FetchedModel) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    write = Writer(EvaluationError(Problem("no-gguf", {"file": "x"})))

    assert isinstance(load_to_answer(half, "cpu", write_gguf=write), LanguageModel)
    assert isinstance(load_to_answer(half, "cpu", write_gguf=write), LanguageModel)
    assert len(write.kinds) == 1
    with pytest.raises(EvaluationError, match="no GGUF file"):
        load_to_answer(half, "cpu", write_gguf=write, runtime="llama.cpp")


def test_what_is_remembered_of_models_is_bounded(half: FetchedModel) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    write = Writer(EvaluationError(Problem("no-gguf", {"file": "x"})))
    for number in range(300):
        runtime._REFUSED.append(number)

    assert isinstance(load_to_answer(half, "cpu", write_gguf=write), LanguageModel)
    gc.collect()

    assert len(runtime._REFUSED) == 256 and half.identity in runtime._REFUSED
    assert not runtime._WRITING


def test_a_conversion_that_was_stopped_is_no_reason_to_refuse(half: FetchedModel) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    with pytest.raises(Cancelled):
        load_to_answer(half, "cpu", write_gguf=Writer(Cancelled()))

    assert isinstance(load_to_answer(half, "cpu", write_gguf=Writer()), LlamaModel)


def test_without_llama_cpp_it_is_named(half: FetchedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.runtime.has_llama_cpp", lambda: False)

    assert isinstance(load_to_answer(half, "cpu", write_gguf=Writer()), LanguageModel)
    with pytest.raises(EvaluationError, match=r"alloy-merge\[llama\]"):
        load_to_answer(half, "cpu", write_gguf=Writer(), runtime="llama.cpp")


@pytest.mark.parametrize(
    ("room", "speed", "kind"),
    [
        (1.0, 1.0, "BF16"),
        (0.6, 1.0, "Q8_0"),
        (0.4, 1.0, "Q4_K_M"),
        (1.0, 0.6, "Q8_0"),
        (1.0, 0.01, "Q4_K_M"),
        (0.9, 0.4, "Q4_K_M"),
    ],
)
def test_the_most_exact_type_that_fits_and_is_quick_is_taken(
    half: FetchedModel, monkeypatch: pytest.MonkeyPatch, room: float, speed: float, kind: str
) -> None:
    """Room and speed as shares of what the weights take in 16 bits, and of five times that in a second."""
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    weights = load_fetched(half, "cpu").parameters
    monkeypatch.setitem(model_module._LOADED, "cpu", LoadedModels("cpu", int(2 * weights * room)))
    monkeypatch.setattr("evaluation.runtime.bytes_per_second", lambda: 10.0 * weights * speed)
    write = Writer(EvaluationError(Problem("no-gguf", {"file": "x"})))

    load_to_answer(half, "cpu", write_gguf=write)

    assert write.kinds == [kind]
    assert list(TYPES) == ["BF16", "Q8_0", "Q4_K_M"]


def test_a_model_for_which_there_is_no_room_in_any_type_is_refused(
    half: FetchedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    monkeypatch.setattr(model_module, "_memory", lambda _: (30_000, 10_000))

    with pytest.raises(EvaluationError, match="free"):
        load_to_answer(half, "cpu", write_gguf=Writer(), runtime="llama.cpp")


def test_models_are_written_at_the_same_time_and_each_once(make_folder: MakeFolder) -> None:
    """A large model keeps no visitor of another waiting."""
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    networks = [make_network(seed, max_position_embeddings=512) for seed in (1, 2)]
    fetched = [fetch_model(make_folder(network, name=f"m{n}")) for n, network in enumerate(networks)]
    together = threading.Barrier(2, timeout=60)
    write = Writer()

    def write_together(*arguments: Any) -> Path:
        together.wait()
        return write(*arguments)

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(load_to_answer, one, "cpu", write_gguf=write_together) for one in fetched * 2]
        first, second, *again = [one.result() for one in asked]

    assert again == [first, second] and first is not second
    assert len(write.kinds) == 2


def test_what_may_pass_is_tried_again(half: FetchedModel) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    write = Writer(DestinationError(Problem("no-gguf", {"file": "x"})))

    load_to_answer(half, "cpu", write_gguf=write)
    load_to_answer(half, "cpu", write_gguf=write)

    assert len(write.kinds) == 2


def test_on_a_server_nothing_is_written_of_a_model_whose_tokenizer_is_too_costly(
    half: FetchedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    values = {"model": half.name, "seconds": 60, "memory": 2.0}

    def refuse(*_: object) -> None:
        raise EvaluationError(Problem("tokenizer-limit", values))

    write = Writer()
    monkeypatch.setattr(runtime, "check_tokenizer", refuse)

    with pytest.raises(EvaluationError, match="more than 60 seconds"):
        load_to_answer(half, "cpu", write_gguf=write)
    assert not write.kinds
