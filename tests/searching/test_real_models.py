"""Numbers that were learned for the demo's voices hold on texts that the search never saw, and in the merge on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.search import Weights, parts
from evaluation import load_model, perplexity
from merging import make_plan, run_plan
from searching.learning import Pace, learn
from searching.live_merge import LiveMerge

pytestmark = pytest.mark.real_models


def test_learned_weights_beat_the_plain_average(tmp_path: Path) -> None:
    space = Weights(anchors=3)

    with LiveMerge(space.recipe(space.start)) as live:
        texts = parts(live.model)
        report = [list(objective.texts[:8]) for objective in texts["report"]]
        plain = [perplexity(live.model, some).documents for some in report]
        learnt = learn(live, space, texts["search"], texts["choice"], Pace(steps=4))
        found = [perplexity(live.model, some).documents for some in report]

        # The mean over the three kinds of text, whose documents are paired.
        gains = [
            np.array([(p.nats - f.nats) / f.bytes for p, f in zip(before, after, strict=True)])
            for before, after in zip(plain, found, strict=True)
        ]
        gain = np.mean([one.mean() for one in gains])
        error = np.sqrt(sum(one.var(ddof=1) / len(one) for one in gains)) / len(gains)
        assert gain > 2 * error
        assert learnt.steps[-1].search < learnt.steps[0].search

        run_plan(make_plan(learnt.recipe, str(tmp_path / "best")), str(tmp_path / "best"))
        assert perplexity(load_model(tmp_path / "best", device="cpu"), report[0]).documents == found[0]
