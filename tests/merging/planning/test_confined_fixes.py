"""Fixes that another process finds are the same fixes, and a text that makes them slow ends alone."""

from __future__ import annotations

import pytest

from checkpoints.confined import LimitError
from checkpoints.problems import RecipeError
from merging import read_recipe
from merging.planning import confined_fixes as module
from merging.planning.confined_fixes import Offered, confined_offers, offers

SLIPS = """\
merge_metod: linear
models:
  - {model: a/b, parameters: {wieght: 1}}
  - {model: c/d, parameters: {weight: 1}}
"""


def test_they_are_the_fixes_that_this_process_finds() -> None:
    with pytest.raises(RecipeError) as raised:
        read_recipe(SLIPS)

    found = confined_offers(SLIPS, raised.value.problems, token=False)

    assert found == offers(SLIPS, raised.value.problems, lambda names: "")
    assert found.mended == SLIPS.replace("metod", "method").replace("wieght", "weight")


def test_a_search_for_fixes_that_takes_too_long_finds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_long(request: object) -> None:
        raise LimitError("it exceeded its limit of time or memory")

    monkeypatch.setattr(module, "OFFERED", too_long)

    assert confined_offers(SLIPS, (), token=False) == Offered()
