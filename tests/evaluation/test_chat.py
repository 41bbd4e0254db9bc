"""Answers: what is written, when it ends, and that two of them never disturb each other."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from evaluation import EvaluationError, LanguageModel, reply
from evaluation.chat import _ScriptEnd
from evaluation.generation import Decoder
from tests import ROOT
from tests.evaluation.conftest import make_network, make_tokenizer

MakeModel = Callable[..., LanguageModel]
ASK = [{"role": "user", "content": "What is a merge? 합치면?"}]
PROMPT = "<|user|>What is a merge? 합치면?</s><|assistant|>"


@pytest.fixture
def endless(make_model: MakeModel) -> LanguageModel:
    """A model with room for thousands of tokens that never ends an answer by itself."""
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    return make_model(
        make_network(max_position_embeddings=4096, eos_token_id=None), tokenizer, name="endless"
    )


@torch.no_grad()
def likeliest(model: LanguageModel, prompt: str, count: int) -> list[int]:
    """Greedy decoding without a cache, a token at a time."""
    tokens = list(model.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    start = len(tokens)
    for _ in range(count):
        tokens.append(int(model.network(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[start:]


def reply_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "reply"]


def test_temperature_zero_writes_the_likeliest_tokens(endless: LanguageModel) -> None:
    expected = likeliest(endless, PROMPT, 12)

    answer = reply(endless, ASK, max_new_tokens=12, temperature=0)
    pieces = list(answer)

    assert "".join(pieces) == answer.text
    assert answer.text == endless.tokenizer.decode(expected).rstrip("\N{REPLACEMENT CHARACTER}")
    assert len(pieces) > 3
    assert answer.prompt_tokens == len(endless.tokenizer(PROMPT)["input_ids"])
    assert (answer.new_tokens, answer.finish) == (12, "length")


def test_the_same_seed_gives_the_same_answer_also_beside_others(endless: LanguageModel) -> None:
    def answer(seed: int) -> str:
        return "".join(reply(endless, ASK, max_new_tokens=30, temperature=1.0, top_p=0.95, seed=seed))

    alone = [answer(1), answer(2)]
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(answer, [1, 2, 1, 2]))

    assert alone[0] != alone[1]
    assert beside == alone * 2


def test_a_small_top_p_leaves_only_the_likeliest_token(endless: LanguageModel) -> None:
    greedy, narrow, wide = (
        "".join(reply(endless, ASK, max_new_tokens=20, **how))
        for how in ({"temperature": 0}, {"temperature": 5, "top_p": 1e-6}, {"temperature": 5, "top_p": 1.0})
    )

    assert narrow == greedy
    assert wide != greedy


def test_the_end_token_ends_and_is_not_shown(make_model: MakeModel) -> None:
    written = likeliest(make_model(make_network(max_position_embeddings=4096)), PROMPT, 30)
    end = written[4]
    network = make_network(max_position_embeddings=4096)
    network.generation_config = GenerationConfig(eos_token_id=[1, end])
    model = make_model(network, name="ends")

    answer = reply(model, ASK, max_new_tokens=30, temperature=0)
    text = "".join(answer)

    length = written.index(end)
    assert text == model.tokenizer.decode(written[:length]).rstrip("\N{REPLACEMENT CHARACTER}")
    assert (answer.new_tokens, answer.finish) == (length + 1, "end")

    whole = reply(model, ASK, max_new_tokens=30, temperature=0, ends=False)
    assert len("".join(whole)) > len(text)
    assert (whole.new_tokens, whole.finish) == (30, "length")


def test_settings_that_come_with_the_model_do_not_count(make_model: MakeModel) -> None:
    """A merge and its parents are judged with the settings that the person chose, and no others."""
    network = make_network(max_position_embeddings=4096)
    network.generation_config = GenerationConfig(
        eos_token_id=1, repetition_penalty=5.0, do_sample=True, temperature=9.0, max_new_tokens=2
    )
    plain, spoilt = make_model(make_network(max_position_embeddings=4096)), make_model(network, name="spoilt")

    texts = {"".join(reply(model, ASK, max_new_tokens=25, temperature=0)) for model in (plain, spoilt)}

    assert len(texts) == 1


def test_stop_ends_within_a_token(endless: LanguageModel) -> None:
    stop = threading.Event()

    answer = reply(endless, ASK, max_new_tokens=3000, stop=stop)
    next(answer)
    stop.set()
    list(answer)

    assert answer.finish == "stopped"
    assert answer.new_tokens < 3000
    assert not reply_threads()


def test_stop_before_the_start_writes_nothing(endless: LanguageModel) -> None:
    stop = threading.Event()
    stop.set()

    answer = reply(endless, ASK, stop=stop)

    assert (list(answer), answer.finish, answer.new_tokens) == ([], "stopped", 0)


def test_an_answer_that_is_closed_or_dropped_stops_its_thread(endless: LanguageModel) -> None:
    closed = reply(endless, ASK, max_new_tokens=3000)
    next(closed)
    closed.close()
    assert (closed.finish, reply_threads()) == ("stopped", [])
    assert closed._inbox.qsize() < 2900

    dropped = reply(endless, ASK, max_new_tokens=3000)
    next(dropped)
    (thread,) = reply_threads()
    del dropped
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_an_error_in_the_thread_reaches_the_caller(
    endless: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("deep inside")

    monkeypatch.setattr(endless.network, "forward", fail)

    with pytest.raises(KeyError, match="deep inside"):
        list(reply(endless, ASK))
    assert not reply_threads()


def test_no_memory_is_said_with_the_name(endless: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(endless.network, "forward", fail)

    with pytest.raises(EvaluationError, match="endless: out of memory while answering"):
        list(reply(endless, ASK))


def test_nan_is_an_error_and_no_answer(endless: LanguageModel) -> None:
    endless.network.lm_head.weight.data[7] = torch.nan

    with pytest.raises(EvaluationError, match="NaN"):
        list(reply(endless, ASK))


def test_speed_counts_what_comes_after_the_first_token(endless: LanguageModel) -> None:
    answer = reply(endless, ASK, max_new_tokens=5)
    assert answer.tokens_per_second == 0.0

    list(answer)

    assert 0 < answer.seconds_to_first_token < answer.seconds
    assert answer.tokens_per_second == pytest.approx(4 / (answer.seconds - answer.seconds_to_first_token))


def test_an_answer_ends_where_the_context_is_full(make_model: MakeModel) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    model = make_model(make_network(eos_token_id=None), tokenizer)

    answer = reply(model, ASK, max_new_tokens=1000)
    list(answer)

    assert answer.prompt_tokens + answer.new_tokens == model.context == 64
    assert answer.finish == "length"
    with pytest.raises(EvaluationError, match=r"has \d+ tokens, and .* reads up to 64"):
        reply(model, ASK * 10)


@pytest.mark.parametrize("text", ["안녕하세요, 반갑습니다! 漢字 and 🙂🙃.", " leading", "a\n\nb  c"])
def test_pieces_are_never_cut_inside_a_character(text: str) -> None:
    tokenizer = make_tokenizer()
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(tokens) > len(text) / 2
    decoder = Decoder(tokenizer)

    pieces = [decoder.add(token) for token in tokens]

    assert "".join([*pieces, decoder.rest()]) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_a_character_that_was_never_finished_is_left_out() -> None:
    tokenizer = make_tokenizer()
    decoder = Decoder(tokenizer)
    tokens = tokenizer("안녕", add_special_tokens=False)["input_ids"]

    pieces = [decoder.add(token) for token in tokens[:-1]]

    assert "".join(pieces) + decoder.rest() == "안"


def test_without_a_chat_template_a_plain_script_is_used(make_model: MakeModel) -> None:
    network = make_network(max_position_embeddings=4096)
    model = make_model(network, make_tokenizer(adds_bos=True, template=None))
    asked = [{"role": "system", "content": "Be brief."}, *ASK]

    answer = reply(model, asked, max_new_tokens=8, temperature=0)
    text = "".join(answer)

    script = f"<s>Be brief.\n\nUser: {ASK[0]['content']}\nAssistant:"
    assert not model.has_chat_template
    assert answer.prompt_tokens == len(model.tokenizer(script, add_special_tokens=False)["input_ids"])
    expected = model.tokenizer.decode(likeliest(model, script, 8))
    assert text == expected.rstrip("\N{REPLACEMENT CHARACTER}").lstrip()


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_the_script_ends_at_the_next_line_of_the_person(size: int) -> None:
    text = " Rome.\nUse it.\nUser: And Spain?"
    script = _ScriptEnd()
    told = ""

    for at in range(0, len(text), size):
        if not script.ended:
            told += script.add(text[at : at + size], last=False)

    assert (told, script.ended) == ("Rome.\nUse it.", True)


def test_what_only_looked_like_the_end_of_the_script_is_told() -> None:
    script = _ScriptEnd()

    assert script.add(" Rome.\nUse", last=False) == "Rome."
    assert script.add("", last=True) == "\nUse"
    assert not script.ended


@pytest.mark.parametrize(
    ("messages", "settings", "words"),
    [
        ([], {}, "at least one message"),
        ([{"role": "robot", "content": "x"}], {}, "role 'robot'"),
        ([{"role": "user", "content": None}], {}, "type NoneType"),
        (ASK, {"temperature": -1}, "temperature=-1"),
        (ASK, {"top_p": 0}, "top_p=0"),
        (ASK, {"max_new_tokens": 0}, "max_new_tokens=0"),
    ],
)
def test_what_cannot_be_answered_is_said_at_once(
    model: LanguageModel, messages: Any, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(EvaluationError, match=words):
        reply(model, messages, **settings)


def test_a_template_that_refuses_says_why(make_model: MakeModel) -> None:
    template = "{{ raise_exception('System role not supported') }}"
    model = make_model(tokenizer=make_tokenizer(template=template))

    with pytest.raises(EvaluationError, match="System role not supported"):
        reply(model, ASK)


def test_a_program_that_ends_in_the_middle_of_an_answer_ends_well(endless: LanguageModel) -> None:
    program = (
        "import sys; from evaluation import load_model, reply;"
        "answer = reply(load_model(sys.argv[1]), [{'role': 'user', 'content': 'hi'}], max_new_tokens=4000);"
        "print(len(next(answer)) > 0)"
    )
    root = ROOT

    done = subprocess.run(
        [sys.executable, "-c", program, endless.name], cwd=root, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
