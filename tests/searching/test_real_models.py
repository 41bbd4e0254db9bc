"""Numbers that were learned for the demo's voices hold on texts that the search never saw, and in the merge on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.search import Weights, parts
from evaluation import difference, load_model, perplexity
from merging import make_plan, run_plan
from searching.learning import learn
from searching.live_merge import LiveMerge

pytestmark = pytest.mark.real_models


def test_learned_weights_beat_the_plain_average(tmp_path: Path) -> None:
    space = Weights(anchors=3)

    with LiveMerge(space.recipe(space.start)) as live:
        texts = parts(live.model.tokenizer)
        report = [text for objective in texts["report"] for text in objective.texts[:5]]
        plain = perplexity(live.model, report)
        learnt = learn(live, space, texts["search"], texts["choice"], steps=4)
        found = perplexity(live.model, report)

        assert difference(found, plain, report).verdict == "better"
        assert learnt.steps[-1].search < learnt.steps[0].search

        run_plan(make_plan(learnt.recipe, str(tmp_path / "best")), str(tmp_path / "best"))
        assert perplexity(load_model(tmp_path / "best", device="cpu"), report).documents == found.documents
