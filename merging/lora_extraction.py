"""A LoRA adapter out of a fine-tune and its base: what each matrix gained, as a product of two small ones.

Matrix by matrix: the truncated singular value decomposition of the difference, in float32, which no product of
this rank comes nearer to. Where the rank is far below the size, the decomposition is randomised
(https://arxiv.org/abs/0909.4061); what is reported is the true distance of what is written either way. Whatever is
no matrix, and changed, goes along whole.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from checkpoints import Checkpoint, TensorHeader, Token, without_adapters, write_header
from checkpoints.adapters.adapted import AdaptedCheckpoint
from checkpoints.adapters.adapter import CONFIG, WEIGHTS
from checkpoints.adapters.changed_tensor import as_stored
from checkpoints.architecture import (
    OUTPUT_HEAD,
    Layout,
    input_embedding,
    is_tied,
    is_transposed,
    stands_before_layers,
)
from checkpoints.dtypes import FLOATS, rank_in_file, safetensors_name
from checkpoints.loading import load
from checkpoints.names import is_address
from checkpoints.problems import CheckpointError, DestinationError, PlanError, Problem
from checkpoints.renamed import RenamedCheckpoint, in_names_of
from checkpoints.tokenizer_files import tokenizer_files
from checkpoints.wording import few
from merging.destinations import Receipt, open_destination, scheme_of
from merging.destinations.destination import ResultPlace
from merging.engine.models import open_merge
from merging.expert_extraction import EXPERT_WORDS, Experts, PackedFactors, find_experts, modules, pack
from merging.intermediate import IntermediateMerge
from merging.methods import METHODS
from merging.plan import Plan, PlannedShard, PlannedTensor
from merging.planning.configs import as_json
from merging.planning.make import make_plan, open_model
from merging.planning.spares import spares
from merging.recipe.reader import read_reference
from merging.recipe.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "base_model.model."
# More directions than asked for, and passes over the matrix, that make the randomised decomposition accurate.
OVERSAMPLED, PASSES = 16, 3
# A rank from this part of the matrix's size on is found faster by the full decomposition.
SHARE = 4
# Directions that a search for the rank begins with.
FIRST_RANK = 64
# Modules with a matrix that are no linear layers to PEFT.
ROUTERS = (".gate", ".router")
EXPERT = re.compile(r"\.experts\.\d+\.")
# Instead of the norm of an adapter that changes nothing, which would divide by zero.
TINY = 1e-300
# Bytes of a tensor that is taken over whole, read and written at once.
STEP = 16 * 1024 * 1024


@dataclass(frozen=True)
class Extracted:
    """One matrix: `error` is the distance (in the Frobenius norm) that is left, relative to the difference."""

    module: str
    shape: tuple[int, int]
    rank: int
    error: float

    @property
    def captured(self) -> float:
        """The share of the difference's energy that is kept."""
        return 1 - self.error**2


@dataclass(frozen=True)
class Extraction:
    """What was extracted.

    Args:
        place: where the adapter is
        matrices: that became products
        whole: names of tensors that are in it as they are
        nbytes: of the adapter's weights
        warnings: what the user should know
    """

    place: ResultPlace
    matrices: tuple[Extracted, ...]
    whole: tuple[str, ...]
    nbytes: int
    warnings: tuple[Problem, ...] = ()


def extract_lora(
    finetune: str | Recipe,
    base: str,
    to: str,
    *,
    rank: int = 32,
    energy: float | None = None,
    dtype: str = "float32",
    token: Token = None,
    private: bool = True,
    overwrite: bool = False,
    allow_folders: bool = True,
    on_matrix: Callable[[Extracted], None] = lambda _: None,
) -> Extraction:
    """Write the adapter that makes a fine-tune of its base, as near as its rank allows.

    Args:
        finetune, base: as in a recipe: `owner/name@revision`, a folder, also with adapters. Instead of a fine-tune a
            recipe, whose merge is made tensor by tensor while it is taken apart, and in float32 whatever it says: the
            difference to the base would be lost in the rounding. So adapters that are merged become one again
        to: a folder, or `hf://owner/name`
        rank: of the products, at most
        energy: instead of one rank for all: the smallest for each matrix that keeps this share of its difference's
            energy, `rank` at most
        dtype: of the factors
        token, private, overwrite: see `run_plan`
        on_matrix: called when one is done

    Raises:
        CheckpointError: a model cannot be read, or they do not belong together
        PlanError: the recipe cannot be merged
        DestinationError: the destination cannot take the result
    """
    destination = open_destination(
        to, token=token, private=private, overwrite=overwrite, allow_folders=allow_folders
    )
    if problems := destination.check():
        raise DestinationError(problems)
    with ExitStack() as stack:
        opened = [open_model(read_reference(base), token, allow_folders)]
        stack.callback(opened[0].close)
        opened.append(_open_finetune(finetune, token, allow_folders))
        stack.callback(opened[1].close)
        if renamed := in_names_of(opened[1], opened[0]):
            opened[1] = RenamedCheckpoint(opened[1], renamed)
        work = _Extraction(opened[0], opened[1], rank, energy, dtype)
        work.run(on_matrix)
        if not (work.factors or work.whole or work.packed):
            values = {"model": opened[1].name, "base": base}
            raise CheckpointError(Problem("no-difference", values, opened[1].name))
        shard = work.shard()
        try:
            destination.begin(Plan("", "", shards=(shard,)), lambda: None)
            writer = destination.sink.open_shard(shard.filename, shard.bytes)
            offset = 0
            for part in work.parts(shard):
                writer.write(offset, part)
                offset += len(part)
            stored = writer.close()
            destination.admit(Receipt(shard.filename, shard.bytes, stored.sha256))
            for file, text in work.files(destination.name, bool(scheme_of(to))).items():
                destination.write_file(file, text)
            place = destination.finish(f"Extract a LoRA adapter of {opened[1].name}")
        except BaseException:
            destination.abandon(keep=False)
            raise
        whole = tuple(dict.fromkeys(work.whole.values()))
        return Extraction(place, tuple(work.matrices), whole, shard.bytes, tuple(work.warnings()))


def _is_on_hub(model: Checkpoint) -> bool:
    return not (model.is_folder or is_address(model.name))


def _open_finetune(finetune: str | Recipe, token: Token, allow_folders: bool) -> Checkpoint:
    if isinstance(finetune, str):
        return open_model(read_reference(finetune), token, allow_folders)
    exact = replace(finetune, dtype="float32", out_dtype=None)
    plan = make_plan(exact, token=token, allow_folders=allow_folders)
    if not plan.ok:
        raise PlanError(plan.problems)
    return open_merge(plan, finetune.name or "the merge", token)


def read_tensor(checkpoint: Checkpoint, name: str) -> Tensor:
    """A tensor, whole, as it is stored."""
    header = checkpoint.tensors[name]
    data = bytearray(header.nbytes)
    checkpoint.read_into(name, 0, memoryview(data))
    return as_stored(data, header.dtype, header.shape)


def decompose(delta: Tensor, rank: int, energy: float | None) -> tuple[Tensor, Tensor]:
    """The best product of two small matrices for a large one.

    Args:
        delta: float32 of shape (rows, columns)
        rank: at most
        energy: the smallest rank that keeps this share of the squared norm; None: `rank` itself

    Returns:
        Factors of shapes (rows, r) and (r, columns).
    """
    size = min(delta.shape)
    rank = min(rank, size)
    whole = delta.double().square().sum().item()
    tried = rank if energy is None else min(FIRST_RANK, rank)
    while True:
        if (tried + OVERSAMPLED) * SHARE >= size:
            left, values, right = torch.linalg.svd(delta, full_matrices=False)
        else:
            left, values, right = _randomised(delta, tried + OVERSAMPLED)
        kept = values.double().square().cumsum(0) / whole
        enough = rank if energy is None else int((kept < energy).sum()) + 1
        if enough <= tried or tried == rank or len(values) == size:
            break
        tried = min(2 * tried, rank)
    return _cut(left, values, right, min(enough, rank))


def compress(left: Tensor, right: Tensor, rank: int, energy: float | None) -> tuple[Tensor, Tensor]:
    """The best product of this rank for one that is known by its factors, which needs no large matrix.

    Args:
        left, right: of shapes (rows, r) and (r, columns)
        rank, energy: see `decompose`; factors of no higher rank are given back as they are
    """
    if left.shape[1] <= rank and energy is None:
        return left, right
    outer, inner = torch.linalg.qr(left), torch.linalg.qr(right.T)
    u, values, v = torch.linalg.svd(outer.R @ inner.R.T, full_matrices=False)
    kept = values.double().square().cumsum(0)
    enough = rank if energy is None else int((kept < energy * kept[-1]).sum()) + 1
    return _cut(outer.Q @ u, values, v @ inner.Q.T, min(enough, rank))


def product_norm(left: Tensor, right: Tensor) -> float:
    """The Frobenius norm of a product, from its factors, in float64."""
    outer, inner = torch.linalg.qr(left.double(), "r").R, torch.linalg.qr(right.double().T, "r").R
    return float(torch.linalg.norm(outer @ inner.T))


def _cut(left: Tensor, values: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The first directions, with half of each value on either side."""
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def _randomised(delta: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values in the space that random directions reach: the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    space = torch.linalg.qr(delta @ torch.randn(delta.shape[1], count, generator=generator))[0]
    for _ in range(PASSES):
        space = torch.linalg.qr(delta @ torch.linalg.qr(delta.T @ space)[0])[0]
    left, values, right = torch.linalg.svd(space.T @ delta, full_matrices=False)
    return space @ left, values, right


@dataclass
class _Extraction:
    base: Checkpoint
    finetune: Checkpoint
    rank: int
    energy: float | None
    dtype: str
    factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # module: A (r, in), B (out, r)
    whole: dict[str, str] = field(default_factory=dict)  # tensor of the adapter: tensor of the fine-tune
    matrices: list[Extracted] = field(default_factory=list)
    transposed: bool = False
    left_out: list[str] = field(default_factory=list)
    packed: dict[Experts, PackedFactors] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)  # module in files: module of the model

    def run(self, on_matrix: Callable[[Extracted], None]) -> None:
        self._check()
        shapes = {name: header.shape for name, header in self.base.tensors.items()}
        self.transposed = bool(is_transposed(shapes))
        experts = find_experts(self.base)
        singles = {name for group in experts for names in group.matrices for name in names}
        names = [
            name
            for name, header in self.finetune.tensors.items()
            if header.dtype in FLOATS and name not in singles and name not in self.left_out
        ]
        others = [name for name in names if not self._is_matrix(name) and not self._is_same(name)]
        changed = {name for name, _ in self._differences(others)}
        self.held = self._modules_held_whole(changed)
        matrices = [name for name in names if self._is_matrix(name) and not self._is_held(name)]
        for name in matrices:
            if known := self._known(name):
                changed.add(name)
                on_matrix(self._put(name, *known))
        matrices = [name for name in matrices if name not in changed and not self._is_same(name)]
        for name, delta in self._differences(matrices):
            changed.add(name)
            if delta is None or not delta.isfinite().all():
                continue
            b, a = (part.to(self.kind) for part in decompose(delta, self.rank, self.energy))
            left = torch.addmm(delta, b.float(), a.float(), alpha=-1)
            on_matrix(self._put(name, b, a, (torch.linalg.norm(left) / torch.linalg.norm(delta)).item()))
        for group in experts:
            self._pack(group, on_matrix)
        self._keep_whole(changed)

    def _differences(self, names: list[str]) -> Iterator[tuple[str, Tensor | None]]:
        """The tensors that changed, each with its difference in float32; None where the base's has another shape."""
        for name, before, after in self._pairs(names):
            if before is None or before.shape != after.shape:
                yield name, None
                continue
            delta = after.float() - before.float()
            if delta.any():
                yield name, delta

    def _modules_held_whole(self, changed: set[str]) -> dict[str, str]:
        """Modules that have a changed tensor of their own beside other modules.

        PEFT has no place for it but with the whole module.

        Raises:
            CheckpointError: the module has the layers in it.
        """
        found: dict[str, str] = {}
        stacks = [m.stack for m in Layout(self.base.tensors, self.base.config).modules.values() if m.stack]
        for name in sorted(changed, key=lambda name: name.count(".")):
            module = name.rpartition(".")[0]
            if any(module.startswith(f"{outer}.") for outer in found):
                continue
            inside = (other for other in self.finetune.tensors if other.startswith(f"{module}."))
            if not module or not any(other.count(".") > name.count(".") for other in inside):
                continue
            if any(stack.prefix.startswith(f"{module}.") for stack in stacks):
                raise CheckpointError(Problem("no-place", {"tensor": name, "module": module}, name))
            found[module] = self._parameter(name).rpartition(".")[0]
        return found

    def _is_held(self, name: str) -> bool:
        return any(name.startswith(f"{module}.") for module in self.held)

    @cached_property
    def _called(self) -> Mapping[str, str]:
        """What modules call the tensors of the base's files, where the class says so."""
        loading = load(self.base.config, {name: header.shape for name, header in self.base.tensors.items()})
        found = loading.parameters if loading else {}
        return {
            parts[0].tensor: name for name, parts in found.items() if len(parts) == 1 and not parts[0].first
        }

    def _parameter(self, name: str) -> str:
        """What the modules of the model call a tensor."""
        return self._called.get(name, name)

    def _pack(self, experts: Experts, on_matrix: Callable[[Extracted], None]) -> None:
        """Keep the factors of a layer's experts."""

        def difference(name: str) -> Tensor:
            if self._is_same(name):
                return torch.zeros(self.base.tensors[name].shape)
            return read_tensor(self.finetune, name).float() - read_tensor(self.base, name).float()

        packed = pack(experts, difference, lambda delta: decompose(delta, self.rank, self.energy), self.kind)
        if packed:
            self.packed[experts] = packed
            count = len(experts.matrices)
            shape = packed.b.shape[0], packed.a.shape[1] * count
            self.matrices.append(Extracted(experts.name, shape, packed.rank, packed.error))
            on_matrix(self.matrices[-1])

    @property
    def kind(self) -> torch.dtype:
        return getattr(torch, self.dtype)  # type: ignore[no-any-return]

    def _put(self, name: str, left: Tensor, right: Tensor, error: float) -> Extracted:
        """Keep the factors of a matrix as it is stored.

        Raises:
            CheckpointError: it is an expert's, of a kind that PEFT has no place for.
        """
        if EXPERT.search(name):
            raise CheckpointError(Problem("packed-expert", {"tensor": name}, name))
        module = self._parameter(name).removesuffix(".weight")
        b, a = (right.T, left.T) if self.transposed else (left, right)
        self.factors[module] = (a.to(self.kind).contiguous(), b.to(self.kind).contiguous())
        self.matrices.append(Extracted(module, (left.shape[0], right.shape[1]), left.shape[1], error))
        return self.matrices[-1]

    def _adapters(self) -> Iterator[AdaptedCheckpoint] | None:
        """The fine-tune's adapters, the last first; None if what is under them is not our base."""
        found = []
        inner = self.finetune
        while isinstance(inner, AdaptedCheckpoint) and inner.adapters[len(self.base.adapters) :]:
            found.append(inner)
            inner = inner.base
        under = [
            (without_adapters(c).name, c.version, [(a.name, a.version, a.scale) for a in c.adapters])
            for c in (inner, self.base)
        ]
        return iter(found) if found and under[0] == under[1] else None

    def _is_same(self, name: str) -> bool:
        """Whether a tensor is the base's, to be seen without reading."""
        layers = self._adapters()
        return layers is not None and all(name not in layer.changes for layer in layers)

    def _known(self, name: str) -> tuple[Tensor, Tensor, float] | None:
        """Factors of a matrix that only sums of products changed: no difference has to be taken."""
        layers = self._adapters()
        if layers is None or not self._is_matrix(name):
            return None
        parts = []
        for layer in layers:
            change = layer.changes.get(name)
            if change and not change.is_plain:
                return None
            if change:
                parts += [
                    (left[0] * (scaling * layer.adapter.scale), right[0])
                    for left, right, scaling in layer.changed(name).low_rank
                ]
        if not parts:
            return None
        left, right = torch.cat([part[0] for part in parts], 1), torch.cat([part[1] for part in parts])
        fewer = [part.to(self.kind) for part in compress(left, right, self.rank, self.energy)]
        both = torch.cat([left, -fewer[0].float()], 1), torch.cat([right, fewer[1].float()])
        return fewer[0], fewer[1], product_norm(*both) / max(product_norm(left, right), TINY)

    def _check(self) -> None:
        """Whether the two are of one architecture."""
        base, finetune = self.base.tensors, self.finetune.tensors
        layouts = [Layout(model.tensors, model.config) for model in (self.base, self.finetune)]
        spare = {*spares(*layouts), *spares(*reversed(layouts))}
        lacking = [name for name in base if name not in finetune and name not in spare]
        self.left_out = [
            name for name in finetune if name in spare and name not in base and not OUTPUT_HEAD.search(name)
        ]
        known = {*base, *self.left_out}
        new = [name for name in finetune if name not in known and not OUTPUT_HEAD.search(name)]
        unequal: list[str | dict[str, Any]] = [
            {
                "phrase": "shape-instead",
                "name": name,
                "found": list(finetune[name].shape),
                "expected": list(base[name].shape),
            }
            for name in base
            if name in finetune and finetune[name].shape[1:] != base[name].shape[1:]
        ]
        if wrong := [*lacking, *new, *unequal]:
            values = {"model": self.finetune.name, "base": self.base.name, "tensors": few(wrong)}
            raise CheckpointError(Problem("not-its-base", values, self.base.name))

    def warnings(self) -> Iterator[Problem]:
        if self.left_out:
            values = {"tensors": few(self.left_out), "model": self.finetune.name, "base": self.base.name}
            yield Problem("left-out-tensor", values)

    def _pairs(self, names: list[str]) -> Iterator[tuple[str, Tensor | None, Tensor]]:
        """The tensors of base (None where it has none) and fine-tune, read one ahead."""

        def read(name: str) -> tuple[str, Tensor | None, Tensor]:
            before = read_tensor(self.base, name) if name in self.base.tensors else None
            return name, before, read_tensor(self.finetune, name)

        if not names:
            return
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(read, names[0])
            for following in [*names[1:], None]:
                found = ahead.result()
                if following is not None:
                    ahead = pool.submit(read, following)
                yield found

    def _is_matrix(self, name: str) -> bool:
        """Whether a tensor is that of a linear layer, which PEFT puts a product beside."""
        module, _, last = name.rpartition(".")
        is_other = stands_before_layers(name) or module.endswith(ROUTERS)
        is_other = is_other or (self.transposed and OUTPUT_HEAD.search(name) is not None)
        return len(self.finetune.tensors[name].shape) == 2 and last == "weight" and not is_other

    def _keep_whole(self, changed: set[str]) -> None:
        """What is no product: biases of the modules that are, and every tensor of other modules that changed."""
        for name in sorted(changed):
            if self._is_held(name):
                continue
            module, _, last = self._parameter(name).rpartition(".")
            if module in self.factors:
                if last == "bias":
                    self.whole[f"{PREFIX}{module}.base_layer.bias"] = name
                continue
            own = name.rpartition(".")[0]
            self._keep(other for other in self.finetune.tensors if other.rpartition(".")[0] == own)
        self._keep(filter(self._is_held, self.finetune.tensors))
        if self._stays_tied:
            # PEFT wants the head too, though it is the same.
            self.whole[f"{PREFIX}lm_head.weight"] = str(input_embedding(self.base.tensors))

    def _keep(self, names: Iterable[str]) -> None:
        self.whole |= {PREFIX + self._parameter(name): name for name in names}

    @property
    def _stays_tied(self) -> bool:
        embedding = input_embedding(self.base.tensors)
        return (
            is_tied(self.finetune.config, self.finetune.tensors)
            and PREFIX + self._parameter(str(embedding)) in self.whole
        )

    # -- files -----------------------------------------------------------------------------------------

    def shard(self) -> PlannedShard:
        """The adapter's file of weights."""
        tensors: list[tuple[str, str, tuple[int, ...]]] = []
        for module, (a, b) in self._all_factors().items():
            for part, tensor in (("lora_A", a), ("lora_B", b)):
                tensors.append(
                    (f"{PREFIX}{module}.{part}.weight", safetensors_name(self.dtype), tensor.shape)
                )
        for key, name in self.whole.items():
            header = self.finetune.tensors[name]
            tensors.append((key, header.dtype, header.shape))
        tensors.sort(key=lambda tensor: (rank_in_file(tensor[1]), tensor[0]))
        planned = [PlannedTensor(key, kind, tuple(shape), (), {}, None, None) for key, kind, shape in tensors]
        shard = PlannedShard(WEIGHTS[0], tuple(planned), 0)
        size = len(_header(shard)) + sum(tensor.bytes for tensor in planned)
        return PlannedShard(shard.filename, shard.tensors, size)

    def _all_factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """By module as PEFT calls it: A and B."""
        called = modules(self.packed)
        return self.factors | {called[experts]: (found.a, found.b) for experts, found in self.packed.items()}

    def parts(self, shard: PlannedShard) -> Iterator[memoryview]:
        """The bytes of that file, in order."""
        yield memoryview(_header(shard))
        factors = self._all_factors()
        for tensor in shard.tensors:
            if tensor.name in self.whole:
                name = self.whole[tensor.name]
                for start in range(0, tensor.bytes, STEP):
                    data = bytearray(min(STEP, tensor.bytes - start))
                    self.finetune.read_into(name, start, memoryview(data))
                    yield memoryview(data)
                continue
            module, _, part = tensor.name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
            factor = factors[module][part == "lora_B"]
            yield factor.view(-1).view(torch.uint8).numpy().data

    def files(self, name: str, is_public_place: bool) -> dict[str, bytes]:
        texts = {CONFIG: as_json(self._config(is_public_place)), "README.md": self._card(name)}
        files = {file: text.encode() for file, text in texts.items()}
        own = {file: self.finetune.read_file(file) for file in tokenizer_files(self.finetune.files)}
        with suppress(CheckpointError):
            if any(file not in self.base.files or self.base.read_file(file) != own[file] for file in own):
                files |= own
        return files

    def _config(self, is_public_place: bool) -> dict[str, Any]:
        ranks = {module: a.shape[0] for module, (a, _) in self.factors.items()}
        of_all = ranks | {experts.name: found.rank for experts, found in self.packed.items()}
        most = max(of_all.values(), default=self.rank)
        other = {module: rank for module, rank in of_all.items() if rank != most}
        parameters = {f"{experts.holder.rpartition('.')[2]}.{experts.parameter}" for experts in self.packed}
        # Beside packed experts PEFT takes modules of these names for experts, but not their parameters.
        alike = {module for module in ranks if parameters and module.rpartition(".")[2] in EXPERT_WORDS}
        parameters |= {f"{module}.weight" for module in alike}
        other |= {f"{module}.weight": other[module] for module in alike & other.keys()}
        whole = sorted({self._saved_module(key.removeprefix(PREFIX)) for key in self.whole})
        if self._stays_tied:
            whole.remove("lm_head")
        saved = [module for module in whole if not module.endswith(".base_layer")]
        base = without_adapters(self.base)
        name = base.name.rstrip("/").rpartition("/")[2] if is_public_place and base.is_folder else base.name
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": name,
            "revision": base.version if _is_on_hub(base) else None,
            "inference_mode": True,
            "r": most,
            "lora_alpha": most,
            "rank_pattern": other,
            "alpha_pattern": other,
            "target_modules": _short_names(ranks.keys() - alike, self._modules()),
            **({"target_parameters": sorted(parameters)} if parameters else {}),
            "modules_to_save": saved or None,
            "bias": "lora_only" if len(saved) < len(whole) else "none",
            "fan_in_fan_out": self.transposed,
            "ensure_weight_tying": self._stays_tied,
            "lora_dropout": 0.0,
            "init_lora_weights": True,
        }

    def _saved_module(self, name: str) -> str:
        """The module that PEFT saves with a parameter."""
        return next(
            (module for module in self.held.values() if name.startswith(f"{module}.")),
            name.rpartition(".")[0],
        )

    def _modules(self) -> set[str]:
        return {self._parameter(name).rpartition(".")[0] for name in self.finetune.tensors}

    def _card(self, name: str) -> str:
        base, finetune = map(without_adapters, (self.base, self.finetune))
        front = ["---", "library_name: peft", "tags:", "- lora", "- alloy"]
        if _is_on_hub(base):
            front += [f"base_model: {base.name}", "base_model_relation: adapter"]
        rows = [f"| `{m.module}` | {m.rank} | {m.captured:.4f} | {m.error:.4f} |" for m in self.matrices]
        source, origin = (m.name.rpartition("/")[2] if m.is_folder else m.name for m in (finetune, base))
        made_by = self.finetune.plan if isinstance(self.finetune, IntermediateMerge) else None
        what = f"this merge by {METHODS[made_by.method].title}" if made_by else f"`{source}`"
        recipe = ["", "```yaml", made_by.recipe.rstrip(), "```"] if made_by else []
        return "\n".join(
            [
                *front,
                "---",
                "",
                f"# {name}",
                "",
                f"What {what} has more than `{origin}`, as a LoRA adapter: the truncated singular value",
                "decomposition of each matrix's difference.",
                "",
                "| matrix | rank | energy kept | relative error |",
                "|---|--:|--:|--:|",
                *rows,
                *recipe,
                "",
            ]
        )


def _header(shard: PlannedShard) -> bytearray:
    return bytearray(
        write_header(
            TensorHeader(t.name, t.dtype, t.shape, shard.filename, 0, t.bytes) for t in shard.tensors
        )
    )


def _short_names(targets: Set[str], modules: set[str]) -> list[str]:
    """The last word of modules' names where it stands for all that end so, else the whole name."""
    by_last: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        by_last[module.rpartition(".")[2]].add(module)
    names = set()
    for module in targets:
        last = module.rpartition(".")[2]
        names.add(last if by_last[last] <= targets else module)
    return sorted(names)
