"""Which tensors of a base an adapter changes, and what of it does not fit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from checkpoints.adapters.adapter import Adapter, LowRank
from checkpoints.adapters.change import Change, Term
from checkpoints.adapters.products import read_product
from checkpoints.architecture import OUTPUT_HEAD, Layout, is_transposed, role_of
from checkpoints.checkpoint import Checkpoint
from checkpoints.dtypes import FLOATS
from checkpoints.loading import Loading, load
from checkpoints.naming import EXPERT_MATRICES, Endings
from checkpoints.problems import CheckpointError, Problem
from checkpoints.wording import few

# What a head is called in most models.
HEAD = "lm_head.weight"
IN_LAYER = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class Fit:
    """How an adapter fits its base.

    Args:
        changes: by name of the result's tensor; a head that was tied is a new one
        embedding: the base's tensor that embeds tokens; empty if there is none
        unties: whether a head that read the embedding becomes a tensor of its own
        brought: names of tensors that the base does not have: of a head for another task
    """

    changes: Mapping[str, Change]
    embedding: str
    unties: bool
    brought: tuple[str, ...] = ()


def fit(base: Checkpoint, adapter: Adapter) -> Fit:
    """Find the tensor that each part of an adapter changes.

    Raises:
        CheckpointError: with all that does not fit.
    """
    fitting = _Fitting(base, adapter)
    fitting.collect()
    return Fit(fitting.found, fitting.embedding, fitting.unties, tuple(fitting.brought))


def _is_head(name: str) -> bool:
    return OUTPUT_HEAD.search(name) is not None and not IN_LAYER.search(name)


@dataclass
class _Fitting:
    """Collects the changes, and what does not fit.

    Args:
        base, adapter: of `fit`
        found: changes, by name of the result's tensor
        missing: modules that the base does not have
        misfits: modules of other shapes than the adapter's, as phrases
        problems: all others
        unties, brought: see `Fit`
    """

    base: Checkpoint
    adapter: Adapter
    found: dict[str, Change] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    misfits: list[str | dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unties: bool = False
    brought: list[str] = field(default_factory=list)

    def collect(self) -> None:
        for name, key in self.adapter.saved.items():
            self._save(name, key)
        for module, key in self.adapter.rows.items():
            self._replace_rows(module, key)
        for module, parts in self.adapter.low_rank.items():
            self._add(module, parts)
        for module, others in self.adapter.others.items():
            self._add_other(module, others)
        self._keep_or_cut_tie()
        self._check_rows()
        self._report()

    # -- names -----------------------------------------------------------------------------------------

    @cached_property
    def _layout(self) -> Layout:
        return Layout(self.base.tensors, self.base.config)

    @property
    def embedding(self) -> str:
        return self._layout.embedding or ""

    @cached_property
    def is_tied(self) -> bool:
        """Whether the base's head reads the embedding matrix."""
        return bool(self.embedding) and not any(map(_is_head, self.base.tensors)) and self._layout.is_tied

    @cached_property
    def head(self) -> str:
        """What a head is called that was tied and becomes a tensor of its own: as the adapter calls it."""
        modules = [*self.adapter.rows, *self.adapter.low_rank, *self.adapter.others]
        names = [*self.adapter.saved, *(f"{module}.weight" for module in modules)]
        return next(filter(_is_head, names), HEAD)

    @cached_property
    def _endings(self) -> Endings:
        return Endings(self.base.tensors)

    @cached_property
    def _loading(self) -> Loading | None:
        """How transformers loads the base, and which of its parameters the adapter's names mean."""
        modules = [*self.adapter.rows, *self.adapter.low_rank, *self.adapter.others]
        names = [f"{module}.{last}" for module in modules for last in ("weight", "bias")]
        shapes = {name: header.shape for name, header in self.base.tensors.items()}
        return load(self.base.config, shapes, [*self.adapter.saved, *names])

    def _find(self, wanted: str) -> str | None:
        """The base's tensor of this name: models and files may differ in the words before the layers, and in others.

        Where there are several stacks, words before the layers tell them apart, and the class knows which is meant.
        """
        if wanted in self.base.tensors:
            return wanted
        if len(self._layout.modules) > 1:
            return self._find_by_class(wanted) or self._endings.nearest(wanted)
        return self._endings.nearest(wanted) or self._find_by_class(wanted)

    def _find_by_class(self, wanted: str) -> str | None:
        loading = self._loading
        parameter = loading.renamed.get(wanted) if loading else None
        return loading.whole(parameter) if loading and parameter else None

    def _target(self, name: str) -> tuple[str, str] | None:
        """Names of the result's tensor and of the base's that it comes from."""
        if _is_head(name) and name not in self.base.tensors and self.is_tied:
            return name, self.embedding
        if own := self._find(name):
            return own, own
        tied = self._tied_by_class(name)
        self.unties |= tied is not None
        return (name, tied) if tied else None

    def _tied_by_class(self, name: str) -> str | None:
        """The base's tensor that the class ties a parameter to."""
        return self._loading.tied_names([name]).get(name) if self._loading else None

    # -- parts -----------------------------------------------------------------------------------------

    def _change(self, name: str, base: str) -> Change:
        shape = self.base.tensors[base].shape
        height = shape[0] if shape else 1
        return self.found.get(name) or Change(shape or (1,), base, height, height)

    def _save(self, name: str, key: str) -> None:
        target = self._target(name)
        if target is None:
            self._bring(name, key)
            return
        shape, before = self.adapter.tensors[key].shape, self.base.tensors[target[1]].shape
        if shape[1:] != before[1:] or (shape != before and not self._is_vocabulary(target[0])):
            self._misfit("misfit-shape", name, found=list(shape), expected=list(before))
            return
        if self.base.tensors[target[1]].dtype not in FLOATS or self.adapter.tensors[key].dtype not in FLOATS:
            self._misfit("misfit-dtype", name)
            return
        change = self._change(*target)
        self.found[target[0]] = replace(change, shape=shape, group=shape[0] if shape else 1, saved=key)

    def _bring(self, name: str, key: str) -> None:
        """Add a tensor of a head that was trained with the adapter, and that the base does not have."""
        listed = self.adapter.option("modules_to_save") or []
        is_head = any(f".{module}." in f".{name}" for module in listed) and not IN_LAYER.search(name)
        if not is_head or role_of(name) != "layer":
            self.missing.append(name)
            return
        shape = self.adapter.tensors[key].shape or (1,)
        self.found[name] = Change(shape, group=shape[0], saved=key)
        self.brought.append(name)

    def _is_vocabulary(self, name: str) -> bool:
        return name == self.embedding or _is_head(name)

    def _replace_rows(self, module: str, key: str) -> None:
        target = self._target(f"{module}.weight")
        if target is None:
            self.missing.append(module)
            return
        change = self._change(*target)
        indices = self.adapter.indices(module)
        shape = self.adapter.tensors[key].shape
        if shape != (len(indices), *change.shape[1:]):
            values = {"found": list(shape), "count": len(indices), "expected": list(change.shape)}
            self._misfit("misfit-rows", module, **values)
            return
        rows = max([change.shape[0], *(index + 1 for index in indices)])
        new = set(range(change.shape[0], rows)) - set(indices)
        if new:
            values = {
                "adapter": self.adapter.name,
                "token": rows - 1,
                "tokens": change.shape[0],
                "count": len(new),
                "first": min(new),
            }
            self.problems.append(Problem("adapter-rows", values, self.adapter.name))
            return
        grown = (rows, *change.shape[1:])
        self.found[target[0]] = replace(change, shape=grown, group=rows, rows=key, indices=tuple(indices))

    def _add(self, module: str, parts: LowRank) -> None:
        target = self._target(f"{module}.weight")
        if target is None:
            self._add_packed(module, parts)
            return
        change = self._change(*target)
        a, b = self.adapter.tensors[parts.a].shape, self.adapter.tensors[parts.b].shape
        rank, inside, outside = a[0], math.prod(a[1:]), b[0]
        is_embedding = "lora_embedding" in parts.a
        transposed = is_embedding or self._is_transposed(module, change, inside, outside)
        wanted = (inside, outside) if transposed else (outside, inside)
        if b[1:2] != (rank,) or math.prod(b[1:]) != rank or wanted != (change.height, change.width):
            self._misfit(
                "misfit-factors", module, inputs=inside, outputs=outside, expected=list(change.shape)
            )
            return
        term = Term(parts.a, parts.b, self.adapter.scaling(module, rank), transposed)
        self.found[target[0]] = replace(
            change, low_rank=(*change.low_rank, term), magnitude=parts.magnitude, by_column=transposed
        )
        if parts.magnitude and math.prod(self.adapter.tensors[parts.magnitude].shape) != outside:
            self._misfit("misfit-magnitudes", module, outputs=outside)
        if parts.bias:
            self._add_bias(module, parts, rank)

    def _is_transposed(self, module: str, change: Change, inside: int, outside: int) -> bool:
        """Whether a matrix is stored as (in, out). Its shape tells, or that of another one in the layers."""
        if len(change.shape) != 2 or inside != outside:
            return len(change.shape) == 2 and change.shape == (inside, outside)
        return self._square_is_transposed(module)

    def _square_is_transposed(self, module: str) -> bool:
        """Whether a square matrix is stored as (in, out): the base's layers tell, its class, or else the adapter."""
        if not IN_LAYER.search(module):
            return False  # heads are stored as all linear layers are
        known = is_transposed({name: header.shape for name, header in self.base.tensors.items()})
        if known is not None:
            return known
        if self._loading:
            name = f"{module}.weight"
            return self._loading.renamed.get(name, name) in self._loading.transposed
        return self._adapter_is_transposed

    @cached_property
    def _adapter_is_transposed(self) -> bool:
        """What the adapter's other modules in the layers show, or what its config says."""
        seen = set()
        for module, parts in self.adapter.low_rank.items():
            a, b = self.adapter.tensors[parts.a].shape, self.adapter.tensors[parts.b].shape
            own = self._find(f"{module}.weight")
            if own and IN_LAYER.search(module) and len(a) == len(b) == 2 and a[1] != b[0]:
                seen.add(self.base.tensors[own].shape == (a[1], b[0]))
        return seen.pop() if len(seen) == 1 else bool(self.adapter.option("fan_in_fan_out"))

    def _add_bias(self, module: str, parts: LowRank, rank: int) -> None:
        target = self._find(f"{module}.bias")
        if target is None:
            values = {"adapter": self.adapter.name, "module": module}
            self.problems.append(Problem("adapter-bias", values, self.adapter.name))
            return
        change = self._change(target, target)
        term = Term("", parts.bias, self.adapter.scaling(module, rank))
        if self.adapter.tensors[parts.bias].shape != change.shape:
            count = self.adapter.tensors[parts.bias].shape[0]
            self._misfit("misfit-bias", module, count=count)
            return
        self.found[target] = replace(change, low_rank=(*change.low_rank, term))

    def _add_other(self, module: str, parts: Mapping[str, str]) -> None:
        """What LoHa and LoKr add, or IA3 multiplies with."""
        target = self._target(f"{module}.weight")
        if target is None:
            self.missing.append(module)
            return
        change = self._change(*target)
        if "ia3_l" in parts:
            self._multiply(module, target[0], change, parts["ia3_l"])
            return
        shapes = {name: self.adapter.tensors[name].shape for name in parts.values()}
        product = read_product(parts, shapes, self.adapter.scaling(module, self.adapter.rank(module)))
        # PEFT shuffles the Kronecker product with a whole kernel along one axis: which cannot be intended.
        unsound = product and product.is_kronecker and len(shapes[product.other.names[0]]) == 3
        if product is None or unsound or product.shape != (change.height, change.width):
            self._misfit("misfit-product", module, expected=list(change.shape))
            return
        self.found[target[0]] = replace(change, products=(*change.products, product))

    def _multiply(self, module: str, name: str, change: Change, key: str) -> None:
        """IA3: outputs, or the inputs of feed-forward layers, times learned factors."""
        shape = self.adapter.tensors[key].shape
        count = math.prod(shape)
        of_inputs = shape == (1, count)
        by_column = change.shape[-1] == count
        if by_column and change.shape[0] == count:
            by_column = of_inputs != self._square_is_transposed(module)
        if len(change.shape) != 2 or len(shape) != 2 or count != change.shape[by_column]:
            self._misfit("misfit-ia3", module, count=count, expected=list(change.shape))
            return
        self.found[name] = replace(change, factor=key, factor_by_column=by_column)
        bias = self._find(f"{module}.bias")
        if bias and not of_inputs:
            self.found[bias] = replace(self._change(bias, bias), factor=key)

    # -- packed experts --------------------------------------------------------------------------------

    def _add_packed(self, module: str, parts: LowRank) -> None:
        """Factors for a parameter that holds one matrix an expert, or for those matrices one by one."""
        holder = module.replace(".base_layer", "")
        names = [name.rpartition(".")[2] for name in self.adapter.option("target_parameters") or []]
        for parameter in dict.fromkeys(names):
            if self._add_parameter(holder, parameter, parts) or self._add_experts(holder, parameter, parts):
                return
        if any(self._find(f"{holder}.{name}") for name in names):
            self.misfits.append(module)
        else:
            self.missing.append(module)

    def _add_parameter(self, holder: str, parameter: str, parts: LowRank) -> bool:
        name = self._find(f"{holder}.{parameter}")
        if name is None:
            return False
        change = self._change(name, name)
        experts = change.shape[0] if len(change.shape) == 3 else 1
        a, b = self.adapter.tensors[parts.a].shape, self.adapter.tensors[parts.b].shape
        shape = change.shape[-2:]
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] % experts:
            return False
        if (b[0], a[1]) != shape and (a[1], b[0]) != shape:
            return False
        transposed = (b[0], a[1]) != shape or (
            experts > 1 and shape[0] == shape[1] and self._experts_are_transposed(holder)
        )
        scaling = self.adapter.scaling(f"{holder}.{parameter}", a[0] // experts)
        term = Term(parts.a, parts.b, scaling, transposed, experts)
        self.found[name] = replace(
            change,
            low_rank=(*change.low_rank, term),
            base_height=math.prod(change.shape[:-1]),
            group=shape[0],
        )
        return True

    def _experts_are_transposed(self, holder: str) -> bool:
        """Whether experts are stored as (in, out), where their own shape, a square, does not tell."""
        other = self._find(f"{holder}.gate_up_proj")
        width = self.base.config.get("hidden_size")
        return other is not None and self.base.tensors[other].shape[1] == width

    def _add_experts(self, holder: str, parameter: str, parts: LowRank) -> bool:
        """Files may hold the matrices of each expert, which the model packs when it loads them."""
        matrices = self._expert_matrices(holder, parameter)
        if not matrices:
            return False
        experts = 1 + max(expert for expert, _ in matrices)
        a, b = self.adapter.tensors[parts.a].shape, self.adapter.tensors[parts.b].shape
        heights = [self.base.tensors[matrices[0, i]].shape[0] for i in range(len(EXPERT_MATRICES[parameter]))]
        width = self.base.tensors[matrices[0, 0]].shape[1]
        if a[0] != b[1] or a[0] % experts or (b[0], a[1]) != (sum(heights), width):
            return False
        scaling = self.adapter.scaling(f"{holder}.{parameter}", a[0] // experts)
        for (expert, number), name in matrices.items():
            first = sum(heights[:number])
            part = (first, first + heights[number])
            change = self._change(name, name)
            term = Term(parts.a, parts.b, scaling, False, experts, expert, part)
            self.found[name] = replace(change, low_rank=(*change.low_rank, term))
        return True

    def _expert_matrices(self, holder: str, parameter: str) -> dict[tuple[int, int], str]:
        """The base's tensors of a packed parameter: (expert, which of the stacked matrices): name."""
        layer = re.search(r"\.(\d+)\.", holder)
        found = {}
        for number, words in enumerate(EXPERT_MATRICES.get(parameter, ())):
            pattern = (
                rf"\.{layer[1] if layer else ''}\.(?:\w+\.)*experts\.(\d+)\.({'|'.join(words)})\.weight$"
            )
            for name in self.base.tensors:
                if match := re.search(pattern, name):
                    found[int(match[1]), number] = name
        return found

    # -- the whole -------------------------------------------------------------------------------------

    def _keep_or_cut_tie(self) -> None:
        """Keep the head tied to the embedding where both were trained, or grew, as one.

        Otherwise it becomes a tensor of its own, as it was in training: PEFT changes the embedding or the head, not
        both.
        """
        embedding, head = self.found.get(self.embedding), self.found.get(self.head)
        if not (embedding or head) or not self.is_tied:
            return
        together = self.adapter.option("ensure_weight_tying") or (embedding and not head and embedding.rows)
        if embedding and together:
            self.found.pop(self.head, None)
            return
        if embedding and not head and embedding.shape != self.base.tensors[self.embedding].shape:
            return
        if head is None:
            shape = self.base.tensors[self.embedding].shape
            self.found[self.head] = Change(shape, self.embedding, shape[0], shape[0])
        self.unties = True

    def _misfit(self, how: str, name: str, **values: Any) -> None:
        self.misfits.append({"phrase": how, "name": name, **values})

    def _check_rows(self) -> None:
        """Embedding and head must have rows for the same tokens."""
        names = [self.embedding, next(filter(_is_head, self.base.tensors), self.head)]
        tensors = self.base.tensors
        rows = {
            name: self.found[name].shape[0] if name in self.found else tensors[name].shape[0]
            for name in names
            if name in self.found or name in tensors
        }
        changed = any(
            name in self.found and self.found[name].shape != tensors[name].shape for name in tensors
        )
        if changed and len(set(rows.values())) > 1:
            found = [f"{name} {count}" for name, count in rows.items()]
            values = {"adapter": self.adapter.name, "sizes": found}
            self.problems.append(Problem("adapter-vocabulary", values, self.adapter.name))

    def _report(self) -> None:
        base, name = self.base.name, self.adapter.name
        trained_on = self.adapter.option("base_model_name_or_path")
        values = {"adapter": name, "base": base, "trained_on": trained_on}
        if self.missing:
            problem = Problem("adapter-modules", {**values, "modules": few(self.missing)}, name)
            self.problems.append(problem)
        if self.misfits:
            problem = Problem("adapter-misfit", {**values, "misfits": few(self.misfits)}, name)
            self.problems.append(problem)
        if not self.found and not self.problems:
            self.problems.append(Problem("adapter-empty", {"adapter": name}, name))
        if self.problems:
            raise CheckpointError(self.problems)
