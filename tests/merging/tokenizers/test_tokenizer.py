"""Tokens and their numbers from every file that may hold them: the same as those of the tokenizer that loads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoModelForCausalLM, AutoTokenizer

from checkpoints import open_checkpoint
from merging import CheckpointError, make_plan, read_recipe, run_plan
from merging.recipe.recipe import ModelReference
from merging.tokenizers.tokenizer import Tokenizer, read_tokenizer
from tests.tiny import save_sentencepiece, save_tokenizer, tiny_llama, without_tokenizer_json

MODEL = sentencepiece_model_pb2.ModelProto()
MERGES = [("a", "b"), ("ab", "c"), ("x", "y")]
CHAT = ["<|im_start|>", "<|im_end|>"]
ROWS = 320


def settings(folder: Path, *without: str, **more: Any) -> Path:
    file = folder / "tokenizer_config.json"
    found = json.loads(file.read_text()) | more
    file.write_text(json.dumps({key: value for key, value in found.items() if key not in without}))
    return folder


def numbered(folder: Path, **numbers: int) -> Path:
    (folder / "added_tokens.json").write_text(json.dumps(numbers))
    return folder


def byte_pairs(folder: Path, added: list[str]) -> Path:
    return without_tokenizer_json(save_tokenizer(folder, MERGES, added))


def word_pieces(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc", *(f"##{letter}" for letter in "abc")]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder


def decoder(**tokens: int) -> dict[str, Any]:
    return {str(number): {"content": token, "special": True} for token, number in tokens.items()}


# Pieces of `save_sentencepiece` with MERGES: three special ones, the bytes, three words, a space and the letters.
PIECES = 3 + 256 + 3 + 1 + 26
FORMS: dict[str, Callable[[Path], Path]] = {
    "tokenizer.json": lambda f: save_tokenizer(f, MERGES, CHAT),
    "vocab.json": lambda f: byte_pairs(f, CHAT),
    "vocab.json, numbers in a file": lambda f: numbered(
        settings(byte_pairs(f, []), "added_tokens_decoder"), **{CHAT[0]: 261, CHAT[1]: 262}
    ),
    "vocab.json, special tokens without a number": lambda f: settings(
        byte_pairs(f, CHAT), pad_token="<pad>", cls_token="<cls>"
    ),
    "vocab.txt": word_pieces,
    "SentencePiece": lambda f: save_sentencepiece(f, MERGES),
    "SentencePiece, user-defined pieces": lambda f: save_sentencepiece(f, MERGES, ["<user>", "<tool>"]),
    "SentencePiece, added tokens": lambda f: save_sentencepiece(
        f, MERGES, added_tokens_decoder=decoder(**{"<s>": 1, CHAT[0]: PIECES, CHAT[1]: PIECES + 1})
    ),
    "SentencePiece, numbers in a file": lambda f: numbered(
        save_sentencepiece(f, MERGES), **{CHAT[0]: PIECES}
    ),
    "SentencePiece, special tokens without a number": lambda f: save_sentencepiece(
        f,
        MERGES,
        pad_token={"__type": "AddedToken", "content": "<pad>", "lstrip": False},
        extra_special_tokens=CHAT,
    ),
}


def read(folder: Path) -> Tokenizer:
    if not (folder / "config.json").exists():
        tiny_llama(folder, 0, vocab_size=ROWS)
    return read_tokenizer(ModelReference("model"), open_checkpoint(str(folder)))


@pytest.mark.parametrize("form", FORMS)
def test_tokens_have_the_numbers_that_the_loaded_tokenizer_gives_them(form: str, tmp_path: Path) -> None:
    found = read(FORMS[form](tmp_path))

    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert found.ids == loaded.get_vocab()
    assert found.added.keys() == loaded.get_added_vocab().keys()
    assert len(found.ids) > 5


def recipe(*models: Path, **more: Any) -> str:
    listed = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    return yaml.safe_dump({"merge_method": "linear", "models": listed, "dtype": "float32", **more})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("vocab.json", "tokenizer.json"),
        ("tokenizer.json", "vocab.json"),
        ("vocab.json, numbers in a file", "vocab.json"),
    ],
)
def test_one_vocabulary_in_two_forms_is_one_vocabulary(one: str, other: str, tmp_path: Path) -> None:
    for name, form in (("one", one), ("other", other)):
        tiny_llama(FORMS[form](tmp_path / name), 0, vocab_size=263)

    plan = make_plan(read_recipe(recipe(tmp_path / "one", tmp_path / "other", tokenizer_source="union")))

    assert plan.ok and plan.tokenizer
    assert [model.alignment for model in plan.models] == [None, None]
    assert (plan.tokenizer.begins_with, plan.tokenizer.appended) == (str(tmp_path / "one"), ())
    assert [(model.unknown, model.lost) for model in plan.tokenizer.models] == [(0, 0), (0, 0)]


def test_a_sentencepiece_model_and_what_was_saved_of_it_as_fast_are_one_vocabulary(tmp_path: Path) -> None:
    tiny_llama(save_sentencepiece(tmp_path / "slow", MERGES), 0, vocab_size=PIECES)
    AutoTokenizer.from_pretrained(tmp_path / "slow").save_pretrained(tiny_llama(tmp_path / "fast", 1))
    tiny_llama(tmp_path / "fast", 1, vocab_size=PIECES)
    assert (tmp_path / "fast/tokenizer.json").exists()

    for names in (("slow", "fast"), ("fast", "slow")):
        models = [tmp_path / name for name in names]
        plan = make_plan(read_recipe(recipe(*models, tokenizer_source="union")))

        assert plan.ok and plan.tokenizer
        assert plan.tokenizer.begins_with == str(models[0])
        assert [model.alignment for model in plan.models] == [None, None]


@pytest.mark.parametrize("longer", ["slow", "fast"])
def test_more_words_are_seen_in_every_form(longer: str, tmp_path: Path) -> None:
    """Of two SentencePiece models the union begins with the one that splits into longer words."""
    tiny_llama(save_sentencepiece(tmp_path / "base"), 0, vocab_size=PIECES - 3)
    grown = save_sentencepiece(tmp_path / "grown")
    model = (grown / "tokenizer.model").read_bytes()
    grown_model = type(MODEL).FromString(model)
    for word in ("ab", "abc"):
        grown_model.pieces.add(piece=word, score=-1000, type=1)
    (grown / "tokenizer.model").write_bytes(grown_model.SerializeToString())
    if longer == "fast":
        AutoTokenizer.from_pretrained(grown).save_pretrained(grown)
        (grown / "tokenizer.model").unlink()
    tiny_llama(grown, 1, vocab_size=PIECES - 1)

    plan = make_plan(read_recipe(recipe(tmp_path / "base", grown, tokenizer_source="union")))

    assert plan.ok and plan.tokenizer
    assert plan.tokenizer.begins_with == str(grown)
    assert plan.tokenizer.appended == ()


APPENDED = {
    "vocab.json": 263,
    "vocab.json, numbers in a file": 263,
    "vocab.json, special tokens without a number": 265,
    "SentencePiece": PIECES,
    "SentencePiece, added tokens": PIECES + 2,
    "SentencePiece, numbers in a file": PIECES + 1,
    "SentencePiece, special tokens without a number": PIECES + 3,
}


@pytest.mark.parametrize("form", APPENDED)
def test_tokens_are_appended_in_the_form_that_the_tokenizer_has(form: str, tmp_path: Path) -> None:
    rows = APPENDED[form]
    base = tiny_llama(FORMS[form](tmp_path / "base"), 0, vocab_size=rows, eos_token_id=1)
    before = AutoTokenizer.from_pretrained(base).get_vocab()
    other = save_tokenizer(tiny_llama(tmp_path / "other", 1, vocab_size=rows), added=["<|1st|>", "<|2nd|>"])
    row = load_file(other / "model.safetensors")["model.embed_tokens.weight"][259].float()
    wanted = recipe(base, other, tokenizer={"source": "base", "tokens": {"<|1st|>": {}, "<|2nd|>": {}}})
    plan = make_plan(read_recipe(wanted), str(tmp_path / "out"))
    assert plan.problems == ()

    run_plan(plan, str(tmp_path / "out"))

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == before | {"<|1st|>": rows, "<|2nd|>": rows + 1}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == rows + 2
    torch.testing.assert_close(model.get_input_embeddings().weight[rows + 1].detach(), row)
    tokens = tokenizer("ab<|2nd|>x", return_tensors="pt")
    assert rows + 1 in tokens["input_ids"]
    assert tokenizer.decode(tokens["input_ids"][0]).endswith("<|2nd|>x")
    assert model.generate(**tokens, max_new_tokens=2).shape[1] > tokens["input_ids"].shape[1]
    # What was written is read as it was meant.
    again = read_tokenizer(ModelReference("out"), open_checkpoint(str(tmp_path / "out")))
    assert again.ids == tokenizer.get_vocab()


def test_rows_of_a_model_with_a_sentencepiece_model_go_to_their_tokens(tmp_path: Path) -> None:
    """The union of a SentencePiece tokenizer and a byte-level one, both ways round."""
    slow = tiny_llama(save_sentencepiece(tmp_path / "slow", MERGES), 0, vocab_size=PIECES)
    fast = tiny_llama(save_tokenizer(tmp_path / "fast", MERGES), 1, vocab_size=261)
    for first, second in ((slow, fast), (fast, slow)):
        to = tmp_path / f"of {first.name}"

        run_plan(make_plan(read_recipe(recipe(first, second, tokenizer_source="union"))), str(to))

        merged = load_file(to / "model.safetensors")["model.embed_tokens.weight"]
        tokens = AutoTokenizer.from_pretrained(to).get_vocab()
        rows = {}
        for path in (slow, fast):
            matrix = load_file(path / "model.safetensors")["model.embed_tokens.weight"].float()
            own = AutoTokenizer.from_pretrained(path).get_vocab()
            rows[path.name] = {token: matrix[number] for token, number in own.items()}
        assert tokens.keys() == rows["slow"].keys() | rows["fast"].keys()
        for token, number in tokens.items():
            found = [own[token] for own in rows.values() if token in own]
            torch.testing.assert_close(merged[number], torch.stack(found).mean(0))


def test_the_plan_says_how_vocabularies_of_several_forms_differ(tmp_path: Path) -> None:
    slow = tiny_llama(save_sentencepiece(tmp_path / "slow", MERGES), 0, vocab_size=PIECES)
    pairs = tiny_llama(byte_pairs(tmp_path / "pairs", CHAT), 1, vocab_size=263)

    [problem] = make_plan(read_recipe(recipe(slow, pairs))).problems

    assert problem.code == "vocabulary"
    assert f"{slow} has {PIECES} rows for {PIECES} tokens, " in problem.message
    assert f"{pairs} has 263 rows for 263 tokens, " in problem.message


def test_a_chat_vector_needs_no_tokenizer_json(tmp_path: Path) -> None:
    """The receiver's vocabulary grew; its tokenizer is taken over as it stands."""
    base = tiny_llama(save_sentencepiece(tmp_path / "base", MERGES), 0, vocab_size=PIECES)
    chat = tiny_llama(save_sentencepiece(tmp_path / "chat", MERGES), 1, base, vocab_size=PIECES)
    grown = numbered(save_sentencepiece(tmp_path / "grown", MERGES), **{"<ko>": PIECES})
    tiny_llama(grown, 2, vocab_size=PIECES + 1)
    listed = [{"model": str(grown)}, {"model": str(chat)}]
    text = yaml.safe_dump({"merge_method": "chat_vector", "base_model": str(base), "models": listed})

    plan = make_plan(read_recipe(text))
    run_plan(plan, str(tmp_path / "out"))

    assert plan.problems == ()
    for name in ("tokenizer.model", "added_tokens.json", "tokenizer_config.json"):
        ours, theirs = (json_or_bytes(folder / name) for folder in (tmp_path / "out", grown))
        assert ours == theirs
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()["<ko>"] == PIECES


def json_or_bytes(path: Path) -> Any:
    return json.loads(path.read_text()) if path.suffix == ".json" else path.read_bytes()


REFUSED: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a class that numbers in its own way": (
        lambda f: settings(save_sentencepiece(f), tokenizer_class="PegasusTokenizer"),
        "tokenizer-class",
        r"\(pegasus\) numbers tokens in its own way",
    ),
    "a stranger's program": (
        lambda f: settings(save_sentencepiece(f), tokenizer_class="BaichuanTokenizer"),
        "tokenizer-class",
        "baichuan",
    ),
    "another file of SentencePiece": (
        lambda f: (save_sentencepiece(f) / "tokenizer.model").rename(f / "sentencepiece.bpe.model"),
        "tokenizer-form",
        r"only sentencepiece\.bpe\.model",
    ),
    "words without merges": (
        lambda f: (byte_pairs(f, []) / "merges.txt").unlink(),
        "tokenizer-form",
        r"only vocab\.json",
    ),
    "numbers that do not follow on": (
        lambda f: numbered(save_sentencepiece(f), **{"<new>": PIECES + 5}),
        "added-tokens",
        "do not follow on: <new>",
    ),
    "a word that is renumbered": (
        lambda f: settings(save_sentencepiece(f), added_tokens_decoder=decoder(**{"</s>": 7})),
        "added-tokens",
        "do not follow on: </s>",
    ),
    "tiktoken": (
        lambda f: (save_sentencepiece(f) / "tokenizer.model").write_text("IQ== 0\nIg== 1\n"),
        "damaged-tokenizer",
        r"tokenizer\.model of model",
    ),
    "an empty SentencePiece model": (
        lambda f: (save_sentencepiece(f) / "tokenizer.model").write_bytes(b""),
        "damaged-tokenizer",
        r"tokenizer\.model of model",
    ),
    "a list of words": (
        lambda f: (byte_pairs(f, []) / "vocab.json").write_text("[1]"),
        "damaged-tokenizer",
        r"vocab\.json of model",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_numbered_for_sure_is_refused_by_name(case: str, tmp_path: Path) -> None:
    damage, code, said = REFUSED[case]
    damage(tmp_path)

    with pytest.raises(CheckpointError, match=said) as refused:
        read(tmp_path)

    [problem] = refused.value.problems
    assert problem.code == code
    assert "tokenizer.json" in problem.fix or "tokenizer_source" in problem.fix
