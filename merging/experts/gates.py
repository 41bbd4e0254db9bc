"""The rows of routers, computed from prompts: what the base model makes of each, layer by layer.

A row points to where the hidden states of an expert's prompts are: the larger its product with a token's state, the
more of the token the expert gets. One decoder layer is in memory at a time; the states of all prompts move on through
it together. Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from checkpoints import Checkpoint
from checkpoints.architecture import Layout, Stack
from checkpoints.dtypes import itemsize, torch_name
from checkpoints.problems import CheckpointError, Problem
from merging.plan import Gates, Generated, Plan, Prompt, PromptedExpert

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

# Tokens, padding included, that go through a layer at once.
BATCH = 4096
# What torch, transformers and a model without weights take, measured.
LIBRARY_BYTES = 450_000_000
# Numbers that a processor multiplies per second and token, as a guess.
MULTIPLICATIONS = 2e10

# What each layer calls the matrix that makes keys.
KEYS = "self_attn.k_proj.weight"
# The length of a difference, as a share of what it is the difference of, that says no more than rounding.
NOISE = 1e-5

# Called between steps; raises where the work is to end.
Check = Callable[[], None]


def held(plan: Plan) -> int:
    """Bytes that computing the routers of a plan holds: a layer in float32, and the states of all prompts."""
    gates = plan.gates
    assert gates
    base = plan.models[gates.base]
    layer = 0 if gates.mode == "cheap_embed" else base.parameters / max(gates.layers, 1) * 4
    states = 3 * _tokens(gates) * _hidden(plan) * 4
    return math.ceil(LIBRARY_BYTES + layer + states)


def rough_seconds(plan: Plan) -> float:
    """A guess of the time that computing the routers takes."""
    gates = plan.gates
    assert gates
    if gates.mode == "cheap_embed":
        return 5.0
    return 10.0 + _tokens(gates) * plan.models[gates.base].parameters / MULTIPLICATIONS


def _tokens(gates: Gates) -> int:
    return sum(len(prompt.tokens) for prompt in prompts_of(gates.experts))


def _hidden(plan: Plan) -> int:
    rows = (tensor for model in plan.models if model.generated for tensor in model.generated.tensors.values())
    return next((tensor.shape[1] for tensor in rows if tensor.kind == "router"), 0)


def prompts_of(experts: Sequence[PromptedExpert]) -> list[Prompt]:
    """All prompts, each once."""
    found = (prompt for expert in experts for prompt in (*expert.positive, *expert.negative))
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class LayerStates:
    """What the tokens of each prompt are in one layer, as float32.

    Args:
        layer: its number
        entering: the states before its attention, (tokens, hidden) for each prompt
        inputs: what its MLP is given, and so what a router in its place is given, in the same form
    """

    layer: int
    entering: Sequence[Tensor]
    inputs: Sequence[Tensor]


def states(base: Checkpoint, prompts: Sequence[Prompt], check: Check) -> Iterator[LayerStates]:
    """The states of prompts in each layer of a dense model, which reads one layer at a time.

    Args:
        base: Llama, Mistral, Qwen2 or Qwen3; no prompt is longer than its attention reaches
        check: called between steps; raises to stop

    Raises:
        CheckpointError: a tensor cannot be read, or the config does not fit the tensors.
    """
    import torch

    from checkpoints.built_model import meta_model

    layout = Layout(base.tensors, base.config)
    stack = layout.main.stack
    assert stack and layout.embedding
    config = {key: value for key, value in base.config.items() if key != "layer_types"}
    model = meta_model({**config, "num_hidden_layers": 1, "dtype": "float32"}).requires_grad_(False).eval()
    [layer] = model.model.layers  # all layers are of one kind, and each takes its turn
    _check_frequencies(model.model.rotary_emb.inv_freq.numel(), base, stack)
    rotary = type(model.model.rotary_emb)(config=model.config)
    batches = _batches(prompts)
    table = _rows(base, layout.embedding, {token for prompt in prompts for token in prompt.tokens})
    flows = [_embedded(prompts, batch, table) for batch in batches]
    captured: list[Tensor] = []
    layer.mlp.register_forward_pre_hook(lambda _, given: captured.append(given[0]))
    for number in range(stack.count):
        layer.load_state_dict(_weights(base, stack.join(number, ""), layer), assign=True)
        entering: list[Any] = [None] * len(prompts)
        inputs: list[Any] = [None] * len(prompts)
        for at, batch in enumerate(batches):
            check()
            before = flows[at]
            positions = torch.arange(before.shape[1])[None]
            after = layer(
                before,
                attention_mask=None,  # causal; what pads a prompt follows it, and is not seen
                position_ids=positions,
                position_embeddings=rotary(before, positions),
            )
            flows[at] = after[0] if isinstance(after, tuple) else after
            given = captured.pop()
            for row, index in enumerate(batch):
                length = len(prompts[index].tokens)
                entering[index], inputs[index] = before[row, :length], given[row, :length]
        layer.to("meta")
        yield LayerStates(number, entering, inputs)


def _check_frequencies(count: int, base: Checkpoint, stack: Stack) -> None:
    """Check that a config asks for no more frequencies than the keys have rows, before memory is taken for them.

    Raises:
        CheckpointError: it does.
    """
    rows = base.tensors[stack.join(0, KEYS)].shape[0]
    if count > rows:
        values = {"model": base.name, "count": count, "rows": rows}
        raise CheckpointError(Problem("frequencies-beyond-weights", values, base.name))


def _batches(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Prompts of similar length together, by their numbers."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].tokens))
    batches: list[list[int]] = []
    for index in order:
        length = len(prompts[index].tokens)
        if batches and (len(batches[-1]) + 1) * length <= BATCH:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _embedded(prompts: Sequence[Prompt], batch: Sequence[int], table: Mapping[int, Tensor]) -> Tensor:
    """The embeddings of prompts, with zeros behind the shorter ones: (prompts, tokens, hidden)."""
    import torch

    rows = [torch.stack([table[token] for token in prompts[index].tokens]) for index in batch]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _weights(base: Checkpoint, prefix: str, layer: torch.nn.Module) -> dict[str, Tensor]:
    """The parameters of a layer, in float32."""
    return {name: _whole(base, prefix + name) for name, _ in layer.named_parameters()}


def _whole(base: Checkpoint, name: str) -> Tensor:
    header = base.tensors[name]
    stored = bytearray(header.elements * itemsize(header.dtype))
    base.read_into(name, 0, memoryview(stored))
    return _numbers(stored, header.dtype).view(header.shape)


def _rows(base: Checkpoint, name: str, tokens: set[int]) -> dict[int, Tensor]:
    """Some rows of a table of embeddings, by their numbers."""
    header = base.tensors[name]
    size = header.shape[1] * itemsize(header.dtype)
    found = {}
    for token in sorted(tokens):
        stored = bytearray(size)
        base.read_into(name, token * size, memoryview(stored))
        found[token] = _numbers(stored, header.dtype)
    return found


def _numbers(stored: bytearray, dtype: str) -> Tensor:
    import torch

    kind: torch.dtype = getattr(torch, torch_name(dtype))
    return torch.frombuffer(stored, dtype=kind).to(torch.float32)


# -- rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerRows:
    """The rows of one layer's router, as float32.

    Args:
        means: what each row is made of: mean of its prompts, less that of the negative ones, (experts, hidden)
        rows: of the router, (experts, hidden)
        shared: the gate of the shared expert, (1, hidden); None without one
    """

    means: Tensor
    rows: Tensor
    shared: Tensor | None


def compute(gates: Gates, base: Checkpoint, check: Check) -> list[LayerRows]:
    """The rows of all layers.

    Raises:
        CheckpointError: the base cannot be read.
    """
    if gates.mode == "cheap_embed":
        return [cheap_rows(gates, base)] * gates.layers
    prompts = prompts_of(gates.experts)
    return [rows_of(gates, prompts, found) for found in states(base, prompts, check)]


def cheap_rows(gates: Gates, base: Checkpoint) -> LayerRows:
    """The rows of every layer, by embeddings alone: the sum of a prompt's tokens."""
    import torch

    prompts = prompts_of(gates.experts)
    embedding = Layout(base.tensors, base.config).embedding
    assert embedding
    table = _rows(base, embedding, {token for prompt in prompts for token in prompt.tokens})
    return _made(gates, {p: torch.stack([table[token] for token in p.tokens]).sum(0) for p in prompts})


def rows_of(gates: Gates, prompts: Sequence[Prompt], found: LayerStates) -> LayerRows:
    """The rows of a layer's router, from the states of the prompts there; see the manual for the modes."""
    if gates.mode == "router":
        profiles = [_without_first(given).mean(0) for given in found.inputs]
    elif gates.mode == "hidden_avg":
        profiles = [entering.mean(0) for entering in found.entering]
    else:
        profiles = [entering[-1] for entering in found.entering]
    return _made(gates, dict(zip(prompts, profiles, strict=True)))


def _without_first(states: Tensor) -> Tensor:
    """Without the first token, which attention makes unlike all others, whatever it is."""
    return states[1:] if len(states) > 1 else states


def _made(gates: Gates, profiles: Mapping[Prompt, Tensor]) -> LayerRows:
    """The rows that follow from one vector for each prompt."""
    import torch

    def mean(prompts: Sequence[Prompt]) -> Tensor:
        return torch.stack([profiles[prompt] for prompt in prompts]).mean(0)

    vectors = [
        mean(expert.positive) - mean(expert.negative) if expert.negative else mean(expert.positive)
        for expert in gates.experts
    ]
    chosen = torch.stack([v for v, e in zip(vectors, gates.experts, strict=True) if not e.is_shared])
    shared = [v for v, e in zip(vectors, gates.experts, strict=True) if e.is_shared]
    rows = _centred(chosen) if gates.mode == "router" else chosen
    return LayerRows(chosen, _unit(rows), _unit(torch.stack(shared)) if shared else None)


def _centred(rows: Tensor) -> Tensor:
    """Rows less their mean; where that leaves rounding errors alone, zeros."""
    centred = rows - rows.mean(0)
    is_noise = centred.norm(dim=1, keepdim=True) < NOISE * rows.norm(dim=1, keepdim=True)
    return centred.where(~is_noise, centred.new_zeros(()))


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1; one of zeros stays."""
    lengths = rows.norm(dim=1, keepdim=True)
    found: Tensor = rows / lengths.where(lengths > 0, lengths.new_ones(()))
    return found


def in_tensors(rows: Sequence[LayerRows], generated: Generated) -> dict[str, NDArray[np.float32]]:
    """The computed tensors, by name."""
    found = {}
    for name, tensor in generated.tensors.items():
        own = rows[tensor.layer] if tensor.kind in ("router", "shared gate") else None
        if own:
            values = own.rows if tensor.kind == "router" else own.shared
            assert values is not None
            found[name] = values.numpy()
    return found
