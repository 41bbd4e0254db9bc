"""The tokenizer of a model, from the metadata of its GGUF file, in the notation of tokenizer.json. Nothing is run.

Two kinds are known: byte-level BPE, whose way of splitting texts the file names, and SentencePiece's BPE.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from checkpoints.gguf.header import Value

# Kinds of tokens.
UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5
# Limits that no vocabulary reaches: characters of a token, and of all.
LONGEST, MAX_CHARACTERS = 1024, 20_000_000
T = TypeVar("T")

ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGITS = [{"type": "Digits", "individual_digits": True}]


def _split(pattern: str) -> list[dict[str, Any]]:
    return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}]


def _byte_level(*, splits: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": splits}


# How texts are split before tokens are made of bytes: parts of a pre-tokenizer, and the names in `tokenizer.ggml.pre`.
_WAYS: tuple[tuple[list[dict[str, Any]], tuple[str, ...]], ...] = (
    ([_byte_level(splits=True)], ("gpt-2", "gpt2", "olmo")),
    ([*_DIGITS, _byte_level(splits=True)], ("smollm", "starcoder", "refact", "command-r")),
    ([*_split(_LLAMA3), _byte_level(splits=False)], ("llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe")),
    (
        [*_split(_LLAMA3.replace("{1,3}", "")), _byte_level(splits=False)],
        ("qwen2", "deepseek-r1-qwen", "megrez"),
    ),
    ([*_split(_TEKKEN), _byte_level(splits=False)], ("tekken",)),
)
_PRE_TOKENIZERS = {name: way for way, names in _WAYS for name in names}
# Those that take a word which is a token as it is, those that begin with a bos token, and those of composed characters.
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "tekken")
_BEGINNING = ("llama-bpe", "llama3", "llama-v3", "tekken")
_COMPOSED = ("qwen2", "deepseek-r1-qwen", "megrez")


def tokenizer_documents(metadata: Mapping[str, Value]) -> dict[str, Any] | None:
    """The content of tokenizer.json and tokenizer_config.json; None where the file does not say enough."""
    made = _Metadata(metadata)
    if not made.tokens:
        return None
    if made.model == "gpt2" and made.splitting in _PRE_TOKENIZERS:
        document = _of_bytes(made)
    elif made.model == "llama":
        document = _of_pieces(made)
    else:
        return None
    return {"tokenizer.json": document, "tokenizer_config.json": _settings(made)}


def splitting_of(metadata: Mapping[str, Value]) -> str:
    """What a file calls its kind of tokenizer, for messages."""
    found = [metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre")]
    return " ".join(each[:40] for each in found if isinstance(each, str) and each.isprintable())


class _Metadata:
    """What metadata say of the tokenizer, each in its type.

    Attributes:
        tokens: by number; empty where they do not fit together
    """

    def __init__(self, metadata: Mapping[str, Value]):
        self._metadata = metadata
        self.model = self._get("model", str, "")
        self.splitting = self._get("pre", str, "gpt-2")
        tokens, kinds = self._get("tokens", list, []), self._get("token_type", list, [])
        while (
            tokens
            and len(kinds) == len(tokens)
            and kinds[-1] == UNUSED
            and str(tokens[-1]).startswith("[PAD")
        ):
            tokens, kinds = tokens[:-1], kinds[:-1]  # rows of the embedding without a token
        scores, merges = self._get("scores", list, []), self._get("merges", list, [])
        is_text = all(type(each) is str for each in (*tokens, *merges))
        fits = is_text and len(set(tokens)) == len(tokens) and len(kinds) in (0, len(tokens))
        fits = (
            fits and max(map(len, tokens), default=0) <= LONGEST and sum(map(len, tokens)) <= MAX_CHARACTERS
        )
        self.tokens: Sequence[str] = tokens if fits else ()
        self.kinds: Sequence[int] = kinds or [1] * len(tokens)
        self.scores: Sequence[float] = scores[: len(tokens)] if len(scores) >= len(tokens) else ()
        self.merges: Sequence[str] = merges
        self.numbers = {token: number for number, token in enumerate(self.tokens)}

    def _get(self, key: str, kind: type[T], default: T) -> T:
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        return value if type(value) is kind else default

    def flag(self, key: str, default: bool) -> bool:
        return self._get(key, bool, default)

    def role(self, name: str) -> str | None:
        number = self._get(f"{name}_token_id", int, -1)
        return self.tokens[number] if 0 <= number < len(self.tokens) else None

    @property
    def architecture(self) -> str:
        return str(self._metadata.get("general.architecture"))

    @property
    def template(self) -> str | None:
        found = self._metadata.get("tokenizer.chat_template")
        return found if type(found) is str else None

    @property
    def adds_bos(self) -> bool:
        return self.flag("add_bos_token", self.model == "llama" or self.splitting in _BEGINNING)

    @property
    def added(self) -> list[dict[str, Any]]:
        """The tokens that are found in a text before it is split."""
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": number, "content": token, **plain, "special": kind != USER_DEFINED}
            for number, (token, kind) in enumerate(zip(self.tokens, self.kinds, strict=True))
            if kind in (UNKNOWN, CONTROL, USER_DEFINED)
        ]


def _of_bytes(made: _Metadata) -> dict[str, Any]:
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": made.splitting in _WHOLE_WORDS,
        "vocab": made.numbers,
        "merges": [merge.split(" ", 1) for merge in made.merges],
    }
    parts = _PRE_TOKENIZERS[made.splitting]
    splitting = parts[0] if len(parts) == 1 else {"type": "Sequence", "pretokenizers": parts}
    normalizer = {"type": "NFC"} if made.splitting in _COMPOSED else None
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return _document(made, model, normalizer, splitting, decoder)


def _of_pieces(made: _Metadata) -> dict[str, Any]:
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": made.role("unknown"),
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": made.numbers,
        "merges": list(_merges(made)),
    }
    is_gemma = made.architecture.startswith("gemma")
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    has_prefix = made.flag("add_space_prefix", not is_gemma)
    normalizers = [{"type": "Prepend", "prepend": "▁"}, replaced] if has_prefix else [replaced]
    normalizer = replaced if len(normalizers) == 1 else {"type": "Sequence", "normalizers": normalizers}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    decoders += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if has_prefix else []
    return _document(made, model, normalizer, None, {"type": "Sequence", "decoders": decoders})


def _merges(made: _Metadata) -> Iterator[list[str]]:
    """What SentencePiece joins, the best first: any two pieces that make a piece, in the order of its score.

    Gemma's scores are not in the order of its pieces, which is the one that counts.
    """
    joined: list[tuple[float, list[str]]] = []
    by_place = made.architecture.startswith("gemma") or not made.scores
    for number, token in enumerate(made.tokens):
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = [pair for pair in cuts if pair[0] in made.numbers and pair[1] in made.numbers]
        pairs.sort(key=lambda pair: (made.numbers[pair[0]], made.numbers[pair[1]]))
        joined += [(-number if by_place else made.scores[number], list(pair)) for pair in pairs]
    joined.sort(key=lambda entry: -entry[0])
    return (pair for _, pair in joined)


def _document(made: _Metadata, model: Any, normalizer: Any, splitting: Any, decoder: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": made.added,
        "normalizer": normalizer,
        "pre_tokenizer": splitting,
        "post_processor": _ends(made),
        "decoder": decoder,
        "model": model,
    }


def _ends(made: _Metadata) -> dict[str, Any] | None:
    """The tokens that are put before and after a text."""
    bos = made.role("bos") if made.adds_bos else None
    eos = made.role("eos") if made.flag("add_eos_token", False) else None
    if bos is None and eos is None:
        return None

    def around(part: str, kind: int) -> list[dict[str, Any]]:
        text = {"Sequence": {"id": part, "type_id": kind}}
        first, last = ([{"SpecialToken": {"id": end, "type_id": kind}}] if end else [] for end in (bos, eos))
        return [*first, text, *last]

    named = {
        end: {"id": end, "ids": [made.numbers[end]], "tokens": [end]} for end in (bos, eos) if end is not None
    }
    both = [*around("A", 0), *around("B", 1)]
    return {"type": "TemplateProcessing", "single": around("A", 0), "pair": both, "special_tokens": named}


def _settings(made: _Metadata) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    named = {f"{role}_token": made.role(name) for role, name in ROLES.items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": made.adds_bos,
        "add_eos_token": made.flag("add_eos_token", False),
        **{role: token for role, token in named.items() if token is not None},
    }
    return settings | ({"chat_template": made.template} if made.template else {})
