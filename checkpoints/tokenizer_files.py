"""The files that make up a model's tokenizer and its chat templates."""

from __future__ import annotations

from collections.abc import Iterable

# One of these holds the vocabulary.
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
TOKENIZER_FILES = (
    *VOCABULARIES,
    *TEMPLATE_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
CHAT_TEMPLATES = "additional_chat_templates/"


def tokenizer_files(files: Iterable[str]) -> list[str]:
    """Those of a model's files that belong to its tokenizer or its chat templates."""
    return [file for file in sorted(files) if file in TOKENIZER_FILES or is_template(file)]


def is_template(file: str) -> bool:
    return file in TEMPLATE_FILES or file.startswith(CHAT_TEMPLATES)
