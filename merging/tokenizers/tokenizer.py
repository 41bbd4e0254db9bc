"""A model's tokens and their numbers, from whichever file holds them; nothing of a tokenizer is run.

tokenizer.json | vocab.json and merges.txt | a SentencePiece model | vocab.txt
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from checkpoints import Checkpoint, read_json
from checkpoints.checkpoint import read_mapping
from checkpoints.problems import CheckpointError, Problem
from checkpoints.tokenizer_files import VOCABULARIES, tokenizer_files
from checkpoints.wording import few
from merging.recipe.recipe import ModelReference

TOKENIZER, TOKENIZER_CONFIG, ADDED_TOKENS = "tokenizer.json", "tokenizer_config.json", "added_tokens.json"
# Other forms of a vocabulary, which would contradict a tokenizer.json with more tokens.
OTHER_FORMS = (*(file for file in VOCABULARIES if file != TOKENIZER), "merges.txt", ADDED_TOKENS)
# Forms in which a token's number is its place, if the tokenizer is one of these; others (XLM-RoBERTa, Pegasus, NLLB,
# and those with a program of their own) number tokens in their own way.
BY_PLACE = {
    "tokenizer.model": {
        *("llama", "codellama", "mistral", "mixtral", "gemma", "gemma2", "gemma3", "gemma3text", "gptsw3")
    },
    "spiece.model": {"albert", "xlnet", "bigbird"},
    "vocab.txt": {"bert", "distilbert", "electra", "mobilebert"},
}
# The tokens that a tokenizer gives a role, in the order in which loaders number those that have no number yet.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MORE_SPECIAL = ("additional_special_tokens", "extra_special_tokens")
# Special tokens of BERT's family, whose settings need not name them.
OF_BERT = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
# What an added token is unless its file says otherwise: taken literally, anywhere in a text.
LITERAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
# Kinds of SentencePiece's pieces that are found in a text before it is split.
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4


@dataclass
class Tokenizer:
    """A tokenizer in the notation of tokenizer.json.

    Args:
        model: that it belongs to
        document: the whole
        file: that holds its vocabulary
        ids: number of each token
        added: of the added tokens, what the file says of each
    """

    model: ModelReference
    document: dict[str, Any]
    file: str = TOKENIZER
    ids: dict[str, int] = field(default_factory=dict)
    added: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        vocabulary = self.document["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: pairs of a token and its score
            self.ids = {token: number for number, (token, _) in enumerate(vocabulary)}
        else:
            self.ids = dict(vocabulary)
        for token in self.document.get("added_tokens") or ():
            self.added[token["content"]] = token
            self.ids[token["content"]] = token["id"]
        if not all(
            type(token) is str and type(number) is int and number >= 0 for token, number in self.ids.items()
        ):
            raise ValueError("tokens are texts, and have numbers from 0 on")
        merges = self.document["model"].get("merges") or []
        if not isinstance(merges, list) or not all(type(merge) is str or _is_pair(merge) for merge in merges):
            raise ValueError("merges are pairs of texts")

    def token(self, number: int) -> str | None:
        return next((token for token, own in self.ids.items() if own == number), None)

    def extends(self, shorter: Tokenizer) -> bool:
        """Whether it has all tokens of another under the same numbers, and more words, split in the same way."""
        more_words = len(self.ids) - len(self.added) > len(shorter.ids) - len(shorter.added)
        if not more_words or not shorter.ids.items() <= self.ids.items():
            return False
        if self.document["model"].get("type") != shorter.document["model"].get("type"):
            return False
        return shorter._merges() <= self._merges()

    def _merges(self) -> set[str]:
        if self.file in ("tokenizer.model", "spiece.model"):
            # SentencePiece joins any two pieces that make a piece.
            words = self.ids if self.document["model"]["type"] == "BPE" else ()
            return {
                f"{word[:cut]} {word[cut:]}"
                for word in words
                for cut in range(1, len(word))
                if word[:cut] in words and word[cut:] in words
            }
        merges = self.document["model"].get("merges") or ()
        return {merge if isinstance(merge, str) else " ".join(merge) for merge in merges}

    def with_tokens(self, appended: Sequence[dict[str, Any]], checkpoint: Checkpoint) -> dict[str, Any]:
        """The files, by name, that have to be rewritten for more added tokens.

        Args:
            appended: in the notation of tokenizer.json, numbered on from the last token
            checkpoint: the model's
        """
        written: dict[str, Any] = {}
        if self.file == TOKENIZER:
            document = copy.deepcopy(self.document)
            document["added_tokens"] = [*(document.get("added_tokens") or ()), *appended]
            written[TOKENIZER] = document
            listed = list(appended)
        else:
            # Loaders number what is listed first: with it, all that had its number from them until now.
            words = len(self.document["model"]["vocab"])
            listed = [*(token for token in self.added.values() if token["id"] >= words), *appended]
        settings = _settings(checkpoint)
        if isinstance(settings.get("added_tokens_decoder"), dict):
            for token in listed:
                entry = {key: value for key, value in token.items() if key != "id"}
                settings["added_tokens_decoder"].setdefault(str(token["id"]), entry)
        if settings:
            written[TOKENIZER_CONFIG] = settings
        if self.file != TOKENIZER and (
            "added_tokens_decoder" not in settings or ADDED_TOKENS in checkpoint.files
        ):
            written[ADDED_TOKENS] = read_mapping(checkpoint, ADDED_TOKENS) | {
                token["content"]: token["id"] for token in listed
            }
        return written


def read_tokenizer(model: ModelReference, checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of a model.

    Raises:
        CheckpointError: it has none, or none whose tokens can be numbered for sure.
    """
    found = tokenizer_files(checkpoint.files)
    file = next((form for form in (TOKENIZER, "vocab.json", *BY_PLACE) if form in found), "")
    try:
        if file == TOKENIZER:
            return Tokenizer(model, read_json(checkpoint, TOKENIZER))
        if file == "vocab.json" and "merges.txt" in found:
            lines = checkpoint.read_file("merges.txt").decode().splitlines()
            merges = [line for line in lines if line.strip() and not line.startswith("#version")]
            words = {"type": "BPE", "vocab": read_json(checkpoint, file), "merges": merges}
            return Tokenizer(model, _document(model, checkpoint, words), file)
        if file in BY_PLACE:
            if (kind := _kind(checkpoint)) not in BY_PLACE[file]:
                raise _refusal("tokenizer-class", model, kind=kind, file=file)
            if file == "vocab.txt":
                lines = checkpoint.read_file(file).decode().split("\n")
                vocabulary = {line: number for number, line in enumerate(lines) if line}
                marked = {word: _described(word, special=True) for word in OF_BERT if word in vocabulary}
                words = {"type": "WordPiece", "vocab": vocabulary}
                return Tokenizer(model, _document(model, checkpoint, words, marked), file)
            return Tokenizer(model, _document(model, checkpoint, *_pieces(checkpoint, file)), file)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _refusal("damaged-tokenizer", model, file=file) from None
    forms = [file for file in found if file in OTHER_FORMS]
    raise _refusal("tokenizer-form" if forms else "no-tokenizer", model, files=forms)


def special_tokens(checkpoint: Checkpoint) -> dict[str, str]:
    """The special tokens that a model's tokenizer names, by their role."""
    found = _named(checkpoint)
    return {role: token["content"] for role in ROLES if (token := found.get(role))}


def _named(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """The special tokens that a tokenizer's settings name, in the order of loaders, by role or else by themselves."""
    told: dict[str, Any] = {}
    for file in ("special_tokens_map.json", TOKENIZER_CONFIG):
        settings = read_mapping(checkpoint, file)
        told |= {key: settings[key] for key in (*ROLES, *MORE_SPECIAL) if settings.get(key)}
    found = {role: told[role] for role in ROLES if role in told}
    for key in MORE_SPECIAL:
        more = told.get(key) or ()
        named = more.values() if isinstance(more, dict) else more if isinstance(more, list) else ()
        found |= {str(token): token for token in named}
    return {role: token for role, named in found.items() if (token := _described(named, special=True))}


def _is_pair(merge: Any) -> bool:
    return isinstance(merge, list) and [*map(type, merge)] == [str, str]


def _described(token: Any, **flags: Any) -> dict[str, Any]:
    """A token as tokenizer.json describes it; empty if it is none."""
    told = token if isinstance(token, dict) else {"content": token}
    if not isinstance(told.get("content"), str):
        return {}
    return LITERAL | {key: told[key] for key in LITERAL if key in told} | {"content": told["content"]} | flags


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    return read_mapping(checkpoint, TOKENIZER_CONFIG)


def _kind(checkpoint: Checkpoint) -> str:
    """What a tokenizer is called by its class, else by the model's type."""
    named = _settings(checkpoint).get("tokenizer_class") or checkpoint.config.get("model_type") or ""
    return str(named).lower().replace("_", "").removesuffix("fast").removesuffix("tokenizer")


def _pieces(checkpoint: Checkpoint, file: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The vocabulary of a SentencePiece model, and those of its pieces that are added tokens."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(checkpoint.read_file(file))
    except DecodeError:
        raise ValueError("no SentencePiece model") from None
    if not model.pieces:
        raise ValueError("no pieces")
    kind = {1: "Unigram", 2: "BPE"}.get(model.trainer_spec.model_type, "other")
    vocabulary = {piece.piece: number for number, piece in enumerate(model.pieces)}
    marked = {
        piece.piece: _described(piece.piece, special=piece.type != USER_DEFINED)
        for piece in model.pieces
        if piece.type in (UNKNOWN, CONTROL, USER_DEFINED)
    }
    return {"type": kind, "vocab": vocabulary}, marked


def _document(
    model: ModelReference,
    checkpoint: Checkpoint,
    words: Mapping[str, Any],
    marked: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """A tokenizer of several files in the notation of tokenizer.json, with its added tokens numbered as loaders do.

    Args:
        words: its vocabulary
        marked: words that are added tokens

    Raises:
        CheckpointError: loaders number the added tokens in another way than the files.
    """
    vocabulary = words["vocab"]
    added = {token: {**told, "id": vocabulary[token]} for token, told in marked.items()}
    named = {told["content"]: told for told in _named(checkpoint).values()}
    added |= {token["content"]: token for token in _listed(checkpoint, named)}
    number = max([len(vocabulary) - 1, *(token["id"] for token in added.values())])
    for token, told in named.items():
        if token not in added:
            number += token not in vocabulary
            added[token] = {**told, "id": vocabulary.get(token, number)}
    own = {token: told["id"] for token, told in added.items()}
    behind = sorted(number for token, number in own.items() if token not in vocabulary)
    renumbered = [token for token in own if vocabulary.get(token, own[token]) != own[token]]
    if renumbered or behind != list(range(len(vocabulary), len(vocabulary) + len(behind))):
        at_fault = renumbered or [token for token in own if token not in vocabulary]
        raise _refusal("added-tokens", model, tokens=few(at_fault))
    return {"model": dict(words), "added_tokens": sorted(added.values(), key=lambda token: token["id"])}


def _listed(checkpoint: Checkpoint, named: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The added tokens that files give numbers to."""
    decoder = _settings(checkpoint).get("added_tokens_decoder")
    if decoder is not None:
        for number, token in decoder.items():
            yield _described(token, id=int(number))
    elif ADDED_TOKENS in checkpoint.files:
        for token, number in read_json(checkpoint, ADDED_TOKENS).items():
            special = token in named
            yield _described(token, id=int(number), special=special, normalized=not special)


def _refusal(code: str, model: ModelReference, **values: Any) -> CheckpointError:
    return CheckpointError(Problem(code, {"model": str(model), **values}, str(model)))
