"""What parents predict is kept, and how far a merge diverges from it is what transformers' logits say."""

from __future__ import annotations

import math
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional

from evaluation import Cancelled, LanguageModel, load_model
from evaluation.perplexity import Logits
from merging import Recipe, read_recipe
from searching.gradient import Derivatives, TextObjective
from searching.live_merge import LiveMerge
from searching.teachers import Teacher, Teachers, divergence
from tests.searching.test_gradient import spaces

TEXTS = ["The river runs past the garden.", "A lamp, and a violin.", "The river runs past the garden."]


def alone(folder: Path) -> Recipe:
    found = {"merge_method": "passthrough", "models": [{"model": str(folder)}], "dtype": "float32"}
    return read_recipe(yaml.safe_dump(found))


@pytest.fixture
def pair(family: Path) -> tuple[LanguageModel, LanguageModel]:
    one, other = (load_model(family / name, device="cpu") for name in "ab")
    return one, other


def by_hand(one: LanguageModel, other: LanguageModel, text: str) -> tuple[float, float]:
    """Bits by which the second diverges from the first, and bytes: without BOS the first token is given."""
    ids = torch.tensor([one.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        right, wrong = (
            functional.log_softmax(model.network(ids).logits[0, :-1].double(), -1) for model in (one, other)
        )
    return float((right.exp() * (right - wrong)).sum()) / math.log(2), len(text.encode()) - 1.0


def test_the_divergence_is_that_of_the_logits(pair: tuple[LanguageModel, LanguageModel]) -> None:
    one, other = pair
    teacher = Teacher(one)
    teacher.read(one, TEXTS)

    found = divergence(other, teacher, TEXTS)

    for row, text in zip(found, TEXTS, strict=True):
        assert row == pytest.approx(by_hand(one, other, text), rel=1e-3)
    assert all(abs(bits) < 1e-3 for bits, _ in divergence(one, teacher, TEXTS))


def test_a_model_without_a_plain_head_teaches_too(
    pair: tuple[LanguageModel, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose logits are capped: what is kept are the logits."""
    one, other = pair
    plain = Teacher(one)
    plain.read(one, TEXTS)
    expected = divergence(other, plain, TEXTS)
    monkeypatch.setattr("searching.teachers.Logits.of", lambda model: Logits(False, 100))
    teacher = Teacher(one)
    teacher.read(one, TEXTS)
    monkeypatch.undo()

    for found, wanted in zip(divergence(other, teacher, TEXTS), expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)


def test_a_teacher_outlives_its_model(family: Path, pair: tuple[LanguageModel, LanguageModel]) -> None:
    """The live merge is each parent in turn; what was kept of one stays."""
    teachers = Teachers({name: alone(family / name) for name in "ab"})
    with LiveMerge(alone(family / "base")) as live:
        for name in "ab":
            teachers.read(live, name, TEXTS)
        live.update(alone(family / "base"))
        found = {name: divergence(live.model, teachers[name], TEXTS) for name in "ab"}

    base = load_model(family / "base", device="cpu")
    for name, model in zip("ab", pair, strict=True):
        assert found[name][0] == pytest.approx(by_hand(model, base, TEXTS[0]), rel=1e-2)


def test_a_teacher_is_read_to_once(family: Path) -> None:
    updates = []

    class Live:
        model = load_model(family / "a", device="cpu")

        def update(self, recipe: Recipe) -> None:
            updates.append(recipe)

    teachers, live = Teachers({"a": alone(family / "a")}), Live()
    for texts in (TEXTS, TEXTS[:1], [*TEXTS, "One more text."]):
        teachers.read(live, "a", texts)
    again = pickle.loads(pickle.dumps(teachers))
    again.read(live, "a", TEXTS)

    assert len(updates) == 3  # the second time for the text that is new, and once in another process
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        teachers.read(live, "a", ["Another text."], stop)


def test_what_is_kept_has_the_gradient_of_its_model(family: Path, pair: tuple[Any, Any]) -> None:
    space = spaces(family)["task_arithmetic"]
    teacher = Teacher(pair[0])
    teacher.read(pair[0], TEXTS)

    with LiveMerge(space.recipe(space.start)) as live:
        derivatives = Derivatives(live, space)
        one, other = (
            derivatives.at(space.start, [TextObjective(tuple(TEXTS), teacher=by)])
            for by in (pair[0], teacher)
        )

    assert one.value == pytest.approx(other.value)
    assert one.gradient == pytest.approx(other.gradient, rel=1e-4)
