"""The documents and questions of a search, each in one part."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints import Token
from checkpoints.json_value import parse_json
from checkpoints.problems import Problem
from evaluation import EvaluationError
from evaluation.chat_check import PROMPTS
from evaluation.harness import BENCHMARKS, question_counts
from evaluation.jackknife import FEWEST_UNITS
from evaluation.text import BUNDLED, bundled_text, dataset_texts, read_text
from searching.goals import PARTS, Goal, Part, Settings
from searching.split import Document, digest, split_documents

# A document with this in front is a conversation, as JSON.
_CONVERSATION = '[{"role"'


@dataclass(frozen=True)
class Data:
    """What recipes are scored on.

    Args:
        documents: by goal, in the order in which they are scored
    """

    documents: Mapping[str, tuple[Document, ...]] = field(default_factory=dict)

    def of(self, goal: Goal, part: Part) -> tuple[Document, ...]:
        return tuple(document for document in self.documents.get(goal.name, ()) if document.part == part)

    def counts(self) -> dict[str, dict[Part, int]]:
        """How many documents each part of each goal has."""
        return {
            name: {part: sum(document.part == part for document in found) for part in PARTS}
            for name, found in self.documents.items()
        }

    def texts(self) -> Iterator[str]:
        """All documents, of all goals."""
        for found in self.documents.values():
            for document in found:
                yield document.text

    def to_dict(self) -> dict[str, Any]:
        """Hashes and parts, as JSON."""
        return {
            name: [[document.digest, document.part] for document in found]
            for name, found in self.documents.items()
        }


# Between paragraphs; spaces on such a line do not show.
_BLANK_LINES = re.compile(r"\n[ \t]*\n")


def read_data(
    settings: Settings,
    *,
    folder: Path = Path(),
    texts: Mapping[str, Sequence[str]] | None = None,
    token: Token = None,
    allow_folders: bool = True,
) -> Data:
    """Read the documents of all goals, and divide them.

    Args:
        settings: the goals, and the shares of the parts
        folder: that names of files are relative to
        texts: documents by the name that goals use, instead of files
        token: whose access to the Hub to use
        allow_folders: whether goals may name files of this machine

    Raises:
        EvaluationError: a text cannot be read, is too small, or has a document in two parts.
    """
    reader = _Reader(folder, texts or {}, token, allow_folders)
    drawn = {goal.name: reader.documents(goal) for goal in settings.goals if not goal.by_part}
    given = {
        goal.name: {part: reader.text(name) for part, name in goal.by_part.items()}
        for goal in settings.goals
        if goal.by_part
    }
    # Questions of tasks are known by their numbers, which must not be taken for near duplicates.
    numbered = {goal.name for goal in settings.goals if goal.kind == "task"}
    written = {name: found for name, found in drawn.items() if name not in numbered}
    divided = split_documents(written, settings.shares, given)
    for name in numbered:
        divided |= split_documents({name: drawn[name]}, settings.shares, alike=False)
    ordered = {
        name: tuple(sorted(found, key=lambda document: _order(document, settings.shares.seed)))
        for name, found in divided.items()
    }
    data = Data(ordered)
    _check_sizes(data, settings)
    return data


def _order(document: Document, seed: int) -> str:
    return hashlib.sha256(f"order {seed} {document.digest}".encode()).hexdigest()


def _check_sizes(data: Data, settings: Settings) -> None:
    """Refuse data on which nothing could be searched, or nothing shown.

    Raises:
        EvaluationError
    """
    counts = data.counts()
    known = [goal for goal in settings.goals if not goal.is_guard and goal.name in counts]
    if any(goal.kind == "python" and not goal.text for goal in settings.goals):
        return  # how many figures a function returns is known when it has run
    for goal in known:
        for part in ("search", "choice"):
            if not counts[goal.name][part]:
                raise EvaluationError(_too_small([goal], counts[goal.name], part, 1))
    report = sum(counts[goal.name]["report"] for goal in known)
    if known and report < FEWEST_UNITS:
        whole: dict[Part, int] = {part: sum(counts[goal.name][part] for goal in known) for part in PARTS}
        raise EvaluationError(_too_small(known, whole, "report", FEWEST_UNITS))


def _too_small(goals: Sequence[Goal], counts: Mapping[Part, int], part: Part, needed: int) -> Problem:
    values = {
        "names": [goal.name for goal in goals],
        "count": sum(counts.values()),
        "part": part,
        "there": counts[part],
        "needed": needed,
    }
    return Problem("text-too-small", values)


@dataclass(frozen=True)
class _Reader:
    """Reads the documents of goals."""

    folder: Path
    texts: Mapping[str, Sequence[str]]
    token: Token = field(repr=False)
    allow_folders: bool

    def documents(self, goal: Goal) -> Sequence[str]:
        match goal.kind:
            case "text":
                return self.text(goal.source)
            case "dataset":
                return self.dataset(goal)
            case "chat":
                return self.text(goal.source) if goal.source else PROMPTS
            case "task":
                if not self.allow_folders and goal.source not in BENCHMARKS:
                    values = {"task": goal.source, "known": list(BENCHMARKS)}
                    raise EvaluationError(Problem("task-not-offered", values))
                return _questions(goal)
            case "python":
                if not self.allow_folders:
                    raise EvaluationError(Problem("python-not-allowed", {"given": goal.source}))
                return self.text(goal.text) if goal.text else ()

    def dataset(self, goal: Goal) -> Sequence[str]:
        found = dataset_texts(
            goal.source,
            column=goal.column,
            rows=goal.rows,
            split=goal.split,
            subset=goal.subset,
            token=self.token,
            allow_folders=self.allow_folders,
        )
        return list(found)

    def text(self, name: str) -> Sequence[str]:
        """The documents of a bundled text, or of a file: the lines of `.jsonl`, or paragraphs."""
        if name in self.texts:
            return self.texts[name]
        if name in BUNDLED:
            return bundled_text(name)
        if not self.allow_folders:
            raise EvaluationError(Problem("no-bundled-text", {"name": name, "known": BUNDLED}))
        return documents_of(name, read_text(self.folder / name))


def documents_of(name: str, content: str) -> Sequence[str]:
    """The documents of a file: the lines of `.jsonl`, or paragraphs.

    Raises:
        EvaluationError: a line is no document.
    """
    if name.endswith(".jsonl"):
        # JSON may hold other separators of lines inside its texts.
        lines = enumerate(content.split("\n"), 1)
        return [_of_line(name, number, line) for number, line in lines if line.strip()]
    return [part.strip() for part in _BLANK_LINES.split(content.replace("\r\n", "\n")) if part.strip()]


def _of_line(name: str, number: int, line: str) -> str:
    """A document from a line of JSON: a text, a `text`, or `messages`."""
    try:
        found = parse_json(line.encode())
    except ValueError:
        found = None
    if isinstance(found, dict):
        messages = found.get("messages")
        if isinstance(messages, list) and all(map(_is_message, messages)) and messages:
            return as_document([{"role": one["role"], "content": one["content"]} for one in messages])
        found = found.get("text")
    if isinstance(found, str) and found.strip():
        return found
    raise EvaluationError(Problem("not-a-document", {"name": name, "line": number}))


def _is_message(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(found.get(key), str) for key in ("role", "content"))


def as_document(messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation as a document; `messages_of` reads it."""
    return json.dumps(list(messages), ensure_ascii=False)


def messages_of(document: str) -> list[dict[str, str]] | None:
    """The messages of a document that is a conversation; None for any other."""
    if not document.startswith(_CONVERSATION):
        return None
    try:
        found = parse_json(document.encode())
    except ValueError:
        return None
    return found if isinstance(found, list) and all(map(_is_message, found)) else None


def _questions(goal: Goal) -> list[str]:
    """Names of questions, `task/number`: the first by hash of those that the task has."""
    names = [
        f"{task}/{number}"
        for task, count in question_counts([goal.source]).items()
        for number in range(count)
    ]
    return sorted(sorted(names, key=digest)[: goal.questions])
