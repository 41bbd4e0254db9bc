"""The fields of a taller model and the recipe that they stand for."""

from __future__ import annotations

import pytest

from merging import read_recipe
from ui.recipe.depth_state import DepthState, read, rewritten
from ui.recipe.presets import presets

RECIPE = next(preset.recipe for preset in presets(True) if preset.key == "depth")
MODEL = "alloy/SmolLM2-135M-Pirate"


def test_the_preset_is_read() -> None:
    state = read(RECIPE)

    assert state == DepthState(MODEL, 30, 23, 23, {"dtype": "bfloat16"})
    assert state.twice == 16


@pytest.mark.parametrize(("first", "last"), [(1, 1), (30, 30), (15, 15), (20, 5)])
def test_what_is_written_is_read_again_and_comments_stay(first: int, last: int) -> None:
    state = DepthState(MODEL, 30, first, last, {"dtype": "bfloat16"})

    text = rewritten(RECIPE, state)

    assert read(text) == state
    assert text.startswith("# Layers as they are")
    ranges = [source.layer_range for piece in read_recipe(text).slices for source in piece.sources]
    assert ranges == [(0, first), (30 - last, 30)]


PART = "{{sources: [{{model: {model}, layer_range: [{start}, {end}]}}]{more}}}"


def stack(*parts: str, more: str = "") -> str:
    return f"merge_method: passthrough\nslices: [{', '.join(parts)}]\n{more}"


def part(start: int, end: int, model: str = "a/a", more: str = "") -> str:
    return PART.format(model=model, start=start, end=end, more=more)


@pytest.mark.parametrize(
    "text",
    [
        stack(part(0, 4)),
        stack(part(0, 4), part(2, 6), part(2, 6)),
        stack(part(1, 4), part(2, 6)),
        stack(part(0, 4), part(2, 6, "b/b")),
        stack(part(0, 4), part(2, 6, more=", parameters: {scale: 2}")),
        stack(part(0, 4), part(6, 6)),
        stack(part(0, 9), part(2, 6)),
        stack(part(0, 4), part(2, 6), more="parameters: {scale: 2}"),
        stack(part(0, 4), part(2, 6)).replace("passthrough", "linear"),
        "slices: [",
        "",
    ],
)
def test_everything_else_is_not_theirs(text: str) -> None:
    assert read(text) is None
