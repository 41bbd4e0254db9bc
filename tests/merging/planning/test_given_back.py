"""A recipe whose result is one of its models says so, and no other does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merging import METHODS, make_plan, read_recipe
from merging.planning.given_back import adds_one_whole


@pytest.mark.parametrize("name", METHODS)
def test_what_is_said_to_add_one_whole_does(name: str) -> None:
    method = METHODS[name]
    initial = {p.name: [p.initial] if p.per_model else p.initial for p in method.parameters}
    values = initial | ({"density": [1.0]} if "density" in initial else {})
    if not adds_one_whole(method, values):
        return
    vector = torch.randn(64, generator=torch.Generator().manual_seed(0))
    own = {p.argument: values[p.name] for p in method.parameters}
    if method.sparsify:
        own = {
            key: value
            for key, value in own.items()
            if key not in {p.argument for p in method.sparsify.parameters}
        }

    assert torch.allclose(method.function([vector.clone()], **own), vector)
    assert not adds_one_whole(method, values | {"lambda": 0.5})


OF_A = "base_model: {{base}}\nmodels: [{{{{model: {{a}}, parameters: {{{{weight: {}, density: {}}}}}}}}}]"
SLERP = (
    "merge_method: slerp\nbase_model: {{a}}\nmodels: [{{{{model: {{a}}}}}}, {{{{model: {{b}}}}}}]\n"
    "parameters: {{{{t: {}}}}}"
)


@pytest.mark.parametrize(
    ("recipe", "back"),
    [
        (f"merge_method: ties\n{OF_A.format(1, 1)}", "a"),
        (f"merge_method: ties\n{OF_A.format(1, 0.5)}", ""),
        (f"merge_method: dare_linear\n{OF_A.format(0.5, 1)}", ""),
        (f"merge_method: dare_linear\n{OF_A.format(0, 1)}", "base"),
        (SLERP.format(1), "b"),
        (SLERP.format("[1, 0]"), ""),
        # One model alone may be meant to get another type, or files of another size.
        ("merge_method: linear\nmodels: [{{model: {a}, parameters: {{weight: 1}}}}]", ""),
        ("merge_method: passthrough\nmodels: [{{model: {a}}}]", ""),  # that is what it is for
    ],
)
def test_a_plan_warns_of_a_parent_that_comes_back(folder: Path, recipe: str, back: str) -> None:
    names = {name: str(folder / name) for name in ("base", "a", "b")}

    plan = make_plan(read_recipe(recipe.format(**names)))

    assert plan.ok, plan.problems
    said = [problem.values["model"] for problem in plan.warnings if problem.code == "gives-back"]
    assert said == ([names[back]] if back else [])
