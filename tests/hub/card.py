"""A model card's front matter: the YAML between two lines of ``---`` at the top of README.md."""

from __future__ import annotations

import re
from typing import Any

import yaml

FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
RELATIONS = ("adapter", "merge", "quantized", "finetune")


def parse_card(readme: str) -> dict[str, Any]:
    """The card's metadata, {} where there is none.

    Raises:
        ValueError: the metadata is not a YAML mapping.
    """
    match = FRONT_MATTER.match(readme)
    try:
        metadata = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        raise ValueError(f"Invalid YAML metadata: {error}") from None
    if metadata is not None and not isinstance(metadata, dict):
        raise ValueError(f"YAML metadata should be a mapping, not {type(metadata).__name__}")
    return metadata or {}


def check_card(readme: str) -> tuple[list[str], list[str]]:
    """The errors and the warnings that the Hub has about a card."""
    try:
        metadata = parse_card(readme)
    except ValueError as error:
        return [str(error)], []
    if not metadata:
        return [], ["empty or missing yaml metadata in repo card"]
    errors = [
        f'"{name}" must be a string or a list of strings'
        for name in ("tags", "base_model", "datasets", "language", "license")
        if name in metadata and not all(isinstance(value, str) for value in as_list(metadata[name]))
    ]
    if metadata.get("base_model_relation", "merge") not in RELATIONS:
        errors.append(f'"base_model_relation" must be one of {", ".join(RELATIONS)}')
    return errors, []


def as_list(value: Any) -> list[Any]:
    """YAML lets one value stand for a list of one."""
    return value if isinstance(value, list) else [] if value is None else [value]
