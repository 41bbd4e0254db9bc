"""Code that the files of a result name, and loaders run if they are allowed to: `auto_map` in configs.

    "auto_map": {"AutoModel": "modeling_mine.Mine"}                code beside the config
    "auto_map": {"AutoModel": "owner/name--modeling_mine.Mine"}    code in another repository, at any later commit

Code beside the config goes with it. Code elsewhere can change after everyone has read it, so a result does not name it;
on request it gets a copy of what is there now. Nothing here runs any of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from checkpoints import Token
from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories import open_repository
from checkpoints.repositories.repository import Repository, read_small

KEY = "auto_map"
# Settings that may name a repository of compiled kernels, which transformers runs.
KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
REFERENCE = re.compile(r"(?:(?P<repository>[\w.-]+/[\w.-]+)--)?(?P<module>\w+)\.(?P<name>\w+)")
RELATIVE = re.compile(r"^[ \t]*from[ \t]+\.(\w+)[ \t]+import\b", re.MULTILINE)
MOST_FILES = 50
LARGEST = 2_000_000


class CodeSource:
    """Where code is read from: the repository of a parent, or another one.

    Args:
        name: of the repository; empty for a folder
        files: with their sizes
        read: the content of one
    """

    def __init__(self, name: str, files: Mapping[str, int], read: Any):
        self.name = name
        self.files = files
        self._read = read

    def modules(self, module: str) -> dict[str, str] | None:
        """The text of a module and of those that it imports from beside it, by file; None if one is missing."""
        found: dict[str, str] = {}
        waiting = [module]
        while waiting:
            file = f"{waiting.pop()}.py"
            if file in found:
                continue
            if len(found) >= MOST_FILES or self.files.get(file, LARGEST + 1) > LARGEST:
                return None
            found[file] = bytes(self._read(file)).decode(errors="replace")
            waiting += RELATIVE.findall(found[file])
        return found


@dataclass
class CodeFiles:
    """The code of a result.

    Args:
        keep: copy code that is in other repositories
        token: for these

    Attributes:
        own: files to be copied from a parent, which has them, by the parent's index
        texts: files of other repositories, with their text
    """

    keep: bool
    token: Token = field(repr=False)
    own: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    _copied: dict[str, set[str]] = field(default_factory=dict)
    _warnings: list[Problem] = field(default_factory=list)

    @property
    def warnings(self) -> list[Problem]:
        """What the user should know."""
        copied = [
            Problem("code-copied", {"model": name, "files": sorted(files)})
            for name, files in self._copied.items()
        ]
        return [*copied, *self._warnings]

    def settle(self, file: str, document: Any, source: CodeSource, index: int) -> bool:
        """Let a config name only code that the result has, in place; whether that changed it.

        Args:
            file: the config's name
            document: its content
            source: the model that it comes from
            index: of that model in the plan
        """
        changed = self._without_kernels(file, document, source)
        for owner in _owners(document):
            for role, given in list(owner[KEY].items()):
                left = self._kept(file, given, source, index)
                if left == given:
                    continue
                changed = True
                owner[KEY][role] = left
                if left is None or (isinstance(left, list) and not any(left)):
                    del owner[KEY][role]
            if not owner[KEY]:
                del owner[KEY]
        return changed

    def _without_kernels(self, file: str, document: Any, source: CodeSource) -> bool:
        """Take names of repositories with kernels out of a config, in place; whether there were some."""
        if not isinstance(document, dict):
            return False
        named = [key for key in KERNELS if isinstance(document.get(key), str) and "/" in document[key]]
        for key in named:
            values = {"file": file, "model": source.name, "reference": document.pop(key)}
            self._warn("code-elsewhere", values)
        inner = [self._without_kernels(file, value, source) for value in document.values()]
        return bool(named) or any(inner)

    def _kept(self, file: str, given: Any, source: CodeSource, index: int) -> Any:
        """A reference, or a list of some, as the result has it; None where it is dropped."""
        if isinstance(given, list):
            return [self._kept(file, each, source, index) for each in given]
        match = REFERENCE.fullmatch(given) if isinstance(given, str) else None
        if given is None or match is None:
            return None
        elsewhere = match["repository"] if match["repository"] != source.name else None
        if elsewhere:
            return self._from_elsewhere(file, given, match, source)
        found = source.modules(match["module"])
        if found is None:
            self._warn("code-missing", {"file": file, "model": source.name, "reference": given})
            return None
        self.own |= dict.fromkeys(found, index)
        self._copied.setdefault(source.name, set()).update(found)
        return f"{match['module']}.{match['name']}"

    def _from_elsewhere(self, file: str, given: str, match: re.Match[str], source: CodeSource) -> str | None:
        values = {"file": file, "model": source.name, "reference": given}
        if not self.keep:
            self._warn("code-elsewhere", values)
            return None
        try:
            repository = open_repository(match["repository"], None, self.token, allow_folders=False)
            found = _source(repository).modules(match["module"])
        except CheckpointError as error:
            self._warnings += error.problems
            found = None
        if found is None:
            self._warn("code-missing", values)
            return None
        self.texts |= found
        about = {"repository": repository.name, "commit": repository.version, "files": sorted(found)}
        self._warn("code-pinned", about)
        repository.close()
        return f"{match['module']}.{match['name']}"

    def _warn(self, code: str, values: Mapping[str, Any]) -> None:
        problem = Problem(code, values)
        self._warnings += [] if problem in self._warnings else [problem]


def _owners(document: Any) -> Iterator[MutableMapping[str, Any]]:
    """The mappings of a config that name code."""
    if isinstance(document, dict):
        if isinstance(document.get(KEY), dict):
            yield document
        for key, value in document.items():
            if key != KEY:
                yield from _owners(value)


def _source(repository: Repository) -> CodeSource:
    return CodeSource(repository.name, repository.files, lambda file: read_small(repository, file))
