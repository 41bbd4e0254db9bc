"""One example for every method, worked out by hand; laws alone cannot tell TIES from its opposite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from merging.methods import METHODS
from merging.methods.karcher import karcher
from merging.methods.model_stock import model_stock
from merging.methods.multislerp import multislerp
from merging.methods.slerp import slerp
from tests.merging.methods.whole import merge_by_engine

BASE = [1.0, 1.0, 1.0, 1.0]
# What each fine-tune changed: +4 +2 -1 0 and -1 +4 +2 0.
FIRST = [5.0, 3.0, 0.0, 1.0]
SECOND = [0.0, 5.0, 3.0, 1.0]

EXAMPLES: dict[str, tuple[list[list[float]], dict[str, Any], list[float]]] = {
    # (3 * first + 1 * second) / 4
    "linear": ([FIRST, SECOND], {"weight": [3.0, 1.0], "normalize": True}, [3.75, 3.5, 0.75, 1.0]),
    # A right angle, half way: both times sin(45°).
    "slerp": (
        [[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]],
        {"t": 0.5},
        [2 * math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0],
    ),
    # The same with the weights 2 and 2.
    "nuslerp": (
        [[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]],
        {"weight": [2.0, 2.0], "nuslerp_flatten": True, "nuslerp_row_wise": False},
        [2 * math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0],
    ),
    # The mean of the unit vectors, (1/2, 1/2), points along the diagonal; (2 + 1) / 2 long.
    "multislerp": (
        [[2.0, 0.0], [0.0, 1.0]],
        {"weight": [1.0, 1.0], "normalize_weights": True, "eps": 1e-8},
        [1.5 * math.sqrt(0.5), 1.5 * math.sqrt(0.5)],
    ),
    # 1 + 0.5 * (1 * change of the first - 2 * change of the second)
    "task_arithmetic": (
        [BASE, FIRST, SECOND],
        {"weight": [1.0, -2.0], "normalize": False, "lambda_": 0.5},
        [4.0, -2.0, -1.5, 1.0],
    ),
    # The first, plus half of what the second changed.
    "chat_vector": (
        [BASE, FIRST, SECOND],
        {"weight": 0.5, "everywhere": True},
        [4.5, 5.0, 1.0, 1.0],
    ),
    # Half of each change stays: +4 +2 0 0 and 0 +4 +2 0. All signs are plus; each entry is the mean of those
    # that are not zero: 4, (2 + 4) / 2, 2, and nothing.
    "ties": (
        [BASE, FIRST, SECOND],
        {
            "weight": [1.0, 1.0],
            "normalize": True,
            "lambda_": 1.0,
            "election": "weighted",
            "density": [0.5, 0.5],
            "rescale": False,
        },
        [5.0, 4.0, 3.0, 1.0],
    ),
    # Everything is kept: 1 + 0.5 * (change of the first + change of the second)
    "dare_linear": (
        [BASE, FIRST, SECOND],
        {
            "weight": [1.0, 1.0],
            "normalize": False,
            "lambda_": 0.5,
            "density": [1.0, 1.0],
            "rescale": True,
            "rescale_norm": "expected",
        },
        [2.5, 4.0, 1.5, 1.0],
    ),
    # Everything is kept: 4 of 4 and -1, 2 + 4, 2 of -1 and 2, and nothing.
    "dare_ties": (
        [BASE, FIRST, SECOND],
        {
            "weight": [1.0, 1.0],
            "normalize": False,
            "lambda_": 1.0,
            "election": "weighted",
            "density": [1.0, 1.0],
            "rescale": True,
            "rescale_norm": "expected",
        },
        [5.0, 7.0, 3.0, 1.0],
    ),
    # Everything is kept: means of those that have the elected sign, as for TIES.
    "della": (
        [BASE, FIRST, SECOND],
        {
            "weight": [1.0, 1.0],
            "normalize": True,
            "lambda_": 1.0,
            "election": "weighted",
            "density": [1.0, 1.0],
            "epsilon": [0.1, 0.1],
            "rescale": True,
            "rescale_norm": "expected",
        },
        [5.0, 4.0, 3.0, 1.0],
    ),
    # Everything is kept of the first, nothing of the second.
    "della_linear": (
        [BASE, FIRST, SECOND],
        {
            "weight": [0.5, 1.0],
            "normalize": False,
            "lambda_": 1.0,
            "density": [1.0, 0.0],
            "epsilon": [0.1, 0.1],
            "rescale": True,
            "rescale_norm": "expected",
        },
        [3.0, 2.0, 0.5, 1.0],
    ),
    # One axis: the base plus twice the mean change, as for TSV-Merge.
    # The same of vectors: their mean, twice.
    "wudi": ([BASE, FIRST, SECOND], {"lambda_": 2.0, "embeddings": True}, [4.0, 7.0, 2.0, 1.0]),
    "iso_c": ([BASE, FIRST, SECOND], {"lambda_": 2.0, "embeddings": True}, [4.0, 7.0, 2.0, 1.0]),
    "tsv_merge": ([BASE, FIRST, SECOND], {"lambda_": 2.0, "embeddings": True}, [4.0, 7.0, 2.0, 1.0]),
    # The changes +4 0 and +4 +3 have cosine 4 / 5; t = 2 * 0.8 / 1.8 = 8/9 of their mean +4 +1.5.
    "model_stock": (
        [[1.0, 1.0], [5.0, 1.0], [5.0, 4.0]],
        {"filter_wise": False},
        [1 + 4 * 8 / 9, 1 + 1.5 * 8 / 9],
    ),
    # Two unit vectors at a right angle, one of them twice as long: half way, and 1.5 long.
    "karcher": (
        [[2.0, 0.0], [0.0, 1.0]],
        {"max_iter": 10, "tol": 1e-5},
        [1.5 * math.sqrt(0.5), 1.5 * math.sqrt(0.5)],
    ),
    # Of the changes +4 +2 -1 0 the largest goes, and the smallest two but one: +2 stays; of -1 +4 +2 0: again +2.
    "breadcrumbs": (
        [BASE, FIRST, SECOND],
        {
            "weight": [1.0, 0.5],
            "normalize": False,
            "lambda_": 2.0,
            "density": [0.25, 0.25],
            "gamma": [0.25, 0.25],
            "rescale": False,
        },
        [1.0, 5.0, 3.0, 1.0],
    ),
    # Half stays, but for the largest: +2 -1 and -1 +2, at 2, 3 and at 1, 3. The sums -1 +2 +1 elect.
    "breadcrumbs_ties": (
        [BASE, FIRST, SECOND],
        {
            "weight": [1.0, 1.0],
            "normalize": False,
            "lambda_": 1.0,
            "election": "weighted",
            "density": [0.5, 0.5],
            "gamma": [0.25, 0.25],
            "rescale": False,
        },
        [0.0, 3.0, 3.0, 1.0],
    ),
    # +4 and -1 are both changes: their mean 1.5; +2 and +4: 3; -1 and +2: 0.5; a change of 0 is none.
    "ram": ([BASE, FIRST, SECOND], {"epsilon": 0.5}, [2.5, 4.0, 1.5, 1.0]),
    # The changes +1 +3 +2 0 and +1 -1 0 0 differ at 1 and 2, most at 1: that half stays, and plus is elected there.
    "sce": (
        [BASE, [2.0, 4.0, 3.0, 1.0], [2.0, 0.0, 1.0, 1.0]],
        {"select_topk": 0.5},
        [1.0, 4.0, 1.0, 1.0],
    ),
    # The sum is +3 +6 +1 0. Its first entry supports the first model, 4 against 1, but not the second, 1 against 4
    # times 0.4; the next two support both: 2 against 4, and 1 against 2, times 0.4. Half of these is added.
    "consensus_ta": (
        [BASE, FIRST, SECOND],
        {"lambda_": 0.5, "support": 0.4, "agreeing": 2},
        [1.0, 4.0, 1.5, 1.0],
    ),
    # +4 +2 0 0 and -1 0 +2 0: each shares one change and has one of its own, which grows by 0.5 * min(1 / 1, 0.8).
    "ramplus_tl": (
        [BASE, [5.0, 3.0, 1.0, 1.0], [0.0, 1.0, 3.0, 1.0]],
        {"epsilon": 0.5, "r": 0.5, "alpha": 0.8},
        [2.5, 1 + 2 * 1.4, 1 + 2 * 1.4, 1.0],
    ),
    # One row, so that importance is the magnitude of the change, 0 0 0 0 1 or 4, in proportion: the quartiles are 0, 0
    # and 1, the threshold 1.5. The last change alone is larger.
    "arcee_fusion": (
        [[0.0] * 6, [0.0, 0.0, 0.0, 1.0, 1.0, 4.0]],
        {},
        [0.0, 0.0, 0.0, 0.0, 0.0, 4.0],
    ),
    # At most 1.5 of each change: +4 +2 -1 0 become +1.5 +1.5 -1 0.
    "nearswap": ([BASE, FIRST], {"t": 1.5}, [2.5, 2.5, 0.0, 1.0]),
    "passthrough": ([FIRST], {"scale": [-0.5]}, [-2.5, -1.5, 0.0, -0.5]),
}


def test_every_method_has_its_example() -> None:
    assert EXAMPLES.keys() == METHODS.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_by_hand(name: str) -> None:
    tensors, arguments, expected = EXAMPLES[name]

    merged = merge_by_engine(METHODS[name], [torch.tensor(t) for t in tensors], arguments)

    torch.testing.assert_close(merged, torch.tensor(expected))


def test_ties_elects_the_sign_with_more_mass() -> None:
    arguments = {
        "weight": [1.0, 1.0],
        "normalize": True,
        "lambda_": 1.0,
        "density": [1.0, 1.0],
        "rescale": False,
        "election": "weighted",
    }

    merged = merge_by_engine(METHODS["ties"], [torch.tensor(t) for t in (BASE, FIRST, SECOND)], arguments)

    # +4 against -1: plus wins, and -1 drops out; +2 +4: their mean; -1 against +2: plus.
    torch.testing.assert_close(merged, torch.tensor([5.0, 4.0, 3.0, 1.0]))


@pytest.mark.parametrize(("election", "expected"), [("weighted", 5.0), ("unweighted", -3.0)])
def test_ties_elects_with_the_weights_or_without(election: str, expected: float) -> None:
    base, first, second = torch.zeros(2), torch.tensor([5.0, 1.0]), torch.tensor([-7.0, -9.0])
    arguments = {"weight": [1.0, 3 / 7], "normalize": False, "lambda_": 1.0, "density": [1.0, 1.0]}

    merged = merge_by_engine(
        METHODS["ties"], [base, first, second], arguments | {"rescale": False, "election": election}
    )

    # 5 against 7, or against 7 * 3 / 7; 1 against 9, or against 9 * 3 / 7. What wins is added up with its weight.
    torch.testing.assert_close(merged, torch.tensor([expected, -27 / 7]))


def test_ties_keeps_the_first_of_equal_magnitudes() -> None:
    base, model = torch.zeros(6), torch.tensor([1.0, -2.0, 1.0, -1.0, 1.0, 0.0])
    arguments = {
        "weight": [1.0],
        "normalize": True,
        "lambda_": 1.0,
        "election": "weighted",
        "density": [0.5],
        "rescale": False,
    }

    merged = merge_by_engine(METHODS["ties"], [base, model], arguments)

    assert merged.tolist() == [1.0, -2.0, 1.0, 0.0, 0.0, 0.0]


def test_ties_rescaled_keeps_the_sum_of_magnitudes() -> None:
    base, model = torch.zeros(4), torch.tensor([6.0, -2.0, 1.0, -1.0])
    arguments = {
        "weight": [1.0],
        "normalize": True,
        "lambda_": 1.0,
        "election": "weighted",
        "density": [0.5],
        "rescale": True,
    }

    merged = merge_by_engine(METHODS["ties"], [base, model], arguments)

    torch.testing.assert_close(merged, torch.tensor([7.5, -2.5, 0.0, 0.0]))


def test_slerp_of_nearly_parallel_models_is_a_straight_line() -> None:
    products = np.array([[1.0, 0.9999], [0.9999, 1.0]])

    assert slerp(products, t=0.25) == [0.75, 0.25]


def test_slerp_with_a_model_of_zeros_is_a_straight_line() -> None:
    assert slerp(np.array([[0.0, 0.0], [0.0, 9.0]]), t=0.25) == [0.75, 0.25]


def dare(base: torch.Tensor, model: torch.Tensor, density: float, **more: Any) -> torch.Tensor:
    arguments = {"weight": [1.0], "normalize": False, "lambda_": 1.0, "density": [density], "rescale": True}
    return merge_by_engine(
        METHODS["dare_linear"], [base, model], {**arguments, "rescale_norm": "expected", **more}
    )


def test_dare_keeps_the_share_that_is_asked_for_and_divides_by_it() -> None:
    base, model = torch.zeros(600_000), torch.ones(600_000)

    merged = dare(base, model, 0.25)

    assert set(merged.tolist()) == {0.0, 4.0}
    # Six standard errors of a share of 600,000 draws.
    assert abs(merged.count_nonzero().item() / 600_000 - 0.25) < 6 * math.sqrt(0.25 * 0.75 / 600_000)


def test_dare_draws_by_the_entrys_place_alone() -> None:
    base, model = torch.zeros(600_000), torch.arange(600_000) + 1.0

    kept = dare(base, model, 0.5).count_nonzero(dim=0)
    first = dare(base[:300_000], model[:300_000], 0.5) != 0

    assert kept
    assert torch.equal(first, (dare(base, model, 0.5) != 0)[:300_000])


def test_dare_draws_anew_for_every_model() -> None:
    arguments = {
        "weight": [1.0, 1.0],
        "normalize": False,
        "lambda_": 1.0,
        "density": [0.5, 0.5],
        "rescale": False,
        "rescale_norm": "expected",
    }
    ones = torch.ones(10_000)

    merged = merge_by_engine(METHODS["dare_linear"], [0 * ones, ones, ones], arguments)

    assert set(merged.tolist()) == {0.0, 1.0, 2.0}


def test_dare_by_the_l1_norm_keeps_the_sum_of_magnitudes() -> None:
    base, model = torch.zeros(5_000), torch.linspace(-1, 2, 5_000)

    merged = dare(base, model, 0.3, rescale_norm="l1")

    torch.testing.assert_close(merged.abs().sum(), model.abs().sum())


def della(model: torch.Tensor, density: float, epsilon: float, **more: Any) -> torch.Tensor:
    """What DELLA leaves of a change."""
    arguments = {
        "weight": [1.0],
        "normalize": False,
        "lambda_": 1.0,
        "rescale": True,
        "rescale_norm": "expected",
    }
    sparse = {"density": [density], "epsilon": [epsilon]}
    return merge_by_engine(METHODS["della_linear"], [0 * model, model], arguments | sparse | more)


def test_della_keeps_by_rank_in_the_row_and_divides_by_the_chance() -> None:
    rows = torch.tensor([[-4.0, 0.5, 2.0]]).repeat(200_000, 1)

    merged = della(rows, 0.5, 0.3)

    for column, (change, chance) in enumerate([(-4.0, 0.8), (0.5, 0.2), (2.0, 0.5)]):
        values = merged[:, column]
        torch.testing.assert_close(values.unique(), torch.tensor(sorted([0.0, change / chance])))
        error = 6 * math.sqrt(chance * (1 - chance) / 200_000)  # six standard errors
        assert abs(values.count_nonzero().item() / 200_000 - chance) < error


def test_della_gives_equal_magnitudes_equal_chances() -> None:
    rows = torch.tensor([[1.0, -1.0, 1.0, 3.0, 0.5]]).repeat(100_000, 1)

    kept = della(rows, 0.5, 0.4, rescale=False).count_nonzero(dim=0) / 100_000

    # Ranks 2, 2, 2, 4 and 0 of 4.
    torch.testing.assert_close(kept, torch.tensor([0.5, 0.5, 0.5, 0.9, 0.1]), rtol=0, atol=0.01)


@pytest.mark.parametrize("shape", [(50_000, 1), (50_000,), (20, 50, 50)])
def test_della_keeps_the_density_in_any_shape(shape: tuple[int, ...]) -> None:
    change = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    merged = della(change, 0.3, 0.2, rescale_norm="l1")

    assert abs(merged.count_nonzero().item() / 50_000 - 0.3) < 6 * math.sqrt(0.3 * 0.7 / 50_000)
    torch.testing.assert_close(merged.abs().sum(), change.abs().sum())


@pytest.mark.parametrize(
    ("density", "fits"), [(0.15, False), (0.16, True), (0.84, True), (0.85, False), (1, True)]
)
def test_dellas_chances_lie_between_0_and_1(density: float, fits: bool) -> None:
    arguments = {"weight": [1.0], "density": [density], "epsilon": [0.15]}

    assert (METHODS["della"].check(arguments) is None) == fits


@pytest.mark.parametrize("size", [1.0, 1e-6])
def test_sce_weighs_models_by_their_squares_however_small(size: float) -> None:
    base, first, second = torch.zeros(2), torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])

    merged = merge_by_engine(METHODS["sce"], [base, size * first, size * second], {"select_topk": 1.0})

    torch.testing.assert_close(merged / size, torch.tensor([5 / 6 * 3 + 1 / 6, 1.0]))


def test_sce_takes_the_first_of_entries_that_differ_alike() -> None:
    base, first, second = torch.zeros(4), torch.full((4,), 2.0), torch.zeros(4)

    merged = merge_by_engine(METHODS["sce"], [base, first, second], {"select_topk": 0.5})

    assert merged.tolist() == [2.0, 2.0, 0.0, 0.0]


def test_model_stock_of_opposite_changes_is_the_base() -> None:
    assert model_stock(np.array([[1.0, -1.0], [-1.0, 1.0]])).tolist() == [0.0, 0.0]


def test_model_stock_without_changes_is_the_base() -> None:
    assert model_stock(np.zeros((3, 3))).tolist() == [0.0, 0.0, 0.0]


def test_model_stock_filter_by_filter() -> None:
    base = torch.zeros(2, 2)
    first, second = torch.tensor([[1.0, 0.0], [4.0, 0.0]]), torch.tensor([[1.0, 0.0], [4.0, 3.0]])

    merged = merge_by_engine(METHODS["model_stock"], [base, first, second], {"filter_wise": True})

    # Of one direction: all the way to the mean. Of cosine 4 / 5: 8 / 9 of the mean (4, 1.5).
    torch.testing.assert_close(merged, torch.tensor([[1.0, 0.0], [32 / 9, 12 / 9]]))


HALF = {"weight": [1.0, 1.0], "nuslerp_flatten": False}


def test_nuslerp_by_rows_and_by_columns() -> None:
    first, second = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 2.0], [0.0, 5.0]])
    root = math.sqrt(0.5)

    by_rows = merge_by_engine(METHODS["nuslerp"], [first, second], HALF | {"nuslerp_row_wise": False})
    by_columns = merge_by_engine(METHODS["nuslerp"], [first, second], HALF | {"nuslerp_row_wise": True})

    # The first rows are at a right angle, the second ones on a line, where half way is the mean.
    torch.testing.assert_close(by_rows, torch.tensor([[2 * root, 2 * root], [0.0, 4.0]]))
    # Columns (2, 0) and 0: no angle between them is a right one. (0, 3) and (2, 5): cosine 15 / (3 sqrt(29)).
    factor = 0.5 / math.cos(math.acos(5 / math.sqrt(29)) / 2)
    torch.testing.assert_close(by_columns, torch.tensor([[2 * root, 2 * factor], [0.0, 8 * factor]]))


def test_nuslerp_with_a_base_goes_between_the_changes() -> None:
    base, first, second = torch.ones(2), torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])
    arguments = {"weight": [1.0, 1.0], "nuslerp_flatten": True, "nuslerp_row_wise": False}

    merged = merge_by_engine(METHODS["nuslerp"], [base, first, second], arguments)

    torch.testing.assert_close(merged, torch.tensor([1 + 2 * math.sqrt(0.5), 1 + math.sqrt(0.5)]))


def test_multislerp_of_opposite_models_is_their_sum() -> None:
    products = np.array([[4.0, -4.0], [-4.0, 4.0]])

    assert multislerp(products, weight=[1.0, 1.0], normalize_weights=True, eps=1e-8) == [0.5, 0.5]
    three = np.array([[4.0, -4.0, 0.0], [-4.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    assert multislerp(three, weight=[1.0, 1.0, 2.0], normalize_weights=False, eps=1e-8) == [1.0, 1.0, 2.0]


def test_multislerp_away_from_the_middle() -> None:
    products = np.array([[1.0, 0.0], [0.0, 1.0]])
    expected = [4 / math.sqrt(17), 1 / math.sqrt(17)]

    assert multislerp(products, weight=[0.8, 0.2], normalize_weights=True, eps=1e-12) == pytest.approx(
        expected
    )


def test_ram_leaves_what_a_single_model_changed_whole() -> None:
    base, first, second = torch.zeros(2), torch.tensor([0.4, 0.3]), torch.tensor([0.0, 0.1])

    merged = merge_by_engine(METHODS["ram"], [base, first, second], {"epsilon": 1e-5})

    torch.testing.assert_close(merged, torch.tensor([0.4, 0.2]))


def test_the_karcher_mean_of_opposite_models_is_not_lost() -> None:
    coefficients = karcher(np.array([[1.0, -1.0], [-1.0, 1.0]]), max_iter=10, tol=1e-5)

    assert np.isfinite(coefficients).all()


def test_the_karcher_mean_leaves_models_of_zeros_out_but_for_the_length() -> None:
    assert karcher(np.array([[0.0, 0.0], [0.0, 4.0]]), max_iter=10, tol=1e-5) == [0.0, 0.5]
    assert karcher(np.zeros((2, 2)), max_iter=10, tol=1e-5) == [0.0, 0.0]


def test_breadcrumbs_without_outliers_are_the_largest() -> None:
    base, model = torch.zeros(6), torch.tensor([1.0, -2.0, 1.0, -1.0, 1.0, 0.0])
    arguments = {"weight": [1.0], "normalize": False, "lambda_": 1.0, "rescale": False}

    merged = merge_by_engine(
        METHODS["breadcrumbs"], [base, model], {**arguments, "density": [0.5], "gamma": [0.0]}
    )

    assert merged.tolist() == [1.0, -2.0, 1.0, 0.0, 0.0, 0.0]


WHOLE = {"lambda_": 1.0, "embeddings": True}


def test_iso_c_makes_all_directions_equally_strong() -> None:
    base = torch.ones(2, 3)
    first, second = (
        torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
        torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -2.0]]),
    )

    merged = merge_by_engine(METHODS["iso_c"], [base, base + first, base + second], WHOLE)

    # The sum has the singular values 4 and 2.
    torch.testing.assert_close(merged, base + torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, -3.0]]))


def test_iso_c_leaves_directions_that_nobody_changed() -> None:
    base, first = torch.zeros(3, 3), torch.diag(torch.tensor([6.0, 3.0, 0.0]))

    merged = merge_by_engine(METHODS["iso_c"], [base, first], WHOLE)

    torch.testing.assert_close(merged, torch.diag(torch.tensor([3.0, 3.0, 0.0])))


def test_tsv_merge_adds_independent_directions_up() -> None:
    base = torch.zeros(2, 2)
    first, second = torch.tensor([[4.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.5, 0.0], [0.0, 2.0]])

    merged = merge_by_engine(METHODS["tsv_merge"], [base, first, second], WHOLE)

    # One direction of each, the strongest: 4 and 2; they are orthogonal already.
    torch.testing.assert_close(merged, torch.tensor([[4.0, 0.0], [0.0, 2.0]]))


@pytest.mark.parametrize("shape", [(8, 12), (12, 8), (3, 20, 16)])
def test_tsv_merge_untangles_as_the_papers_decompositions_do(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    base, *models = (torch.randn(shape, generator=generator) for _ in range(3))
    changes = [(model - base).double().view(-1, *shape[-2:]) for model in models]
    piles = []
    for pile in zip(*changes, strict=True):
        kept = min(shape[-2:]) // 2
        parts = [
            (u[:, :kept], s[:kept], v[:kept].T)
            for u, s, v in (torch.linalg.svd(c, full_matrices=False) for c in pile)
        ]
        left, values, right = (torch.cat(several, dim=-1) for several in zip(*parts, strict=True))
        orthogonal = []
        for side in (left, right):
            u, _, v = torch.linalg.svd(side, full_matrices=False)
            orthogonal.append(u @ v)
        piles.append((orthogonal[0] * values) @ orthogonal[1].T)
    expected = base + torch.stack(piles).view(shape).float()

    merged = merge_by_engine(METHODS["tsv_merge"], [base, *models], WHOLE)

    torch.testing.assert_close(merged, expected, rtol=1e-3, atol=5e-4)


def test_wudi_keeps_directions_of_one_model_and_averages_shared_ones() -> None:
    base = torch.zeros(2, 3)
    first = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    second = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

    merged = merge_by_engine(METHODS["wudi"], [base, first, second], WHOLE)

    # Only the first reads the second input, and only the second the third: 3 and 1 stay. Both read the first input:
    # the first by 4/13 of its squares, the second by 16/17, so (2 * 4/13 + 4 * 16/17) / (4/13 + 16/17).
    shared = (2 * 4 / 13 + 4 * 16 / 17) / (4 / 13 + 16 / 17)
    torch.testing.assert_close(merged, torch.tensor([[shared, 0.0, 0.0], [0.0, 3.0, 1.0]]))


@pytest.mark.parametrize("shape", [(8, 12), (12, 8), (4, 20), (3, 20, 16)])
def test_wudi_is_where_the_papers_descent_leads(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    base, *models = (torch.randn(shape, generator=generator) for _ in range(3))
    changes = [(model - base).double().view(-1, *shape[-2:]) for model in models]
    piles = []
    for pile in zip(*changes, strict=True):
        change = torch.stack(pile).sum(0).requires_grad_()
        steps = torch.optim.LBFGS([change], max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-16)

        def loss(change: Any = change, pile: Any = pile, steps: Any = steps) -> Any:
            steps.zero_grad()
            found = sum((((change - one) @ one.T) ** 2).sum() / (one**2).sum() for one in pile)
            found.backward()
            return found

        steps.step(loss)
        piles.append(change.detach())

    merged = merge_by_engine(METHODS["wudi"], [base, *models], WHOLE)

    torch.testing.assert_close(merged, base + torch.stack(piles).view(shape).float(), rtol=1e-3, atol=1e-3)


def test_wudi_of_one_model_is_that_model() -> None:
    generator = torch.Generator().manual_seed(4)
    base, model = (torch.randn(6, 9, generator=generator) for _ in range(2))

    torch.testing.assert_close(merge_by_engine(METHODS["wudi"], [base, model], WHOLE), model)
    assert torch.equal(merge_by_engine(METHODS["wudi"], [base, base], WHOLE), base)


@pytest.mark.parametrize("name", ["iso_c", "tsv_merge", "wudi"])
def test_kernels_and_embeddings_are_averaged(name: str) -> None:
    base, first, second = (torch.full((20, 4, 3), value) for value in (1.0, 2.0, 5.0))
    matrices = [tensor[..., 0] for tensor in (base, first, second)]

    of_kernels = merge_by_engine(METHODS[name], [base, first, second], WHOLE)
    of_embeddings = merge_by_engine(METHODS[name], matrices, WHOLE | {"embeddings": False})

    assert of_kernels.unique().tolist() == of_embeddings.unique().tolist() == [3.5]
