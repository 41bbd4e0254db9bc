"""Which tensors of a result become eight-bit floats with scales: the weights of linear layers inside the stack."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from checkpoints.architecture import model_class
from checkpoints.built_model import build
from checkpoints.problems import Problem
from checkpoints.wording import few
from merging.fp8 import DTYPE, FP8
from merging.plan import PlannedTensor
from merging.planning.result_tensors import ResultTensors

WEIGHT = ".weight"
# One expert's weight. transformers packs the experts of a layer into a module that is no linear layer.
EXPERT = re.compile(r".+\.experts\.\d+\.\w+\.weight")


def scale_tensors(result: ResultTensors) -> list[Problem]:
    """Let linear layers have eight-bit weights, as the recipe's `out_dtype` asks, in place.

    Embeddings, norms, routers, heads and whatever is outside the stack of layers stay as they are.

    Args:
        result: laid out

    Returns:
        What prevents it.
    """
    form = FP8[str(result.recipe.out_dtype)]
    layout = result.parents.layouts[result.parents.donor]
    config = result.parents.checkpoints[result.parents.donor].config
    linear = _linear_weights(config)
    stack = layout.main.stack
    chosen: set[str] = set()
    packed: list[str] = []
    for tensor in result.tensors:
        place = stack.split(tensor.name) if stack else None
        if place is None or tensor.layer is None:
            continue
        _, rest = place
        if ".experts" in rest and len(tensor.shape) == 3:
            packed.append(tensor.name)
        elif len(tensor.shape) == 2 and (rest in linear or EXPERT.fullmatch(rest)):
            chosen.add(tensor.name)
    if packed:
        return [Problem("fp8-packed-experts", {"tensors": few(packed), "dtype": form.name})]
    if not chosen:
        return [Problem("fp8-no-linear", {"architecture": model_class(config), "dtype": form.name})]
    misfits = [
        {"phrase": "shape-of", "name": tensor.name, "shape": list(tensor.shape)}
        for tensor in result.tensors
        if tensor.name in chosen and not form.fits(tensor.shape)
    ]
    if misfits:
        values = {"tensors": few(misfits), "dtype": form.name, "multiple": form.multiple}
        rows = next(name for name, other in FP8.items() if not other.block[1])
        return [Problem("fp8-shape", {**values, "rows": rows if form.name != rows else ""})]
    result.tensors[:] = [
        replace(tensor, dtype=DTYPE, scales=form.name, copied_from=None) if tensor.name in chosen else tensor
        for tensor in result.tensors
    ]
    return []


def plain_modules(tensors: Iterable[PlannedTensor]) -> list[str]:
    """The modules with a matrix that has no scales; the head too, which may be the embedding."""
    names = [
        tensor.name.removesuffix(WEIGHT)
        for tensor in tensors
        if not tensor.scales and len(tensor.shape) > 1 and tensor.name.endswith(WEIGHT)
    ]
    return list(dict.fromkeys([*names, "lm_head"]))


def _linear_weights(config: object) -> set[str]:
    """What the weights of linear layers are called inside a layer, as transformers builds it."""
    assert isinstance(config, dict)
    [built] = build([config])
    kinds: Sequence[str] = built.kinds if built else ()
    return {path + WEIGHT for kind in kinds for path, module, _, _ in json.loads(kind) if module == "Linear"}
