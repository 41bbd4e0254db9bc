"""A LoRA that becomes a model of its own, as the page's fields hold it, and its conversion from and to YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from checkpoints.names import split_adapters
from merging.recipe.patch import patched
from ui.recipe.sliders import recipe_data

METHOD = "passthrough"
MOST_SCALE = 2.0


@dataclass(frozen=True)
class LoraState:
    """What the fields hold.

    Args:
        base: the model under the adapter
        adapter: as recipes write it
        scale: how strongly the adapter counts: 0 gives the base, 1 the adapted model
        extra: top-level keys that have no field, as they were read
    """

    base: str = ""
    adapter: str = ""
    scale: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def names(self) -> tuple[str, ...]:
        """The models chosen so far, the base last."""
        return tuple(name for name in (self.adapter, self.base) if name)


def read(text: str) -> LoraState | None:
    """The state of a recipe of one model under one adapter and nothing else; None for any other text."""
    recipe = recipe_data(text)
    if not isinstance(recipe, dict) or recipe.get("merge_method") != METHOD:
        return None
    match recipe.get("models"):
        case [{"model": str(model), **rest}]:
            found = _parts(model, [])
        case [{"model": {"model": str(model), "adapters": list(adapters), **more}, **rest}] if not more:
            found = _parts(model, adapters)
        case _:
            return None
    extra = {key: value for key, value in recipe.items() if key not in ("merge_method", "models")}
    if found is None or rest or extra.keys() & {"slices", "modules", "base_model", "parameters"}:
        return None
    return LoraState(*found, extra)


def _parts(model: str, adapters: list[Any]) -> tuple[str, str, float] | None:
    """Base, adapter and scale of an entry; a name is split as anyone's recipe is, without a look at this machine."""
    base, *others = split_adapters(model, allow_folders=False)
    match [*others, *adapters] if base else []:
        case [str(adapter)] if adapter:
            return base, adapter, 1.0
        case [{"model": str(adapter), **scaled}] if not scaled.keys() - {"scale"}:
            scale = scaled.get("scale", 1.0)
            if isinstance(scale, int | float) and not isinstance(scale, bool) and 0 <= scale <= MOST_SCALE:
                return base, adapter, float(scale)
    return None


def rewritten(text: str, state: LoraState) -> str:
    """A text that says the state, by as few edits as possible."""
    model: Any = "+".join(filter(None, [state.base, state.adapter]))
    if state.adapter and state.scale != 1:
        model = {"model": state.base, "adapters": [{"model": state.adapter, "scale": round(state.scale, 4)}]}
    return patched(text, {"merge_method": METHOD, "models": [{"model": model}], **state.extra})
