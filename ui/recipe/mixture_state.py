"""A mixture of experts as the page's fields hold it, and its conversion from and to YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from checkpoints.yaml import load
from merging.recipe.dump import dump
from merging.recipe.mixture import GATE_MODES
from merging.recipe.patch import patched
from ui.languages.translate import t
from ui.recipe.form_state import NotShown, plain_name
from ui.recipe.sliders import recipe_data

MAX_EXPERTS = 6
MOST_PER_TOKEN = 8
RECOMMENDED = "router"
# Of a recipe that says neither.
DEFAULT_MODE, DEFAULT_PER_TOKEN = "hidden", 2


@dataclass(frozen=True)
class ExpertEntry:
    """One expert's fields.

    Args:
        model: its name
        prompts: one a line
        extra: keys that have no field, as they were read
    """

    model: str = ""
    prompts: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class MixtureState:
    """What the fields hold.

    Args:
        base: name of the base model
        mode: where the routers come from, one of GATE_MODES
        per_token: how many experts a token passes through
        experts: in order
        extra: top-level keys that have no field, as they were read
    """

    base: str = ""
    mode: str = RECOMMENDED
    per_token: int = 2
    experts: tuple[ExpertEntry, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def names(self) -> tuple[str, ...]:
        """The models chosen so far, the base last."""
        return tuple(name for name in (*(expert.model for expert in self.experts), self.base) if name)


def is_mixture(text: str) -> bool:
    """Whether a text describes a mixture of experts, if perhaps with mistakes."""
    recipe = recipe_data(text)
    return isinstance(recipe, dict) and "experts" in recipe and "merge_method" not in recipe


def read(text: str) -> MixtureState:
    """The state of a mixture's YAML.

    Raises:
        NotShown: the fields cannot show it.
    """
    recipe = dict(load(text))
    mode, per_token = (
        recipe.pop("gate_mode", DEFAULT_MODE),
        recipe.pop("experts_per_token", DEFAULT_PER_TOKEN),
    )
    if mode not in GATE_MODES:
        raise NotShown(t("held.choice", name="gate_mode"))
    if type(per_token) is not int or not 1 <= per_token <= MOST_PER_TOKEN:
        raise NotShown(t("held.choice", name="experts_per_token"))
    entries = recipe.pop("experts")
    if not isinstance(entries, list):
        raise NotShown(t("held.models"))
    if len(entries) > MAX_EXPERTS:
        raise NotShown(t("held.many", most=MAX_EXPERTS))
    base = plain_name(recipe.pop("base_model", None))
    return MixtureState(base, mode, per_token, tuple(map(_expert, entries)), recipe)


def _expert(entry: Any) -> ExpertEntry:
    if not isinstance(entry, dict):
        raise NotShown(t("held.model"))
    rest = dict(entry)
    model, prompts = plain_name(rest.pop("source_model", None)), rest.pop("positive_prompts", None) or []
    lines = [str(prompt) for prompt in prompts] if isinstance(prompts, list) else [""]
    if any(line != line.strip() or not line or "\n" in line for line in lines):
        raise NotShown(t("held.prompts"))
    return ExpertEntry(model, "\n".join(lines), rest)


def write(state: MixtureState) -> str:
    """The state as YAML; experts without a model are left out."""
    recipe: dict[str, Any] = {"base_model": state.base} if state.base else {}
    recipe |= {"gate_mode": state.mode, "experts_per_token": state.per_token}
    recipe["experts"] = [_written(expert) for expert in state.experts if expert.model]
    return dump(recipe | dict(state.extra))


def rewritten(text: str, state: MixtureState) -> str:
    """A text that says the state, by as few edits as possible of one that the fields can show."""
    try:
        before = read(text) if is_mixture(text) else None
    except NotShown:
        before = None
    wanted = load(write(state))
    given = load(text) if before else {}
    defaults = {"gate_mode": DEFAULT_MODE, "experts_per_token": DEFAULT_PER_TOKEN}
    unsaid = {key for key, default in defaults.items() if key not in given and wanted[key] == default}
    return patched(text, {key: value for key, value in wanted.items() if key not in unsaid})


def _written(expert: ExpertEntry) -> dict[str, Any]:
    prompts = [line.strip() for line in expert.prompts.splitlines() if line.strip()]
    own = {"positive_prompts": prompts} if prompts else {}
    return {"source_model": expert.model, **own, **expert.extra}
