"""A model whose middle layers are there twice, as the page's fields hold it, and its conversion from and to YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from merging.recipe.patch import patched
from ui.recipe.sliders import recipe_data

METHOD = "passthrough"


@dataclass(frozen=True)
class DepthState:
    """What the fields hold: the result is the first layers of a model, and on top of them its last ones.

    Args:
        model: whose layers
        layers: how many it has
        first: how many are taken from its beginning
        last: how many are taken from its end
        extra: top-level keys that have no field, as they were read
    """

    model: str = ""
    layers: int = 2
    first: int = 1
    last: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def twice(self) -> int:
        """How many layers are in the result twice; negative if some are left out."""
        return self.first + self.last - self.layers

    def names(self) -> tuple[str, ...]:
        """The models chosen so far."""
        return (self.model,) if self.model else ()


def read(text: str) -> DepthState | None:
    """The state of a recipe that stacks a model's beginning and its end; None for any other text.

    The model is taken to end where the second slice does.
    """
    recipe = recipe_data(text)
    if not isinstance(recipe, dict) or recipe.get("merge_method") != METHOD:
        return None
    match recipe.get("slices"):
        case [
            {"sources": [{"model": str(lower), "layer_range": [int(start), int(first)], **one}], **about},
            {"sources": [{"model": str(upper), "layer_range": [int(begin), int(layers)], **two}], **above},
        ]:
            is_plain = not (one or two or about or above)
        case _:
            return None
    extra = {key: value for key, value in recipe.items() if key not in ("merge_method", "slices")}
    if not is_plain or lower != upper or start != 0 or extra.keys() & {"models", "modules", "parameters"}:
        return None
    if not (0 < first <= layers and 0 <= begin < layers):
        return None
    return DepthState(lower, layers, first, layers - begin, extra)


def rewritten(text: str, state: DepthState) -> str:
    """A text that says the state, by as few edits as possible."""
    ranges = ([0, state.first], [state.layers - state.last, state.layers])
    slices = [{"sources": [{"model": state.model, "layer_range": part}]} for part in ranges]
    return patched(text, {"merge_method": METHOD, "slices": slices, **state.extra})
