"""What a process answers that runs tokenizers and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from evaluation.tokenizer import opened

# Tokenizers that a process keeps.
KEPT = 8
ATTRIBUTES = (
    "is_fast", "vocab_size", "model_max_length", "name_or_path", "padding_side", "chat_template", "special_tokens_map",
    "bos_token", "eos_token", "unk_token", "pad_token", "bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id",
)  # fmt: skip


def ready() -> None:
    """Import what the first tokenizer takes most of its time for."""
    _without_torch()
    from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401

    AutoConfig.for_model("llama")


def answered(question: tuple[tuple[str, str, str], str, Any, dict[str, Any]]) -> Any:
    """What a tokenizer says.

    Args:
        question: its folder, that of its model and what identifies their content; what is asked, about what, and
            options of transformers
    """
    place, what, given, options = question
    tokenizer = _kept(*place)
    match what:
        case "attributes":
            return _attributes(tokenizer)
        case "encode":
            if "pad_token_id" in options:
                tokenizer.pad_token_id = options.pop("pad_token_id")
            return dict(tokenizer(given, **options))
        case "decode":
            return tokenizer.decode(given, **options)
        case _:
            return tokenizer.convert_ids_to_tokens(given)


def _attributes(tokenizer: Any) -> Mapping[str, Any]:
    found = {name: getattr(tokenizer, name) for name in ATTRIBUTES}
    if all(found[name] is None for name in ("pad_token_id", "unk_token_id", "eos_token_id")):
        found["pad_token_id"] = 0  # any will do, since a model does not look at it
    return found


@lru_cache(maxsize=KEPT)
def _kept(folder: str, model: str, _content: str) -> Any:
    _without_torch()
    return opened(folder, model)


def _without_torch() -> None:
    """Let transformers read tokenizers without torch, in half of the time and memory."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
