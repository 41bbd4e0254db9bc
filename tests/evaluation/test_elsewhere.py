"""Models that are scored by a cluster get the scores of one machine, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from checkpoints.cluster import LossCause, Machine
from evaluation import EvaluationError, load_model, perplexity
from evaluation.difference import difference
from evaluation.elsewhere import perplexities_elsewhere, weight_bytes
from tests.evaluation.conftest import TEXT, make_network
from tests.merging.engine.fake_cluster import FakeCluster

MakeFolder = Callable[..., Path]


def test_the_scores_are_those_of_one_machine(make_folder: MakeFolder) -> None:
    folders = [str(make_folder()), str(make_folder(make_network(seed=1), name="two"))]
    texts = [TEXT, TEXT[: len(TEXT) // 2]]
    lost = iter([LossCause.DIED])
    cluster = FakeCluster(fate=lambda call, line, lines: next(lost, None))
    sizes = {name: weight_bytes(name) for name in folders}

    found = perplexities_elsewhere(cluster, sizes, texts, stride=16)

    expected = [perplexity(load_model(name), texts, stride=16) for name in folders]
    assert [replace(score, seconds=0, model="") for score in found] == [
        replace(score, seconds=0, model="") for score in expected
    ]
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one.documents, other.documents, strict=True):
            assert np.array_equal(a.token_nats, b.token_nats)
            assert np.array_equal(a.token_ends, b.token_ends)
    assert (
        difference(found[0], found[1], texts).to_dict()
        == difference(expected[0], expected[1], texts).to_dict()
    )
    assert len(cluster.calls) == 3
    assert all(size > 0 for size in sizes.values())


def test_a_model_that_no_machine_can_hold_is_refused(make_folder: MakeFolder) -> None:
    cluster = FakeCluster([Machine(2, 10**9)])
    with pytest.raises(EvaluationError, match="the largest machine of the cluster"):
        perplexities_elsewhere(cluster, {str(make_folder()): 10**9}, [TEXT])
    assert not cluster.calls
