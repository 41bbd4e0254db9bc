"""Recipes of a model with fewer or more layers, in YAML, which mergekit reads too. Nothing is merged here."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from checkpoints import Checkpoint, Token, open_checkpoint
from checkpoints.architecture import DERIVED, Layout, Stack, model_class
from checkpoints.problems import PlanError, Problem

# A name that YAML reads as text without quotes.
_PLAIN = re.compile(r"[A-Za-z/~][\w./+@~-]*")
# Settings under which a layer computes something else when layers are put before it.
_BY_NUMBER = ("scale_attn_by_inverse_layer_idx",)


class _Writers(NamedTuple):
    """How the tensors of a layer are called where what it adds to the hidden states comes from two matrices.

    With these at zero, biases included, the layer hands its input on unchanged: norms behind them have no bias and
    make zero of zero.

    Args:
        names: of the matrices that write to the hidden states
        others: all other tensors that such a layer may have
    """

    names: tuple[str, ...]
    others: re.Pattern[str]


# Of Llama, Mistral, Qwen, Phi-3 and Gemma; of Phi; of GPT-2.
_WRITERS = (
    _Writers(
        ("self_attn.o_proj", "mlp.down_proj"),
        re.compile(
            r"self_attn\.(q|k|v|qkv)_proj\.(weight|bias)|self_attn\.(q|k)_norm\.weight"
            r"|mlp\.(gate|up|gate_up)_proj\.(weight|bias)"
            r"|(input|pre_feedforward)_layernorm\.(weight|bias)"
            r"|post_(attention|feedforward)_layernorm\.weight"
        ),
    ),
    _Writers(
        ("self_attn.dense", "mlp.fc2"),
        re.compile(
            r"self_attn\.(q|k|v)_proj\.(weight|bias)|self_attn\.(q|k)_layernorm\.(weight|bias)"
            r"|mlp\.fc1\.(weight|bias)|input_layernorm\.(weight|bias)"
        ),
    ),
    _Writers(
        ("attn.c_proj", "mlp.c_proj"),
        re.compile(r"attn\.c_attn\.(weight|bias)|mlp\.c_fc\.(weight|bias)|ln_[12]\.(weight|bias)"),
    ),
)


@dataclass(frozen=True)
class _Layer:
    """A layer of the result: its number in the model, and whether it adds nothing."""

    number: int
    silent: bool = False


def cut_recipe(model: str, dropped: Iterable[int], *, token: Token = None) -> str:
    """The recipe of a model without some layers.

    >>> recipe = read_recipe(cut_recipe("owner/model", [21, 22, 23]))  # doctest: +SKIP

    Args:
        model: a folder, or "owner/name" on the Hub, with "@revision" as in recipes.
        dropped: numbers of the layers to leave out.
        token: whose access to the Hub to use.

    Returns:
        YAML: a passthrough merge of the remaining layers, in the model's own dtype.

    Raises:
        CheckpointError: the model cannot be read.
        PlanError: it has no such layers, or none would remain.
    """
    left_out = set(dropped)
    with closing(open_checkpoint(model, token=token)) as opened:
        count = _stack(opened).count
    _check_range(model, left_out, count)
    if len(left_out) == count:
        raise PlanError(Problem("no-layer-left", {"model": model, "count": count}))
    return _recipe(model, [_Layer(number) for number in range(count) if number not in left_out])


def stack_recipe(model: str, repeated: Iterable[int], *, silent: bool = True, token: Token = None) -> str:
    """The recipe of a model with a copy of some layers behind each of them.

    A silent copy adds nothing to the hidden states: the two matrices that write to them are times zero. So the taller
    model predicts exactly what its parent does, and training starts from there (LLaMA Pro, arXiv 2401.02415). A plain
    copy computes its layer twice, and the model is worse than its parent until it is trained.

    >>> recipe = read_recipe(stack_recipe("owner/model", [8, 9, 10]))  # doctest: +SKIP

    Args:
        model: a folder, or "owner/name" on the Hub, with "@revision" as in recipes.
        repeated: numbers of the layers to repeat.
        silent: whether the copies add nothing.
        token: whose access to the Hub to use.

    Returns:
        YAML: a passthrough merge, in the model's own dtype.

    Raises:
        CheckpointError: the model cannot be read.
        PlanError: it has no such layers, or silent copies are not possible: see `silent_names`.
    """
    twice = set(repeated)
    with closing(open_checkpoint(model, token=token)) as opened:
        stack = _stack(opened)
        writers = silent_names(opened) if silent else ()
    _check_range(model, twice, stack.count)
    return stacked(model, stack.count, twice, writers)


def stacked(model: str, count: int, repeated: Collection[int], writers: Sequence[str] = ()) -> str:
    """The same for a model of which all that counts is known.

    Args:
        model: as the recipe names it.
        count: how many layers it has.
        repeated: numbers of the layers to repeat.
        writers: of `silent_names`; empty for plain copies.
    """
    layers = [
        [_Layer(number), *([_Layer(number, bool(writers))] if number in repeated else [])]
        for number in range(count)
    ]
    return _recipe(model, list(chain.from_iterable(layers)), writers)


def silent_names(model: Checkpoint) -> tuple[str, ...]:
    """Parts of the names of the tensors that write what a layer adds to the hidden states.

    Args:
        model: an open model.

    Raises:
        PlanError: its layers have other tensors than those that are known; names one of them.
    """
    stack = _stack(model)
    placed = (stack.split(name) for name in model.tensors if not DERIVED.search(name))
    own = sorted({found[1] for found in placed if found})
    unknown = own
    for writers in _WRITERS:
        matrices = tuple(f"{name}." for name in writers.names)
        if all(any(name.startswith(matrix) for name in own) for matrix in matrices):
            unknown = [
                name for name in own if not name.startswith(matrices) and not writers.others.fullmatch(name)
            ]
            if not unknown:
                _check_numbering(model)
                return writers.names
    values = {"model": model.name, "kind": model_class(model.config), "name": unknown[0]}
    raise PlanError(Problem("no-silent-copies", values))


def _check_numbering(model: Checkpoint) -> None:
    for key in _BY_NUMBER:
        if model.config.get(key):
            raise PlanError(Problem("silent-by-number", {"model": model.name, "key": key}))


def _stack(model: Checkpoint) -> Stack:
    stack = Layout(model.tensors, model.config).main.stack
    if stack is None:
        raise PlanError(Problem("no-layers", {"model": model.name}))
    return stack


def _check_range(model: str, layers: set[int], count: int) -> None:
    beyond = sorted(number for number in layers if not 0 <= number < count)
    if beyond or not layers:
        values = {
            "model": model,
            "given": [str(number) for number in beyond] or None,
            "count": count,
            "last": count - 1,
        }
        raise PlanError(Problem("layer-numbers", values))


def _recipe(model: str, layers: Sequence[_Layer], writers: Sequence[str] = ()) -> str:
    name = model if _PLAIN.fullmatch(model) else json.dumps(model, ensure_ascii=False)
    lines = ["merge_method: passthrough", "slices:"]
    for first, end, silent in _runs(layers):
        lines += ["  - sources:", f"      - model: {name}", f"        layer_range: [{first}, {end}]"]
        if silent:
            zeros = [f"{{filter: {writer}, value: 0}}" for writer in writers]
            lines += ["        parameters:", f"          scale: [{', '.join(zeros)}, {{value: 1}}]"]
    return "\n".join([*lines, ""])


def _runs(layers: Sequence[_Layer]) -> list[tuple[int, int, bool]]:
    """First layer, end and silence of each longest run of consecutive layers."""
    runs: list[tuple[int, int, bool]] = []
    for layer in layers:
        if runs and runs[-1][1:] == (layer.number, layer.silent):
            runs[-1] = (runs[-1][0], layer.number + 1, layer.silent)
        else:
            runs.append((layer.number, layer.number + 1, layer.silent))
    return runs
