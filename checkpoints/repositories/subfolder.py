"""A folder inside a repository on the Hub, or one file of it: `owner/name/unet`, `owner/name/vae/model.safetensors`.

A file that is a part of a model comes with the other parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import replace

from checkpoints.gguf_files import belongs
from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories.repository import Location, Repository


class Subfolder:
    """The files below a place in a repository, as a repository of their own.

    Raises:
        CheckpointError: there is nothing at that place.
    """

    def __init__(self, whole: Repository, place: str):
        self.whole = whole
        self.name = f"{whole.name}/{place}"
        self.version = whole.version
        self.is_folder = whole.is_folder
        self.place = place = place.strip("/")
        folder = place.rpartition("/")[0] if place in whole.files else place
        self.prefix = f"{folder}/" if folder else ""
        self.files = {
            file.removeprefix(self.prefix): size
            for file, size in whole.files.items()
            if belongs(place, file) or file.startswith(f"{place}/")
        }
        if not self.files:
            folders = sorted({file.partition("/")[0] for file in whole.files if "/" in file})
            values = {"model": whole.name, "place": place, "folders": folders}
            raise CheckpointError(Problem("no-part", values, self.name))

    @property
    def read_by(self) -> Set[str]:
        return self.whole.read_by

    def is_local(self, file: str) -> bool:
        return self.whole.is_local(self.prefix + file)

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        self.whole.read_into(self.prefix + file, start, buffer)

    def location(self, files: Iterable[str]) -> Location:
        return replace(self.whole.location(self.prefix + file for file in files), place=self.place)

    def interrupt(self) -> None:
        self.whole.interrupt()

    def close(self) -> None:
        self.whole.close()
