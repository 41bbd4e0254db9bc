"""Vectors as sums of few atoms: by hand, and beside scikit-learn."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import orthogonal_mp
from torch import Tensor

from checkpoints import pursuit
from checkpoints.pursuit import Combinations, nearest, omp


def dense(found: Combinations, count: int) -> Tensor:
    """The factors of all atoms (n, count), 0 where an atom is not used."""
    factors = torch.zeros((len(found.atoms), count + 1), dtype=torch.float64)
    return factors.scatter_add_(1, found.atoms.long() % (count + 1), found.factors.double())[:, :count]


def combined(vectors: Tensor, atoms: Tensor, k: int) -> Tensor:
    return dense(omp(vectors, atoms.__getitem__, len(atoms), k), len(atoms))


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("count", [12, 40, 200])
def test_as_scikit_learn_does_it(k: int, count: int) -> None:
    generator = torch.Generator().manual_seed(count + k)
    lengths = torch.rand(count, 1, generator=generator) * 5 + 0.1
    atoms = torch.randn(count, 16, generator=generator) * lengths
    vectors = torch.randn(20, 16, generator=generator)

    found = combined(vectors, atoms, k)

    units = (atoms / atoms.norm(dim=1, keepdim=True)).double()
    expected = orthogonal_mp(units.T.numpy(), vectors.double().T.numpy(), n_nonzero_coefs=k)
    expected = torch.from_numpy(expected).T / atoms.norm(dim=1)
    assert (found != 0).sum(1).tolist() == [k] * 20
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_an_atom_is_not_chosen_for_its_length() -> None:
    atoms = torch.tensor([[100.0, 100.0], [1.0, 0.0]])
    vector = torch.tensor([[2.0, 0.5]])  # its product with the first is 250, with the second 2

    assert combined(vector, atoms, 1).tolist() == [[0, 2]]
    # 2 b + 0.5 (a - 100 b) / 100
    torch.testing.assert_close(combined(vector, atoms, 2), torch.tensor([[0.005, 1.5]], dtype=torch.float64))


def test_the_factors_are_fitted_again_with_each_atom() -> None:
    # The first is nearest to the vector; with the second and third the vector is whole, and nothing is left for it.
    atoms = torch.tensor([[1.0, 1.0, 0.2], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    vector = torch.tensor([[3.0, 3.0, 0.0]])

    assert combined(vector, atoms, 1).tolist()[0][1:] == [0, 0]
    torch.testing.assert_close(
        combined(vector, atoms, 3), torch.tensor([[0.0, 3.0, 3.0]], dtype=torch.float64), atol=1e-5, rtol=0
    )


def test_no_more_atoms_than_are_needed() -> None:
    atoms = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])

    found = omp(torch.tensor([[5.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), atoms.__getitem__, 5, 4)

    assert (found.atoms >= 0).sum(1).tolist() == [1, 0, 2]
    assert found.factors.isfinite().all()
    torch.testing.assert_close(
        dense(found, 5) @ atoms.double(), torch.tensor([[5.0, 0], [0, 0], [1, 1]]).double()
    )


def test_the_nearest_count_by_their_cosine() -> None:
    atoms = torch.tensor([[3.0, 0.0], [0.0, 0.5], [-1.0, 0.0], [1.0, 1.0]])
    vectors = torch.tensor([[2.0, 0.0], [-1.0, -1.0]])

    found = dense(nearest(vectors, atoms.__getitem__, 4, 2), 4)

    # Cosines of the first: 1, 0, -1, 0.7071; of the second only one is not negative.
    near = 2**-0.5
    torch.testing.assert_close(found[0], torch.tensor([1, 0, 0, near]).double() / (1 + near))
    assert found[1].argmax() == 2
    # All are opposite: each counts as much.
    assert dense(nearest(torch.tensor([[-1.0, -1.0]]), atoms[[0, 1]].__getitem__, 2, 2), 2).tolist() == [
        [0.5, 0.5]
    ]


@pytest.mark.parametrize("rule", [omp, nearest])
def test_parts_make_no_difference(rule: type[omp], monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(7)
    atoms, vectors = torch.randn(60, 8, generator=generator), torch.randn(9, 8, generator=generator)
    whole = dense(rule(vectors, atoms.__getitem__, 60, 5), 60)

    monkeypatch.setattr(pursuit, "ATOMS", 7)
    monkeypatch.setattr(pursuit, "GATHERED", 900)

    torch.testing.assert_close(
        dense(rule(vectors, atoms.__getitem__, 60, 5), 60), whole, atol=1e-5, rtol=1e-5
    )


def test_the_shortlist_has_the_atoms_of_the_largest_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pursuit, "FEWEST_LISTED", 3)
    generator = torch.Generator().manual_seed(8)
    atoms, vectors = torch.randn(50, 6, generator=generator), torch.randn(4, 6, generator=generator)

    found = omp(vectors, atoms.__getitem__, 50, 1)

    cosines = torch.nn.functional.cosine_similarity(vectors[:, None], atoms[None], dim=2).abs()
    assert found.atoms[:, 0].tolist() == cosines.argmax(1).tolist()
