"""A 2-D demo of a method: the merge that runs on large models, on models of two numbers in a temporary folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from checkpoints.problems import PlanError
from merging import MergeMethod, Parameter, make_plan, read_recipe, run_plan
from merging.recipe.dump import dump

Point = tuple[float, float]
BASE = "base"
NAMES = ("A", "B", "C")
STEPS = 25
# Instead of their defaults: what shows most.
STARTS: Mapping[str, Any] = {"weight": 0.5, "density": 0.5}
# Named by what the fine-tunes do; the first point is the base.
SCENES: Mapping[str, tuple[Point, ...]] = {
    "agree": ((0.3, 0.3), (1.25, 0.7), (0.95, 1.2), (0.6, 0.95)),
    "disagree": ((0.3, 0.3), (1.3, 0.75), (-0.55, 0.85), (0.5, -0.8)),
    "turned": ((0.1, 0.1), (1.3, 0.0), (0.0, 1.3), (-0.92, 0.92)),
}


@dataclass(frozen=True)
class Demo:
    """Where a method puts the result.

    Args:
        models: the points that are merged, by name
        results: with the given values; several if the method is random
        path: of the result, as one parameter goes through its range
        swept: that parameter's name, and the model's if each has its own; empty if there is none
        ends: of its range
    """

    models: Mapping[str, Point]
    results: tuple[Point, ...]
    path: tuple[Point, ...]
    swept: tuple[str, str] = ("", "")
    ends: tuple[float, float] = (0.0, 0.0)


def models_of(method: MergeMethod) -> tuple[str, ...]:
    """The models that a method is shown with; if its base is the first of them, that is A."""
    return NAMES[: min(method.max_models or len(NAMES), len(NAMES))]


def swept(method: MergeMethod) -> Parameter | None:
    """The parameter whose whole range is drawn; None if there is none."""
    return next(
        (p for p in method.parameters if p.kind == "number" and p.low is not None and not p.optional), None
    )


def start(parameter: Parameter) -> Any:
    """The value that a parameter has at first; None: it is left out."""
    return STARTS.get(parameter.name, parameter.initial)


def demo(method: MergeMethod, scene: str, values: Mapping[tuple[str, str], Any]) -> Demo:
    """Merge the points of a scene.

    Args:
        method: of the registry
        scene: of SCENES
        values: by parameter and model; the model is "" where one value is for all

    Raises:
        MergeError: the method does not take these values.
    """
    names = models_of(method)
    points = dict(zip((BASE, *NAMES), SCENES[scene], strict=True))
    used = {name: points[name] for name in ((BASE,) if method.base == "subtracted" else ()) + names}
    with tempfile.TemporaryDirectory(prefix="alloy-demo-") as place:
        folder = Path(place)
        for name, point in used.items():
            _write(folder / name, point)
        plan = make_plan(read_recipe(dump(_recipe(method, folder, names, values))))
        if not plan.ok:
            raise PlanError(plan.problems)
        run_plan(plan, str(folder / "merged"), device="cpu", workers=1)
        merged = load_file(folder / "merged" / "model.safetensors")
    sweeping = swept(method)
    layers = range(STEPS)
    now = [_point(merged[f"model.layers.{i}.now.weight"]) for i in layers]
    return Demo(
        used,
        tuple(dict.fromkeys(now)) if method.is_random else (now[0],),
        tuple(_point(merged[f"model.layers.{i}.path.weight"]) for i in layers) if sweeping else (),
        (sweeping.name, names[0] if sweeping.per_model else "") if sweeping else ("", ""),
        (float(sweeping.low or 0), float(sweeping.high or 0)) if sweeping else (0.0, 0.0),
    )


def _recipe(
    method: MergeMethod, folder: Path, names: Sequence[str], values: Mapping[tuple[str, str], Any]
) -> dict[str, Any]:
    sweeping = swept(method)

    def settings(name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for parameter in method.parameters:
            if parameter.per_model != bool(name):
                continue
            value = values.get((parameter.name, name), start(parameter))
            if value is None:
                continue
            if parameter is sweeping and name in ("", names[0]):
                path = np.linspace(parameter.low or 0, parameter.high or 0, STEPS)
                value = [{"filter": "path", "value": [round(float(x), 6) for x in path]}, {"value": value}]
            found[parameter.name] = value
        return found

    recipe: dict[str, Any] = {"merge_method": method.name}
    if method.needs_base:
        recipe["base_model"] = str(folder / (BASE if method.base == "subtracted" else names[0]))
    recipe["models"] = [{"model": str(folder / name), "parameters": settings(name)} for name in names]
    recipe["parameters"] = settings("")
    return recipe


def _write(folder: Path, point: Point) -> None:
    folder.mkdir()
    tensor = np.array([point], dtype=np.float32)
    tensors = {f"model.layers.{i}.{kind}.weight": tensor for i in range(STEPS) for kind in ("path", "now")}
    save_file(tensors, folder / "model.safetensors")
    config = {"architectures": ["Plane"], "model_type": "plane", "num_hidden_layers": STEPS}
    (folder / "config.json").write_text(json.dumps(config))


def _point(tensor: Any) -> Point:
    x, y = (float(value) for value in tensor.flatten())
    return round(x, 5), round(y, 5)
