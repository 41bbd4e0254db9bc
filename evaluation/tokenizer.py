"""A model's tokenizer: in this process or, on a server, in one whose crash affects nothing else.

The files of a tokenizer are strangers' programs: patterns, replacements that feed each other, tables of any size. Their
author decides what a short text costs. So a server runs them in processes with limits of time and memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from checkpoints.confined import Confined, ConfinedError, LimitError
from checkpoints.problems import Problem
from checkpoints.typed_text import excess
from evaluation.error import EvaluationError, words_of

# Seconds of processor time and bytes of memory for one text, or to read the files.
SECONDS, MEMORY = 60, 2 << 30
# Texts that are read at the same time.
WORKERS = 3

_answered_apart = Confined(
    "evaluation.tokenizer_process", "answered", ready="ready", seconds=SECONDS, memory=MEMORY, workers=WORKERS
)
_is_apart = False


def keep_apart() -> None:
    """Run tokenizers that are read from now on in processes of their own."""
    global _is_apart
    _is_apart = True


def warm_up() -> None:
    """On a server, start a process for tokenizers, with its libraries."""
    if _is_apart:
        _answered_apart.warm_up()


def check_tokenizer(name: str, folder: Path, model: Path) -> None:
    """On a server, refuse a tokenizer that cannot be used before other programs run it. Arguments and errors as for
    `read_tokenizer`."""
    if _is_apart:
        read_tokenizer(name, folder, model)


def check_length(*texts: str) -> None:
    """On a server, refuse texts that would take a tokenizer too long.

    Raises:
        EvaluationError: one of them is too long.
    """
    if _is_apart and (problem := next(filter(None, map(excess, texts)), None)):
        raise EvaluationError(problem)


def read_tokenizer(name: str, folder: Path, model: Path) -> Any:
    """The tokenizer in a folder.

    Args:
        name: of the model, for errors
        folder: its files; they have to stay as long as the tokenizer
        model: folder of the model that it is for, with its config

    Raises:
        EvaluationError: there is none, it makes no tokens, or it takes too much time or memory.
    """
    try:
        if _is_apart:
            tokenizer: Any = ApartTokenizer(name, folder, model)
        else:
            tokenizer = opened(folder, model)
        works = len(tokenizer("a b")["input_ids"]) > 0
    except EvaluationError as error:
        if error.problems[0].code == "tokenizer-limit":
            raise
        raise _unusable(name, error.problems[0].values["words"]) from error
    except Exception as error:
        raise _unusable(name, words_of(error)) from error
    if not works:
        raise EvaluationError(Problem("empty-tokenizer", {"model": name}))
    return tokenizer


def opened(folder: str | Path, model: str | Path) -> Any:
    """The tokenizer in a folder, as transformers opens it. Arguments as for `read_tokenizer`."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    return AutoTokenizer.from_pretrained(
        folder, config=config, local_files_only=True, trust_remote_code=False
    )


def _unusable(name: str, words: str) -> EvaluationError:
    return EvaluationError(Problem("tokenizer-unusable", {"model": name, "words": words}))


class ApartTokenizer:
    """A tokenizer of transformers in another process, as far as it is used.

    Its attributes are called as transformers calls them.
    """

    is_fast: bool
    vocab_size: int
    model_max_length: int
    name_or_path: str
    padding_side: str
    chat_template: str | dict[str, str] | None
    special_tokens_map: Mapping[str, str]
    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    unk_token_id: int | None
    pad_token_id: int | None

    def __init__(self, name: str, folder: Path, model: Path):
        self._name = name
        # A folder may hold another tokenizer later.
        stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()]
        self._place = [str(folder), str(model), str(sorted(stamps))]
        vars(self).update(self._ask("attributes", []))

    def __call__(
        self, text: str | Sequence[str], *, return_tensors: str | None = None, **options: Any
    ) -> Any:
        from transformers import BatchEncoding

        check_length(*([text] if isinstance(text, str) else text))
        if "padding" in options:
            options |= {"padding_side": self.padding_side, "pad_token_id": self.pad_token_id}
        return BatchEncoding(self._ask("encode", text, options), tensor_type=return_tensors)

    def encode(self, text: str, **options: Any) -> list[int]:
        return list(self(text, **options)["input_ids"])

    def decode(self, tokens: Any, **options: Any) -> str:
        return str(self._ask("decode", _plain(tokens), options))

    def batch_decode(self, rows: Any, **options: Any) -> list[str]:
        return [self.decode(row, **options) for row in rows]

    def convert_ids_to_tokens(self, token: int) -> str:
        return str(self._ask("name", token))

    def get_chat_template(self) -> str:
        """The chat template.

        Raises:
            ValueError: there is none, or there are several and none is the default.
        """
        found = self.chat_template
        if isinstance(found, dict):
            found = found.get("default")
        if found is None:
            raise ValueError("it has no chat template, or several, of which none is the default")
        return found

    def _ask(self, what: str, given: Any, options: Mapping[str, Any] | None = None) -> Any:
        """What the tokenizer answers.

        Raises:
            EvaluationError: it cannot, or takes too much time or memory.
        """
        try:
            return _answered_apart([self._place, what, given, options or {}])
        except LimitError as error:
            values = {"model": self._name, "seconds": SECONDS, "memory": MEMORY / 1e9}
            raise EvaluationError(Problem("tokenizer-limit", values)) from error
        except ConfinedError as error:
            words = words_of(error)
            values = {"model": self._name, "words": words.partition(": ")[2] or words}
            raise EvaluationError(Problem("tokenizer-fails", values)) from error


def _plain(tokens: Any) -> Any:
    """Numbers of tokens, in a list, an array or a tensor, as JSON can write them."""
    if hasattr(tokens, "tolist"):
        return tokens.tolist()
    return [*map(int, tokens)] if isinstance(tokens, Sequence) else int(tokens)
