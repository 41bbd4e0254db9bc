"""A tokenizer that runs in a process of its own: it answers as in this one, and what it costs is nobody else's."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from checkpoints.confined import Confined
from checkpoints.typed_text import MAX_CHARACTERS, MAX_WORD
from evaluation import EvaluationError, LanguageModel, load_model, perplexity, reply, tokenizer
from evaluation.benchmark import benchmark
from evaluation.llama_model import LlamaModel, LlamaServer
from evaluation.tokenizer import ApartTokenizer, read_tokenizer
from tests.evaluation.conftest import TEXT, MakeFolder, make_network, make_tokenizer

TEXTS = ["", "a b", "안녕하세요 <s>x</s>", TEXT, "\ud83e\udd99 🦙"]
NAMED = {"default": "{{ messages }}", "other": "x"}


def words() -> Any:
    """A tokenizer of words, which has no special token but one for those that it does not know."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")


KINDS = {
    "bos": lambda: make_tokenizer(adds_bos=True),
    "template": make_tokenizer,
    "templates": lambda: make_tokenizer(template=NAMED),  # type: ignore[arg-type]
    "words": words,
}


SECONDS = 3


@pytest.fixture(scope="module")
def processes() -> Iterator[Confined]:
    """Those that run tokenizers, with less time and memory than a server gives them."""
    made = Confined(
        "evaluation.tokenizer_process", "answered", seconds=SECONDS, wait=120, memory=1 << 30, workers=2
    )
    yield made
    made.close()


@pytest.fixture(autouse=True)
def apart(processes: Confined, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "_answered_apart", processes)
    monkeypatch.setattr(tokenizer, "_is_apart", True)


@pytest.fixture
def both(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], tuple[Any, Any]]:
    """A tokenizer apart, and the same in this process."""

    def make(written: Any) -> tuple[Any, Any]:
        folder = make_folder(tokenizer=written)
        other = read_tokenizer("it", folder, folder)
        assert isinstance(other, ApartTokenizer)
        monkeypatch.setattr(tokenizer, "_is_apart", False)
        return other, read_tokenizer("it", folder, folder)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_as_in_this_process(kind: str, both: Callable[[Any], tuple[Any, Any]]) -> None:
    other, own = both(KINDS[kind]())

    for text in TEXTS[:-1]:
        for options in ({}, {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}):
            theirs, ours = other(text, **options), own(text, **options)
            assert theirs.keys() == ours.keys()
            assert [*map(tuple, theirs.get("offset_mapping", []))] == ours.get("offset_mapping", [])
            assert theirs["input_ids"] == ours["input_ids"] == other.encode(text, **options)
            assert other.decode(theirs["input_ids"], skip_special_tokens=True) == own.decode(
                ours["input_ids"], skip_special_tokens=True
            )
    if own.pad_token_id is None:
        own.pad_token_id = other.pad_token_id = own.eos_token_id or own.unk_token_id
    own.padding_side = other.padding_side = "left"
    padded, expected = (
        one(TEXTS[1:4], padding="longest", return_tensors="pt")["input_ids"] for one in (other, own)
    )
    assert torch.equal(padded, expected)
    assert other.batch_decode(padded) == own.batch_decode(expected)
    assert other.decode(1) == own.decode(1)
    for name in ("is_fast", "vocab_size", "model_max_length", "chat_template", "bos_token_id", "eos_token"):
        assert getattr(other, name) == getattr(own, name)
    assert other.convert_ids_to_tokens(2) == own.convert_ids_to_tokens(2)
    if own.chat_template:
        assert other.get_chat_template() == own.get_chat_template()
    else:
        with pytest.raises(ValueError, match="no chat template"):
            other.get_chat_template()


@pytest.mark.parametrize(
    ("text", "code"), [("x" * (MAX_WORD + 1), "word-too-long"), ("x " * MAX_CHARACTERS, "text-too-long")]
)
def test_a_long_text_reaches_no_tokenizer(
    text: str, code: str, both: Callable[[Any], tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, own = both(words())
    monkeypatch.setattr(tokenizer, "_answered_apart", None)
    in_llama_cpp = LlamaModel("it", None, "BF16", 0, 64, {}, cast(LlamaServer, None), None)
    assert own(text)["input_ids"]  # on a laptop

    monkeypatch.setattr(tokenizer, "_is_apart", True)

    asks: list[Callable[[], object]] = [
        lambda: other(text), lambda: other.encode(text), lambda: other(["a", text]), lambda: in_llama_cpp.tokens(text),
    ]  # fmt: skip
    for ask in asks:
        with pytest.raises(EvaluationError) as caught:
            ask()
        assert [problem.code for problem in caught.value.problems] == [code]


def test_a_process_has_its_libraries_before_the_first_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Confined("evaluation.tokenizer_process", "answered", ready="ready", seconds=60, memory=1 << 30)
    monkeypatch.setattr(tokenizer, "_answered_apart", made)

    tokenizer.warm_up()

    assert made.beside("tests.evaluation.imported", "is_imported")(
        "transformers.models.auto.tokenization_auto"
    )
    made.close()


def test_a_model_answers_and_is_scored_with_it(
    make_folder: MakeFolder,
    kmmlu: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make_folder(make_network(max_position_embeddings=512))

    def all_of(model: LanguageModel) -> list[Any]:
        answer = reply(model, [{"role": "user", "content": "안녕"}], temperature=0, max_new_tokens=9)
        scored = benchmark(model, ["kmmlu_here"], folder=kmmlu, few_shot=0, batch_size=3)
        return ["".join(answer), perplexity(model, TEXT).nll_nats, scored.scores[0].answers]

    model = load_model(folder, device="cpu")
    assert isinstance(model.tokenizer, ApartTokenizer)
    apart_from_it = all_of(model)
    monkeypatch.setattr(tokenizer, "_is_apart", False)
    (folder / "config.json").touch()  # another one, then
    model = load_model(folder, device="cpu")
    assert not isinstance(model.tokenizer, ApartTokenizer)
    assert apart_from_it == all_of(model)


def replaced(folder: Path, **parts: Any) -> Path:
    """Put parts into a tokenizer's file."""
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | parts))
    return folder


def growing(letter: str) -> dict[str, Any]:
    """Replacements that make a thousand letters of one, ten times over."""
    step = {"type": "Replace", "pattern": {"String": letter}, "content": letter * 1000}
    return {"type": "Sequence", "normalizers": [step] * 10}


def backtracking() -> dict[str, Any]:
    pattern = {"Regex": "(" * 6 + "x" + "+)*" * 6 + "y"}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def long_word() -> dict[str, Any]:
    """A word of 300,000 letters, whose pieces may end anywhere: each end is tried for each beginning."""
    words = {"[UNK]": 0, "</s>": 1, "b": 2, "##a": 3}
    return {
        "normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 300_000},
        "pre_tokenizer": None,
        "added_tokens": [],
        "model": {
            "type": "WordPiece", "vocab": words, "unk_token": "[UNK]",
            "continuing_subword_prefix": "##", "max_input_chars_per_word": 10**9,
        },
    }  # fmt: skip


SLOW = ("by a long word", "by a pattern")
ATTACKS = {
    "by a long word": (long_word(), "tokenizer-limit"),
    "at loading": ({"normalizer": growing("a")}, "tokenizer-limit"),
    "by a text": ({"normalizer": growing("x")}, "tokenizer-limit"),
    "by a pattern": ({"pre_tokenizer": backtracking()}, ""),
    "by a deep file": ({"normalizer": {"type": "Sequence", "normalizers": []}}, "tokenizer-unusable"),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.nightly] * (kind in SLOW)) for kind in ATTACKS]
)
def test_what_a_tokenizer_costs_is_nobody_elses(kind: str, make_folder: MakeFolder) -> None:
    parts, code = ATTACKS[kind]
    honest = load_model(make_folder(name="honest"), device="cpu")
    folder = replaced(make_folder(name="attack"), **parts)
    if kind == "by a deep file":
        (folder / "tokenizer.json").write_text("[" * 100_000)
    ended = threading.Event()
    seen: list[str] = []

    def attack() -> None:
        try:
            load_model(folder, device="cpu").tokens("x" * 3000)
            seen.append("")
        except EvaluationError as error:
            seen.append(error.problems[0].code)
            assert error.problems[0].message
        finally:
            ended.set()

    thread = threading.Thread(target=attack)
    thread.start()
    answered = 0
    while not ended.is_set() or not answered:
        assert honest.tokens("a b")
        assert load_model(make_folder(name=f"honest{answered % 2}"), device="cpu")
        answered += 1
    thread.join()

    assert seen[0] == code or not code
