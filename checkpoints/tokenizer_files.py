"""The small files of a model that loaders read besides its config: tokenizer, chat templates, processors, pooling."""

from __future__ import annotations

import re
from collections.abc import Iterable

# One of these holds the vocabulary.
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "tiktoken.model",
    "spm.model",
    "source.spm",
    "sentencepiece.model",
    "encoder.json",
    "prophetnet.tokenizer",
    "spm_char.model",
    "vocab-src.json",
    "byte_maps.json",
)
# Names that models give it themselves.
OTHER_VOCABULARY = re.compile(r"[^/]+\.(tiktoken|spm|bpe|vocab)")
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
TOKENIZER_FILES = (
    *VOCABULARIES,
    *TEMPLATE_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "bpe.codes",
    "target.spm",
    "target_vocab.json",
    "vocab-tgt.json",
    "normalizer.json",
    "dict.txt",
    "emoji.json",
    "entity_vocab.json",
    "word_shape.json",
    "word_pronunciation.json",
)
CHAT_TEMPLATES = "additional_chat_templates/"
# Tokenizers of bytes or characters need no vocabulary.
WITHOUT_VOCABULARY = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
# What prepares images and sound, and what sentence-transformers does with a model's answer.
PROCESSOR = re.compile(r"([^/]+_)?(pre)?processor_config\.json")
PARTS = "modules.json"
AFTER = re.compile(rf"{re.escape(PARTS)}|config_sentence_transformers\.json|sentence_[a-z]+_config\.json")
PART_FOLDER = re.compile(r"\d+_\w+/[^/]+")
DATA = re.compile(r".*\.(json|txt|safetensors)")


def tokenizer_files(files: Iterable[str]) -> list[str]:
    """Those of a model's files that belong to its tokenizer or its chat templates."""
    return [
        file
        for file in sorted(files)
        if file in TOKENIZER_FILES or is_template(file) or OTHER_VOCABULARY.fullmatch(file)
    ]


def is_template(file: str) -> bool:
    return file in TEMPLATE_FILES or file.startswith(CHAT_TEMPLATES)


def has_vocabulary(files: Iterable[str]) -> bool:
    """Whether one of the files holds a vocabulary; a tokenizer's settings alone are no tokenizer."""
    return any(file in VOCABULARIES or OTHER_VOCABULARY.fullmatch(file) for file in files)


def companion_files(files: Iterable[str]) -> list[str]:
    """Those of a model's files that loaders of the whole model read, tokenizer and weights aside."""
    return [
        file
        for file in sorted(files)
        if PROCESSOR.fullmatch(file) or AFTER.fullmatch(file) or PART_FOLDER.fullmatch(file)
    ]


def is_data(file: str) -> bool:
    """Whether a companion can be taken over without running anything, now or when it is loaded."""
    return DATA.fullmatch(file) is not None
