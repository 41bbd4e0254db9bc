"""The arithmetic has a version, which fingerprints of plans contain: it changes when a result does, and only then."""

from __future__ import annotations

import json

import pytest

from merging.plan import ARITHMETIC
from tests import ROOT
from tests.merging.golden import GOLDEN, digests

KNOWN = json.loads(GOLDEN.read_text())
WRITE = "run `python -m tests.merging.golden --write`"


def test_results_change_with_the_version_of_the_arithmetic_only() -> None:
    found = digests()
    for name in ("processor", "torch", "numpy"):
        if found[name] != KNOWN[name]:
            pytest.skip(f"the digests were made with {name} {KNOWN[name]}, not {found[name]}")

    known, made = KNOWN["digests"], found["digests"]
    changed = [name for name in made.keys() & known.keys() if made[name] != known[name]]
    assert not changed, (
        f"The bytes of {', '.join(changed)} changed. Unless that is a mistake, raise ARITHMETIC in merging/plan.py, "
        f"so that no merge continues with files of the old kind, and {WRITE}."
    )
    assert found["arithmetic"] == KNOWN["arithmetic"] == ARITHMETIC, f"ARITHMETIC was raised: {WRITE}"
    assert made.keys() == known.keys(), (
        f"Methods came or went: {', '.join(sorted(made.keys() ^ known.keys()))}. R{WRITE[1:]}."
    )


def test_the_digests_are_of_the_versions_that_are_tested() -> None:
    pinned = (ROOT / "constraints.txt").read_text()
    for name in ("torch", "numpy"):
        assert f"{name}=={KNOWN[name]}" in pinned, f"{name} was raised in constraints.txt: {WRITE}"
