"""The documentation is true: what is generated is current, examples run, links lead somewhere."""

from __future__ import annotations

import pytest

from docs.generated import PAGES
from tests import ROOT


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == PAGES[name](), (
        "run `make docs` and commit what it wrote"
    )
