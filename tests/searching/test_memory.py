"""What a search is said to hold in memory is what its process holds."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import yaml

from evaluation.footprint import forget_peak, peak
from evaluation.perplexity import largest_batch
from merging import make_plan, read_recipe
from searching.descent import Numbers
from searching.gradient import Derivatives, TextObjective
from searching.live_merge import LiveMerge, held
from searching.memory import needed
from searching.plan import plan_search
from searching.run import run_search
from searching.space_reader import read_space
from searching.workers import _context
from tests.searching.test_search_of_models import GIVEN, space, texts
from tests.tiny import save_tokenizer, tiny_llama

# A batch of a tokenizer whose tokens are bytes.
TOKENS = 512
SPACE = """
merge_method: task_arithmetic
base_model: {folder}/base
models:
  - {{model: {folder}/a, parameters: {{weight: {{search: [0, 1], start: 0.5}}}}}}
dtype: bfloat16
search: {{objective: [{{text: english}}]}}
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` and `a`, whose activations take more memory than what else is done."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8, "vocab_size": 258}
    base = save_tokenizer(tiny_llama(folder / "base", 0, **sizes))
    save_tokenizer(tiny_llama(folder / "a", 1, base, **sizes))
    return folder


def measure(pipe: Connection, folder: str) -> None:
    """Take derivatives, in a process of its own, and send how many bytes that took at most."""
    found = read_space(SPACE.format(folder=folder))
    numbers = Numbers(found, found.start)
    with LiveMerge(numbers.recipe(numbers.start), device="cpu") as live:
        derivatives = Derivatives(live, numbers)
        derivatives.at(numbers.start, [TextObjective(("merge",))])  # what is set up once
        forget_peak()
        before = peak()
        derivatives.at(numbers.start, [TextObjective(("merge " * (TOKENS // 6) + "models",))])
        pipe.send(peak() - before)


def test_what_derivatives_take_is_estimated(wide: Path) -> None:
    ours, theirs = _context().Pipe()
    process = _context().Process(target=measure, args=(theirs, str(wide)), daemon=True)
    process.start()
    theirs.close()
    taken = ours.recv()
    process.join()

    found = read_space(SPACE.format(folder=wide))
    plan = make_plan(found.recipe(found.start))
    with_them = needed(plan, tokens=TOKENS, derivatives=True)
    assert with_them.derivatives > 50_000_000
    assert with_them.derivatives / 1.5 < taken < 1.5 * with_them.derivatives
    assert with_them.least - with_them.derivatives == needed(plan, tokens=TOKENS).least


def test_changes_are_kept_as_the_plan_says(family: Path) -> None:
    text = space(family, "gradient")
    whole = plan_search(read_space(text), texts=GIVEN)
    room = whole.memory_bytes + whole.kept_bytes  # of which half may be filled
    little = plan_search(read_space(text), texts=GIVEN, memory=room)

    assert little.kept_bytes == pytest.approx(whole.kept_bytes / 2, abs=1)
    assert little.memory_bytes + little.kept_bytes <= room
    for plan in (whole, little):
        live = plan.scorer.open()
        assert isinstance(live, LiveMerge)
        assert 0.8 * plan.kept_bytes < live.held_bytes <= plan.kept_bytes
        live.close()


def test_changes_that_are_not_kept_are_estimated_for_derivatives(family: Path) -> None:
    found = read_space(space(family, "gradient"))
    with LiveMerge(found.recipe(found.start), keep=0) as live:
        read = [live.operands(live.plan, tensor) for tensor in live.plan.tensors]
        largest = max(operands.nbytes for operands in read if operands)

        assert largest == held(live.plan).largest
        needs = [needed(live.plan, derivatives=derivatives) for derivatives in (True, False)]
        assert needs[0].least - needs[1].least >= largest


# Of the bytes that a plan says, those that its process may hold more or less.
SHARE = 0.15


def search(pipe: Connection, folder: str, by: str) -> None:
    """Search with half of the changes kept, and send what the process held and what the plan said, in bytes."""
    found, given = read_space(space(Path(folder), by, 2)), {"words.txt": texts(20)}
    whole = plan_search(found, texts=given)
    plan = plan_search(found, texts=given, memory=whole.memory_bytes + whole.kept_bytes)
    run_search(plan, f"{folder}/{by}")
    pipe.send((peak(), plan.memory_bytes + plan.kept_bytes))


@pytest.mark.nightly
@pytest.mark.parametrize("by", ["gradient", "tpe"])
def test_a_search_holds_what_its_plan_says(by: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "vocab_size": 8000}
    base = save_tokenizer(tiny_llama(tmp_path / "base", 0, **sizes))
    for seed, name in enumerate("ab", 1):
        save_tokenizer(tiny_llama(tmp_path / name, seed, base, **sizes))
    ours, theirs = _context().Pipe()
    process = _context().Process(target=search, args=(theirs, str(tmp_path), by), daemon=True)
    process.start()
    theirs.close()
    seen, planned = ours.recv()
    process.join()

    assert (1 - SHARE) * planned < seen < (1 + SHARE) * planned


def test_a_search_by_gradient_needs_more_than_one_by_trials(family: Path) -> None:
    by = {
        way: plan_search(read_space(space(family, way)), texts=GIVEN)
        for way in ("gradient", "lbfgs", "auto", "tpe")
    }
    two = plan_search(read_space(space(family, "auto")), texts=GIVEN, workers=2)

    assert (
        by["gradient"].memory_bytes
        == by["lbfgs"].memory_bytes
        == by["auto"].memory_bytes
        > by["tpe"].memory_bytes
    )
    assert two.memory_bytes == 2 * by["tpe"].memory_bytes  # two processes take no derivatives
    refused = plan_search(
        read_space(space(family)), texts=GIVEN, memory=by["gradient"].memory_bytes - 1
    ).problems
    assert [problem.code for problem in refused] == ["search-too-large"]


def test_batches_are_estimated_from_bytes() -> None:
    assert largest_batch([], "cpu") == 0
    assert largest_batch(["three by three"[:9]] * 4, "cpu") == 12
    assert largest_batch(["x" * 900] * 40, "cpu") == 512
    assert largest_batch(["x" * 3000, "x"], "cpu") == 1000
    assert largest_batch(["x" * 100_000], "cpu") == 2048


@pytest.mark.parametrize("layers", [1, 4])
def test_the_estimate_grows_with_the_layers(layers: int, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "a", 0, vocab_size=258, num_hidden_layers=layers)
    one = {"model": str(folder)}
    plan = make_plan(
        read_recipe(
            yaml.safe_dump({"merge_method": "linear", "models": [one, one], "parameters": {"weight": 1}})
        )
    )
    sizes = [tensor.shape for tensor in plan.tensors if tensor.layer is not None and len(tensor.shape) == 2]
    one_token = (
        needed(plan, tokens=2, derivatives=True).derivatives
        - needed(plan, tokens=1, derivatives=True).derivatives
    )

    assert one_token >= 4 * sum(map(sum, sizes))
