"""The parents' licences and ancestors, read from their cards, and which licence is the strictest.

Not legal advice: a table of the licences that are common on the Hub, by what they ask of those who pass a model on.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from checkpoints import Token
from checkpoints.names import is_address
from checkpoints.problems import CheckpointError
from checkpoints.repositories import open_repository
from checkpoints.repositories.repository import current_token, read_bytes
from checkpoints.yaml import CARD, YamlError, load
from merging.plan import Plan, PlannedAdapter, PlannedModel
from merging.result_card import Licence

SECONDS_TO_WAIT = 3
MAX_CARDS = 500
MAX_BASES = 4
CARD_FILE = "README.md"
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
# From free to strict. A licence that is not listed has terms of its own ("other", llama3, gemma, ...), to be read.
FREE, SHARE_ALIKE, OWN_TERMS, UNKNOWN, NON_COMMERCIAL = range(5)
_FREE = {
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "isc",
    "unlicense", "wtfpl", "zlib", "artistic-2.0", "afl-3.0", "ms-pl", "cdla-permissive-1.0", "cdla-permissive-2.0",
    "ecl-2.0", "bsl-1.0", "ncsa", "postgresql", "pddl", "odc-by",
}  # fmt: skip
_SHARE_ALIKE = re.compile(
    r"(a|l)?gpl(-.*)?|lgpl.*|mpl-2.0|epl-.*|eupl-.*|cc-by-sa-.*|osl-3.0|odbl|gfdl|cdla-sharing.*"
)
_NON_COMMERCIAL = re.compile(r".*(-nc(-|$)|non-?commercial|research).*")


@dataclass(frozen=True)
class Parent:
    """What a parent's card says.

    Args:
        name: of the model
        licence: as the Hub spells it; empty if the card states none or cannot be read
        bases: the models that it was made from
        relation: how it was made from them, where the card states it: "quantized", "finetune", "merge", ...
    """

    name: str
    licence: str = ""
    bases: tuple[str, ...] = ()
    relation: str = ""


def strictness(licence: str) -> int:
    """How much a licence asks, from FREE to NON_COMMERCIAL."""
    name = licence.lower()
    if not name or name == "unknown":
        return UNKNOWN
    if _NON_COMMERCIAL.fullmatch(name):
        return NON_COMMERCIAL
    if name in _FREE:
        return FREE
    return SHARE_ALIKE if _SHARE_ALIKE.fullmatch(name) else OWN_TERMS


def strictest(parents: Sequence[Parent]) -> Parent | None:
    """The parent whose licence asks the most."""
    return max(parents, key=lambda parent: strictness(parent.licence), default=None)


def licence_of_result(parents: Sequence[Parent]) -> Licence | None:
    """The licence for the result's card: the strictest; None if that one is unknown."""
    worst = strictest(parents)
    if worst is None or strictness(worst.licence) == UNKNOWN:
        return None
    return Licence(worst.licence, worst.name)


def licence_of(plan: Plan, token: Token) -> Licence | None:
    """The licence for the card of a plan's result, by its parents' cards.

    >>> licence_of(plan, token=None)  # doctest: +SKIP
    """
    return licence_of_result(ModelCards().parents(plan, token))


class ModelCards:
    """Reads cards; those of the Hub are remembered by commit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], Parent] = OrderedDict()

    def parents(self, plan: Plan, token: Token) -> tuple[Parent, ...]:
        """What the cards of a plan's models and adapters say.

        Args:
            token: the one with which the plan opened them
        """
        parts: list[PlannedModel | PlannedAdapter] = []
        for model in plan.parents:
            parts += [model, *model.adapters]
        unique = {(part.name, part.version): part for part in parts}.values()
        with ThreadPoolExecutor(8) as pool:
            return tuple(pool.map(lambda part: self._parent(part, token), unique))

    def _parent(self, model: PlannedModel | PlannedAdapter, token: Token) -> Parent:
        if model.is_folder:
            place = Path(model.name).expanduser()
            return parent_of(model.name, _card_in((place.parent if place.is_file() else place) / CARD_FILE))
        key = model.name, model.version
        with self._lock:
            if found := self._known.get(key):
                return found
        if is_address(model.name):
            found = _at_address(model.name, token)
        else:
            found = on_hub(model.name, model.version, token) or _cached(model.name, model.version)
        if found is None:
            return Parent(model.name)
        with self._lock:
            self._known[key] = found
            while len(self._known) > MAX_CARDS:
                self._known.popitem(last=False)
        return found


def licence_of_model(name: str, token: Token = None) -> str:
    """The licence that the card of a model states, in a folder or on the Hub; empty for none."""
    folder = Path(name).expanduser()
    own = parent_of(name, _card_in(folder / CARD_FILE)) if folder.is_dir() else on_hub(name, "main", token)
    return own.licence if own else ""


def on_hub(name: str, revision: str, token: Token) -> Parent | None:
    """What a model's card on the Hub says, or that of the repository that it is a part of; None if the Hub does not
    say."""
    repository = "/".join(name.split("/")[:2])
    if not _NAME.fullmatch(repository):
        return None
    # Imported here: the Hub's client takes most of a second, which a merge of folders need not wait for.
    import httpx2
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    try:
        response = get_session().get(
            f"{constants.ENDPOINT}/api/models/{repository}/revision/{quote(revision, safe='')}",
            params={"expand": "cardData"},
            headers=build_hf_headers(token=current_token(token), library_name="alloy"),
            timeout=SECONDS_TO_WAIT,
        )
        response.raise_for_status()
        return parent_of(name, response.json().get("cardData"))
    except (httpx2.HTTPError, OSError, ValueError, AttributeError):
        return None


def common_base(names: Sequence[str], token: Token) -> str:
    """The model that most of these were made from, by their cards; empty if none says."""
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda name: on_hub(name, "main", token), dict.fromkeys(names))
    named = Counter(base for parent in found if parent for base in parent.bases)
    return named.most_common(1)[0][0] if named else ""


def parent_of(name: str, card: Any) -> Parent:
    """A parent from its card's metadata, which may hold anything."""
    if not isinstance(card, dict):
        return Parent(name)
    licence = card.get("license")
    if isinstance(licence, list):
        licence = max((str(each) for each in licence), key=strictness, default="")
    if licence == "other" and isinstance(card.get("license_name"), str):
        licence = card["license_name"]
    bases = card.get("base_model")
    bases = bases if isinstance(bases, list) else [bases]
    named = [base for base in bases if isinstance(base, str) and base != name]
    relation = str(card.get("base_model_relation") or "")[:60]
    return Parent(name, str(licence or "")[:60], tuple(named[:MAX_BASES]), relation)


def _cached(name: str, version: str) -> Parent | None:
    """What the card in this machine's cache says, where the Hub cannot be asked."""
    from huggingface_hub import constants, try_to_load_from_cache

    if not (constants.HF_HUB_OFFLINE and _NAME.fullmatch(name)):
        return None
    path = try_to_load_from_cache(name, "README.md", revision=version)
    return parent_of(name, _card_in(Path(path))) if isinstance(path, str) else None


def _at_address(name: str, token: Token) -> Parent | None:
    """What the card beside a model in an object store or a bucket says; None if it cannot be read.

    The plan has opened the model, so its user may read it.
    """
    try:
        with closing(open_repository(name, None, token, allow_folders=True)) as repository:
            if CARD_FILE not in repository.files:
                return Parent(name)
            size = min(repository.files[CARD_FILE], CARD)
            return parent_of(
                name, _metadata(read_bytes(repository, CARD_FILE, 0, size).decode(errors="replace"))
            )
    except CheckpointError:
        return None


def _card_in(file: Path) -> Any:
    try:
        with file.open(encoding="utf-8", errors="replace") as text:
            return _metadata(text.read(CARD))
    except OSError:
        return None


def _metadata(card: str) -> Any:
    """What stands before a card's text; None if there is nothing that can be read."""
    match = _FRONT_MATTER.match(card)
    try:
        return load(match[1], CARD) if match else None
    except YamlError:
        return None
