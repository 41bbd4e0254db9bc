"""Which GGUF file of a repository is the model, and which files belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable

SUFFIX = ".gguf"
# A model in several files: model-00001-of-00003.gguf.
PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# Files that hold no language model: what makes tokens of images and sounds, and statistics for quantizing.
OTHER = re.compile(r"(^|/|[-_.])(mmproj|imatrix)([-_.]|$)", re.IGNORECASE)


def models(files: Iterable[str]) -> list[str]:
    """The models among files, each by its first file."""
    found = {first_part(file) for file in files if file.endswith(SUFFIX) and not OTHER.search(file)}
    return sorted(found)


def first_part(file: str) -> str:
    """The first file of a model in several; the file itself if it is a whole one."""
    match = PART.fullmatch(file)
    return f"{match['stem']}-00001-of-{match['count']}.gguf" if match else file


def parts(first: str) -> list[str]:
    """All files of the model whose first one this is."""
    match = PART.fullmatch(first)
    if not match:
        return [first]
    count = int(match["count"])
    return [f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def belongs(file: str, other: str) -> bool:
    """Whether two files are one, or parts of one model."""
    return file == other or (PART.fullmatch(file) is not None and first_part(file) == first_part(other))
