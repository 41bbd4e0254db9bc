"""Whether every link and file name in the documentation leads somewhere. `make check` runs it.

python -m docs.links
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# A path of ours in code, such as `merging/plan.py` or `tests/hub/`.
_PATH = re.compile(r"`((?:alloy|bench|checkpoints|docs|evaluation|examples|merging|tests|ui)/[\w./]*)`")


def broken(documents: Iterable[Path]) -> list[str]:
    """Every link that leads nowhere, as "page.md: target"."""
    return [f"{page.name}: {target}" for page in documents for target in _broken(page)]


def _broken(page: Path) -> Iterator[str]:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in _LINK.findall(_CODE.sub("", text)):
        if not re.match(r"\w+:", target) and not _leads_somewhere(page, target):
            yield target
    for path in _PATH.findall(text):
        if not (ROOT / path).exists():
            yield path


def _leads_somewhere(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    return path.exists() and (not anchor or anchor in _anchors(path.read_text(encoding="utf-8")))


def _anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        repeated = next(i for i in range(len(found) + 1) if (f"{anchor}-{i}" if i else anchor) not in found)
        found.add(f"{anchor}-{repeated}" if repeated else anchor)
    return found


if __name__ == "__main__":
    complaints = broken(DOCUMENTS)
    print(*complaints, sep="\n", end="\n" * bool(complaints))
    sys.exit(bool(complaints))
