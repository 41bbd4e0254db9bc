"""Models in llama.cpp answer as they do in transformers, in a process that may end without harm."""

from __future__ import annotations

import gc
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import GenerationConfig

from evaluation import EvaluationError, LanguageModel, reply
from evaluation.__main__ import CANNOT_BE_JUDGED, DONE, main
from evaluation.answering_model import GenerationSettings
from evaluation.confine import LANDLOCK, NAMESPACE
from evaluation.gguf_metadata import gguf_metadata
from evaluation.llama_model import LlamaModel, _context, _request, load_gguf
from evaluation.sandbox import ask
from tests import ROOT
from tests.evaluation.conftest import make_network, make_tokenizer

pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
from tests.evaluation.tiny_gguf import write_gguf

ASK = [{"role": "user", "content": "What is a merge? 합치면? 漢字 🙂 <s>"}]
Pair = tuple[LanguageModel, LlamaModel]


@pytest.fixture
def make_pair(make_model: Callable[..., LanguageModel], tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    """The same tiny model in transformers and in llama.cpp."""
    opened: list[LlamaModel] = []

    def make(network: Any = None, tokenizer: Any = None) -> Pair:
        network = network or make_network(max_position_embeddings=4096)
        tokenizer = tokenizer or make_tokenizer()
        opened.append(load_gguf(write_gguf(tmp_path / "tiny.gguf", network, tokenizer)))
        return make_model(network, tokenizer), opened[-1]

    yield make
    for model in opened:
        model.server.close()


def endless() -> Any:
    """A network without a token that ends an answer, and its tokenizer.

    llama.cpp takes token 2 for the end then: long drawn answers also need `ends=False`.
    """
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    return make_network(max_position_embeddings=4096, eos_token_id=None), tokenizer


def process_of(model: LlamaModel) -> psutil.Process:
    running = model.server._running
    assert running
    return psutil.Process(running._process.pid)


def greedy(model: Any, tokens: int = 37) -> tuple[str, int, int, str]:
    answer = reply(model, ASK, max_new_tokens=tokens, temperature=0)
    return "".join(answer), answer.prompt_tokens, answer.new_tokens, answer.finish


@pytest.mark.parametrize("template", ["its own", None])
def test_an_answer_is_the_same_in_both(make_pair: Callable[..., Pair], template: str | None) -> None:
    tokenizer = make_tokenizer(adds_bos=True, template=None) if template is None else make_tokenizer()
    network = make_network(max_position_embeddings=4096)
    slow, quick = make_pair(network, tokenizer)

    assert quick.has_chat_template == slow.has_chat_template == (template is not None)
    assert (quick.device, quick.runs_as, slow.runs_as) == ("cpu", "all F32, llama.cpp", "float32")
    assert greedy(quick) == greedy(slow)


def test_the_token_that_ends_an_answer_counts_and_is_not_shown(make_pair: Callable[..., Pair]) -> None:
    network, tokenizer = make_network(max_position_embeddings=4096), make_tokenizer()
    with torch.no_grad():
        network.lm_head.weight[1] = 3 * network.lm_head.weight.mean(0)  # now and then the likeliest
        network.lm_head.weight[1] += 0.6 * network.lm_head.weight[5:40].sum(0)
    network.generation_config = GenerationConfig(eos_token_id=1)
    slow, quick = make_pair(network, tokenizer)

    expected = greedy(slow, 200)
    assert expected[3] == "end"

    assert greedy(quick, 200) == expected
    whole = reply(quick, ASK, max_new_tokens=expected[2] + 5, temperature=0, ends=False)
    list(whole)
    assert (whole.new_tokens, whole.finish) == (expected[2] + 5, "length")


def test_sampling_is_the_same_kind(make_pair: Callable[..., Pair]) -> None:
    _, model = make_pair(*endless())

    def answer(**how: Any) -> str:
        return "".join(reply(model, ASK, max_new_tokens=25, **how))

    first = answer(temperature=1.0, top_p=0.95, seed=1)
    assert answer(temperature=1.0, top_p=0.95, seed=1) == first != answer(temperature=1.0, top_p=0.95, seed=2)
    assert answer(temperature=0) == answer(temperature=5, top_p=1e-6) != answer(temperature=5, top_p=1.0)
    answer(temperature=1.0, seed=-1)
    answer(temperature=1.0, seed=2**32 - 1)


def test_draws_follow_the_models_own_distribution(make_pair: Callable[..., Pair]) -> None:
    """Temperature comes first, then the share of the likeliest; nothing else is left out."""
    slow, quick = make_pair(*endless())
    tokens = slow.tokens("A merge")
    logits = slow.network(torch.tensor([tokens])).logits[0, -1]
    likely, order = (logits / 1.5).softmax(-1).sort(descending=True)
    kept = {int(token) for token in order[likely.cumsum(-1) - likely < 0.5]}
    drawn: Counter[int] = Counter()
    for seed in range(100):
        asked = _request(tokens, GenerationSettings(1, 1.5, 0.5, seed, True))
        asked |= {"stream": False, "return_tokens": True}
        drawn.update(quick.server.ask("/completion", asked)["tokens"])

    assert set(drawn) <= kept
    assert len(drawn) > min(len(kept), 20) / 2
    assert drawn[int(order[0])] < 100 * 1.5 * float(likely[0] / likely[: len(kept)].sum()) + 10


def test_stop_and_close_end_an_answer(make_pair: Callable[..., Pair]) -> None:
    _, model = make_pair(*endless())
    stop = threading.Event()

    answer = reply(model, ASK, max_new_tokens=3000, ends=False, stop=stop)
    next(answer)
    stop.set()
    list(answer)
    assert answer.finish == "stopped" and answer.new_tokens < 3000

    closed = reply(model, ASK, max_new_tokens=3000, ends=False)
    next(closed)
    closed.close()
    assert (closed.finish, greedy(model, 5)[2]) == ("stopped", 5)


def test_a_crash_is_a_sentence_and_the_next_answer_comes_from_a_new_process(
    make_pair: Callable[..., Pair],
) -> None:
    _, model = make_pair(*endless())
    before = process_of(model)
    expected = greedy(model, 10)

    answer = reply(model, ASK, max_new_tokens=3000, ends=False)
    next(answer)
    os.kill(before.pid, signal.SIGSEGV)
    with pytest.raises(EvaluationError, match=r"llama\.cpp ended while it ran .*tiny\.gguf"):
        list(answer)

    assert greedy(model, 10) == expected
    assert process_of(model) != before


def test_a_model_leaves_memory_when_it_is_idle(
    make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.llama_model.SECONDS_IDLE", 1)
    _, model = make_pair(*endless())
    expected = greedy(model, 10)

    deadline = time.monotonic() + 60
    while not model.server.ask("/props")["is_sleeping"]:
        assert time.monotonic() < deadline

    assert greedy(model, 10) == expected


def test_answers_of_one_model_take_turns(make_pair: Callable[..., Pair]) -> None:
    _, model = make_pair(*endless())
    expected = greedy(model, 300)
    stop = threading.Event()
    first = reply(model, ASK, max_new_tokens=3000, temperature=0)
    next(first)
    waiting = reply(model, ASK, max_new_tokens=5, stop=stop)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit("".join, waiting)
        stop.set()
        assert (answer.result(60), waiting.finish) == ("", "stopped")
    for _ in first:
        if first.new_tokens >= 300:
            break
    first.close()

    assert first.text.startswith(expected[0])


def test_the_file_may_be_deleted_while_the_model_is_loaded(
    make_pair: Callable[..., Pair], tmp_path: Path
) -> None:
    _, model = make_pair(*endless())
    expected = greedy(model, 10)
    (tmp_path / "tiny.gguf").unlink()

    model.server.close()

    assert greedy(model, 10) == expected


def test_the_process_is_confined(make_pair: Callable[..., Pair]) -> None:
    _, model = make_pair()
    place = Path("/proc") / str(process_of(model).pid)
    if not place.exists():
        pytest.skip("not Linux")

    limits = {line[:26].strip(): line[26:].split()[0] for line in (place / "limits").read_text().splitlines()}
    assert limits["Max core file size"] == "0"
    assert int(limits["Max data size"]) < 5 << 30
    means = ask("json:dumps", {"obj": 1}, readable=[]).confined_by
    assert ("NoNewPrivs:\t1" in (place / "status").read_text()) == (means == LANDLOCK)
    assert ((place / "root/.").stat().st_ino != Path("/").stat().st_ino) == (means == NAMESPACE)
    variables = (place / "environ").read_text()
    assert "HF_" not in variables
    assert "OMP_WAIT_POLICY=PASSIVE" in variables
    assert process_of(model).net_connections("inet") == []


def test_the_process_ends_with_the_model(make_model: Callable[..., LanguageModel], tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", *endless())
    model = load_gguf(path)
    process = process_of(model)
    folder = Path(model.server._running._folder)  # type: ignore[union-attr]
    assert folder.exists()

    del model
    gc.collect()

    assert not process.is_running() and not folder.exists()


def test_the_process_ends_with_the_program(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", *endless())
    program = (
        "import os, sys; from pathlib import Path; from evaluation.llama_model import load_gguf;"
        "running = load_gguf(Path(sys.argv[1])).server._running;"
        "print(running._process.pid, running._folder, flush=True); os._exit(1)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    pid, folder = done.stdout.split()
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(pid)).wait(60)
    assert not Path(folder).exists()


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    good = write_gguf(tmp_path / "good.gguf", *endless()).read_bytes()
    broken = {
        "empty": b"",
        "text": b"This is no model at all, but some text.",
        "cut in the header": good[:500],
        "old": good[:4] + struct.pack("<I", 1) + good[8:],
        "endless list": good[:16] + struct.pack("<Q", 1 << 60) + good[24:],
    }
    for name, content in broken.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(EvaluationError, match="no GGUF file, or it is damaged"):
            load_gguf(path)
    path = tmp_path / "cut in the weights"
    path.write_bytes(good[:-1000])
    with pytest.raises(EvaluationError, match=r"llama\.cpp cannot run .*cut in the weights: \S+"):
        load_gguf(path)
    with pytest.raises(EvaluationError, match="no GGUF file"):
        load_gguf(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("stated", "tokens"),
    [
        ({"block_count": 32, "embedding_length": 4096, "attention.head_count": 32}, 4096),  # 512 KB a token
        (
            {
                "block_count": 32,
                "embedding_length": 4096,
                "attention.head_count": 32,
                "attention.head_count_kv": 8,
            },
            8192,
        ),
        (
            {"block_count": 99, "embedding_length": 99999, "attention.head_count": 1, "context_length": 8000},
            256,
        ),
        ({"context_length": 2048}, 2048),
        ({}, 8192),
    ],
)
def test_a_conversation_has_as_many_tokens_as_memory_is_meant_for(
    stated: dict[str, int], tokens: int
) -> None:
    metadata = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in stated.items()}}

    assert _context(metadata) == tokens


def test_nan_is_refused(tmp_path: Path) -> None:
    network, tokenizer = endless()
    network.lm_head.weight.data[7] = torch.nan

    with pytest.raises(EvaluationError, match=r"llama\.cpp cannot run"):
        load_gguf(write_gguf(tmp_path / "nan.gguf", network, tokenizer))


def test_metadata_is_read_without_lists(tmp_path: Path) -> None:
    found = gguf_metadata(write_gguf(tmp_path / "tiny.gguf", *endless()))

    assert found["general.architecture"] == "llama"
    assert found["llama.context_length"] == 4096
    assert "tokenizer.ggml.tokens" not in found and found["tokenizer.ggml.pre"] == "gpt-2"


def test_a_file_is_checked_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", *endless())

    assert main(["chat", str(path), "--new-tokens", "3"]) == DONE
    assert f"{path} (all F32, llama.cpp): of 12 answers" in capsys.readouterr().out

    path.write_bytes(b"nothing")
    assert main(["chat", str(path)]) == CANNOT_BE_JUDGED
    assert "is no GGUF file" in capsys.readouterr().err
