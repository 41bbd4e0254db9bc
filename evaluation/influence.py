"""Which layers of a model matter: how far each block moves the hidden states, and what a model predicts without it."""

from __future__ import annotations

import copy
import json
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from checkpoints.architecture import ROLES
from checkpoints.layer_kinds import restacked
from checkpoints.problems import Cancelled, Problem
from evaluation.difference import Difference, difference
from evaluation.error import EvaluationError, memory_named
from evaluation.model import LanguageModel
from evaluation.perplexity import Perplexity, perplexity

# Tokens that are read at once.
_WINDOW = 512
# Fewer tokens say more of the text than of the layers.
_FEWEST_TOKENS = 32
# Positions whose states are compared at once: float64 states of every layer exist for these alone.
_AT_ONCE = 64


@dataclass(frozen=True)
class Influence:
    """How much each layer, and each block of consecutive layers, changes the hidden states of a text.

    Attributes:
        model: the model's name.
        commit: its commit on the Hub, None for a folder.
        tokens: how many were read.
        by_layer: (layers,) Block Influence (ShortGPT, arXiv 2403.03853) of each layer: 1 minus the mean cosine of the
            states before and after it.
        distances: a row for each layer; its entry n - 1 is the angular distance (arXiv 2403.17887), 0 to 1, of the
            states before it and after n layers. The last states are taken before the final norm.
    """

    model: str
    commit: str | None
    tokens: int
    by_layer: tuple[float, ...]
    distances: tuple[tuple[float, ...], ...]

    @property
    def layers(self) -> int:
        """How many the model has."""
        return len(self.by_layer)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "layers": self.layers}


@dataclass(frozen=True)
class Cut:
    """Layers to leave out of a model.

    Attributes:
        layers: how many the model has.
        dropped: numbers of those to leave out, in order.
        by: what named them: the "distance" of a block of consecutive layers, or the "influence" of single layers.
        score: that distance, or the sum of those influences.
    """

    layers: int
    dropped: tuple[int, ...]
    by: Literal["distance", "influence"]
    score: float

    @property
    def kept(self) -> tuple[int, ...]:
        """Numbers of the layers that remain, in order."""
        return tuple(layer for layer in range(self.layers) if layer not in self.dropped)

    @property
    def name(self) -> str:
        """The dropped layers, such as "12-15" or "13, 25-26"."""
        breaks = [
            0,
            *(i for i, (a, b) in enumerate(pairwise(self.dropped), 1) if b != a + 1),
            len(self.dropped),
        ]
        runs = [self.dropped[begin:end] for begin, end in pairwise(breaks)]
        return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


@dataclass(frozen=True)
class Trial:
    """What a model predicts without some layers.

    Attributes:
        cut: the layers.
        perplexity: of the model without them.
        difference: of that from the whole model, on the same texts.
    """

    cut: Cut
    perplexity: Perplexity
    difference: Difference

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            **asdict(self.cut),
            "name": self.cut.name,
            "perplexity": self.perplexity.to_dict(),
            "difference": self.difference.to_dict(),
        }


@dataclass(frozen=True)
class Trials:
    """Cuts that were tried.

    Attributes:
        whole: perplexity of the model with all layers.
        tried: the lowest perplexity first.
    """

    whole: Perplexity
    tried: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The cut with the lowest perplexity."""
        return self.tried[0]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"whole": self.whole.to_dict(), "cuts": [trial.to_dict() for trial in self.tried]}


@torch.inference_mode()
def influence(
    model: LanguageModel,
    texts: Sequence[str],
    *,
    tokens: int = 4096,
    on_progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> Influence:
    """Measure every layer and every block of layers, in one pass over the start of some texts.

    >>> found = influence(model, texts)  # doctest: +SKIP

    Args:
        model: the model; it stays as it is.
        texts: documents; each is read on its own, in windows of up to 512 tokens.
        tokens: up to this many tokens are read.
        on_progress: called with the tokens read so far and the tokens to read.
        cancel: when set, the work ends after the current window.

    Raises:
        EvaluationError: the text is too short, the layers cannot be found, or the states hold NaN.
        Cancelled: `cancel` was set.
    """
    windows = _windows(model, texts, tokens)
    total = sum(map(len, windows))
    if total < _FEWEST_TOKENS:
        raise EvaluationError(Problem("few-tokens", {"count": total, "least": _FEWEST_TOKENS}))
    watched = own_copy(model)
    layers = layer_stack(watched)[1]
    cosines = torch.zeros(len(layers) + 1, len(layers) + 1, dtype=torch.float64)
    angles = torch.zeros_like(cosines)
    done = 0
    for window in windows:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        with memory_named(model.name, "doing-reading"):
            states = _states(watched, layers, window)
            for part in torch.split(states, _AT_ONCE, dim=1):
                cosine = _cosines(part)
                cosines += cosine.sum(0).cpu()
                angles += cosine.acos().sum(0).cpu()
        done += len(window)
        if on_progress is not None:
            on_progress(done, total)
    if not bool(cosines.isfinite().all()):
        raise EvaluationError(Problem("nan-answers", {"model": model.name, "dtype": model.dtype}))
    count = len(layers)
    near = 1 - cosines.diagonal(1) / total
    far = angles / total / math.pi
    return Influence(
        model.name,
        model.commit,
        total,
        tuple(map(float, near)),
        tuple(tuple(map(float, far[first, first + 1 :])) for first in range(count)),
    )


def candidates(model: LanguageModel, found: Influence, drop: int, count: int = 5) -> tuple[Cut, ...]:
    """Cuts that are worth a trial: the blocks of least distance, and the single layers of least influence.

    The first and the last layer always remain. Where layers are of several kinds, only such cuts count after which
    the config can still say of what kind each layer is.

    >>> cuts = candidates(model, influence(model, texts), drop=4)  # doctest: +SKIP

    Args:
        model: the model.
        found: what was measured of it.
        drop: how many layers to leave out.
        count: at most this many cuts.

    Returns:
        The block of least distance, then the layers of least influence, then other blocks.

    Raises:
        EvaluationError: `drop` or `count` is out of range, or no such cut leaves a model.
    """
    layers = found.layers
    if not 1 <= drop <= layers - 2:
        raise EvaluationError(Problem("drop-range", {"drop": drop, "most": layers - 2, "model": model.name}))
    if count < 1:
        raise EvaluationError(Problem("try-range", {"count": count}))
    blocks = sorted(
        (
            Cut(layers, tuple(range(first, first + drop)), "distance", found.distances[first][drop - 1])
            for first in range(1, layers - drop)
        ),
        key=lambda cut: cut.score,
    )
    lowest = sorted(range(1, layers - 1), key=lambda layer: found.by_layer[layer])[:drop]
    single = Cut(layers, tuple(sorted(lowest)), "influence", sum(found.by_layer[layer] for layer in lowest))
    distinct: dict[tuple[int, ...], Cut] = {}
    for cut in [*blocks[:1], single, *blocks[1:]]:
        distinct.setdefault(cut.dropped, cut)
    possible = [cut for cut in distinct.values() if not _restacked(model, cut.kept)[1]]
    if not possible:
        first = next(conflict for cut in distinct.values() for conflict in _restacked(model, cut.kept)[1])
        raise EvaluationError(Problem("cut-kinds", {"model": model.name, "drop": drop, "key": first.key}))
    return tuple(possible[:count])


def try_cuts(
    model: LanguageModel,
    texts: Sequence[str],
    cuts: Sequence[Cut],
    *,
    on_progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> Trials:
    """Score a model on texts, whole and without layers. Nothing is written: all share the weights in memory.

    >>> trials = try_cuts(model, texts, candidates(model, found, drop=4))  # doctest: +SKIP

    Args:
        model: the model; it stays as it is.
        texts: documents.
        cuts: what to leave out.
        on_progress: called with the tokens scored so far and the tokens to score, over all trials.
        cancel: when set, the work ends after the current batch.

    Raises:
        EvaluationError: see `perplexity` and `without_layers`.
        Cancelled: `cancel` was set.
    """

    def scored(number: int, one: LanguageModel) -> Perplexity:
        def show(done: int, total: int) -> None:
            if on_progress is not None:
                on_progress(number * total + done, (len(cuts) + 1) * total)

        return perplexity(one, texts, on_progress=show, cancel=cancel)

    whole = scored(0, model)
    tried = []
    for number, cut in enumerate(cuts, 1):
        name = f"{model.name} without {cut.name}"
        found = scored(number, replace(without_layers(model, cut.dropped), name=name))
        tried.append(Trial(cut, found, difference(found, whole, texts)))
    return Trials(whole, tuple(sorted(tried, key=lambda trial: trial.perplexity.nll_nats)))


def without_layers(model: LanguageModel, dropped: Sequence[int]) -> LanguageModel:
    """A model without some layers, whose other weights are those of the model in memory.

    Args:
        model: the model; it stays as it is.
        dropped: numbers of layers.

    Raises:
        EvaluationError: the layers cannot be found, or the config cannot say of what kind those are that remain.
    """
    cut = own_copy(model)
    holder, layers = layer_stack(cut)
    kept = [number for number in range(len(layers)) if number not in dropped]
    written, conflicts = _restacked(model, kept)
    if conflicts:
        values = {"model": model.name, "drop": len(layers) - len(kept), "key": conflicts[0].key}
        raise EvaluationError(Problem("cut-kinds", values))
    config = cut.network.config.get_text_config()
    before = _as_stored(config)
    config.num_hidden_layers = len(kept)
    for key, value in written.items():
        if value != before[key]:
            setattr(config, key, value)
    remaining = torch.nn.ModuleList([layers[number] for number in kept])
    for number, layer in enumerate(remaining):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", number)  # noqa: B010 (a module has no such field by its type)
    parent, _, own = holder.rpartition(".")
    setattr(cut.network.get_submodule(parent), own, remaining)
    return cut


def layer_stack(model: LanguageModel) -> tuple[str, Sequence[Any]]:
    """Name and layers of the one list of layers that the config of a model's text part counts.

    Raises:
        EvaluationError: there is none, or there are several, or its layers are on disk.
    """
    count = getattr(model.network.config.get_text_config(), "num_hidden_layers", None)
    lists = [
        name
        for name, module in model.network.named_modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module) == count
        and not any(ROLES[role].search(name) for role in ("vision", "audio"))
    ]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1 or model.offloaded:
        code = "layers-on-disk" if model.offloaded else "no-layer-stack"
        raise EvaluationError(Problem(code, {"model": model.name, "kind": type(model.network).__name__}))
    found: Any = model.network.get_submodule(outer[0])
    return outer[0], found


def own_copy(model: LanguageModel) -> LanguageModel:
    """The same model in modules of its own, which may be changed: loaded models are shared. Its weights are the same
    tensors, and stay as they are."""
    weights = chain(model.network.parameters(), model.network.buffers())
    network = copy.deepcopy(model.network, {id(weight): weight for weight in weights})
    return replace(model, network=network)


def _restacked(model: LanguageModel, kept: Sequence[int]) -> tuple[dict[str, Any], list[Any]]:
    """The config of the text part for some of the layers, and what it cannot say of them."""
    config = model.network.config.get_text_config()
    part, count = _as_stored(config), config.num_hidden_layers
    return restacked(part, [(part, layer, count) for layer in kept], count)


def _as_stored(config: Any) -> dict[str, Any]:
    """What config.json would say, with defaults."""
    found: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return found


def _windows(model: LanguageModel, texts: Sequence[str], tokens: int) -> list[list[int]]:
    """The first tokens of texts, in windows."""
    size = min(_WINDOW, model.context)
    windows: list[list[int]] = []
    left = tokens
    for text in texts:
        read = model.tokens(text, begins=True)[:left]
        windows += [read[begin : begin + size] for begin in range(0, len(read), size)]
        left -= len(read)
        if left <= 0:
            break
    return windows


def _states(model: LanguageModel, layers: Sequence[Any], window: Sequence[int]) -> Tensor:
    """(layers + 1, tokens, width): the states before each layer and after the last one, before the final norm."""
    found: list[Tensor] = []
    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(
                layer.register_forward_pre_hook(partial(_keep_given, found), with_kwargs=True)
            )
        hooks.enter_context(layers[-1].register_forward_hook(partial(_keep_made, found)))
        model.network(input_ids=torch.tensor([window], device=model.device), use_cache=False)
    expected = (1, len(window))
    if len(found) != len(layers) + 1 or any(
        state.ndim != 3 or state.shape[:2] != expected for state in found
    ):
        values = {"model": model.name, "kind": type(model.network).__name__}
        raise EvaluationError(Problem("no-layer-stack", values))
    return torch.cat(found)


def _keep_given(found: list[Tensor], _: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    found.append(arguments[0] if arguments else named["hidden_states"])


def _keep_made(found: list[Tensor], _: Any, arguments: Any, made: Any) -> None:
    found.append(made[0] if isinstance(made, tuple) else made)


def _cosines(states: Tensor) -> Tensor:
    """(tokens, layers + 1, layers + 1) float64: cosines between the states of each token."""
    unit = torch.nn.functional.normalize(states.double(), dim=-1).transpose(0, 1)
    return (unit @ unit.transpose(1, 2)).clamp(-1, 1)
