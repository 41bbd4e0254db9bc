"""A base and an adapter, as one checkpoint: what the adapter changes is computed in float32 when it is read.

Nothing is stored on the way, and no model is built. A tensor that the adapter leaves alone is the base's, byte for
byte. The result is what `PeftModel.merge_and_unload` makes of a float32 base.
"""

from __future__ import annotations

import copy
import json
import math
import re
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from checkpoints.adapters.adapter import Adapter, LowRank, read_adapter
from checkpoints.adapters.products import Product, read_product
from checkpoints.checkpoint import Checkpoint, read_json
from checkpoints.dtypes import FLOATS
from checkpoints.formats.header import TensorHeader
from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories import open_repository
from checkpoints.repositories.repository import Token, read_small
from checkpoints.tokenizer_files import VOCABULARIES, is_template, tokenizer_files
from checkpoints.wording import few

if TYPE_CHECKING:
    from torch import Tensor

    from checkpoints.adapters.changed_tensor import ChangedTensor

# Bytes of adapters' tensors that are kept in float32, so that they are not fetched anew for each stretch of a tensor.
HELD = 128 * 1024 * 1024
HEAD = "lm_head.weight"
TOKENIZER_CONFIG = "tokenizer_config.json"
EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in)\.weight$")
# How packed experts are called that lie in files one by one: parameter, matrices that it stacks.
EXPERT_MATRICES = {
    "gate_up_proj": (("gate_proj", "w1"), ("up_proj", "w3")),
    "down_proj": (("down_proj", "w2"),),
}


@dataclass(frozen=True)
class Term:
    """A low-rank sum: for each of `experts` the product of two factors.

    Args:
        a, b: names of the adapter's tensors; without `a`, `b` is a vector that is added as it is
        transposed: whether the tensor is stored as (in, out)
        experts: that a packed parameter holds
        expert: the only one of them that the tensor is, where it lies by itself
        part: of the outputs, (first, end), where the tensor is only some of them
    """

    a: str
    b: str
    scaling: float
    transposed: bool = False
    experts: int = 1
    expert: int | None = None
    part: tuple[int, int] | None = None

    def left(self, held: Mapping[str, Tensor]) -> Tensor:
        """(experts, rows of the tensor, rank)"""
        return self._factors(held)[0]

    def right(self, held: Mapping[str, Tensor]) -> Tensor:
        """(experts, rank, columns of the tensor)"""
        return self._factors(held)[1]

    def _factors(self, held: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        b = held[self.b]
        if not self.a:
            return b.view(1, -1, 1), b.new_ones(1, 1, 1)
        a = held[self.a]
        rank = a.shape[0] // self.experts
        a = a.view(self.experts, rank, -1)
        b = b.view(b.shape[0], rank, self.experts).permute(2, 0, 1)
        if self.expert is not None:
            a, b = a[self.expert : self.expert + 1], b[self.expert : self.expert + 1]
        if self.part:
            b = b[:, self.part[0] : self.part[1]]
        return (a.transpose(1, 2), b.transpose(1, 2)) if self.transposed else (b, a)


@dataclass(frozen=True)
class Change:
    """What an adapter does to a tensor, seen as a matrix: all axes but the first (of packed experts, the last) are one.

    Args:
        shape: of the result
        base: the base's tensor that is changed; None where the adapter brings it whole
        base_height: rows of it
        group: rows that a factor's product has: those of one expert, or all
        saved: the adapter's tensor that takes its place
        rows, indices: the adapter's tensor of rows that take the places of those with these numbers
        low_rank: sums that are added
        products: what LoHa and LoKr add
        factor, factor_by_column: the adapter's tensor that IA3 multiplies the rows with, or the columns
        magnitude, by_column: DoRA's lengths of the rows, or of the columns
    """

    shape: tuple[int, ...]
    base: str | None = None
    base_height: int = 0
    group: int = 0
    saved: str = ""
    rows: str = ""
    indices: tuple[int, ...] = ()
    low_rank: tuple[Term, ...] = ()
    products: tuple[Product, ...] = ()
    factor: str = ""
    factor_by_column: bool = False
    magnitude: str = ""
    by_column: bool = False

    @property
    def width(self) -> int:
        return self.shape[-1] if self._is_packed else math.prod(self.shape[1:])

    @property
    def height(self) -> int:
        return math.prod(self.shape[:-1]) if self._is_packed else self.shape[0]

    @property
    def _is_packed(self) -> bool:
        return any(term.experts > 1 and term.expert is None for term in self.low_rank)

    @property
    def is_plain(self) -> bool:
        """Whether it is nothing but sums of products, each of the whole matrix."""
        other = self.saved or self.rows or self.magnitude or self.products or self.factor or self._is_packed
        return not other and all(term.a for term in self.low_rank)

    @property
    def held(self) -> tuple[str, ...]:
        """The adapter's tensors that every row needs; what takes the tensor's place is read by rows."""
        names = [name for term in self.low_rank for name in (term.a, term.b)]
        names += [name for product in self.products for name in product.names]
        names += [self.rows, self.factor, self.magnitude]
        return tuple(dict.fromkeys(name for name in names if name))


class AdaptedCheckpoint:
    """A checkpoint with an adapter applied.

    Raises:
        CheckpointError: the adapter does not fit the base; says all that does not.
    """

    def __init__(self, base: Checkpoint, adapter: Adapter):
        self.base = base
        self.adapter = adapter
        self.name = f"{base.name}+{adapter.name}"
        self.version = base.version
        self.is_folder = base.is_folder
        self.is_cached = base.is_cached
        self.adapters = (*base.adapters, adapter)
        fitting = _Fitting(base, adapter)
        self.changes = fitting.changes()
        self.tensors: Mapping[str, TensorHeader] = self._with_changes(fitting)
        self.config = self._changed_config(fitting)
        self.warnings: tuple[Problem, ...] = (*base.warnings, *self._warnings())
        self._lock = threading.Lock()
        self._loading: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._held: OrderedDict[str, ChangedTensor] = OrderedDict()

    @property
    def is_remote(self) -> bool:
        return self.base.is_remote or self.adapter.is_remote

    @property
    def read_by(self) -> Set[str]:
        return self.base.read_by | self.adapter.repository.read_by

    @cached_property
    def files(self) -> Mapping[str, int]:
        own = self._own_files()
        replaced: set[str] = set()
        if any(file in own for file in VOCABULARIES):
            replaced = set(tokenizer_files(self.base.files))
            if not self._brings_template(own):
                replaced = {file for file in replaced if not is_template(file)}
        return {k: v for k, v in self.base.files.items() if k not in replaced} | own

    def _own_files(self) -> dict[str, int]:
        files = self.adapter.repository.files
        return {file: files[file] for file in tokenizer_files(files)}

    def _brings_template(self, own: Mapping[str, int]) -> bool:
        return any(map(is_template, own)) or "chat_template" in self._own_tokenizer_config()

    def _own_tokenizer_config(self) -> dict[str, Any]:
        if TOKENIZER_CONFIG not in self.adapter.repository.files:
            return {}
        try:
            found = json.loads(read_small(self.adapter.repository, TOKENIZER_CONFIG))
        except ValueError:
            return {}  # whoever reads the file itself says that it is damaged
        return found if isinstance(found, dict) else {}

    def read_file(self, file: str) -> bytes:
        own = self._own_files()
        if file not in own:
            return self.base.read_file(file)
        if file == TOKENIZER_CONFIG and file in self.base.files and not self._brings_template(own):
            # The base may keep its template in this file, which takes the place of the base's.
            template = read_json(self.base, file).get("chat_template")
            if template and (config := self._own_tokenizer_config()):
                return json.dumps({**config, "chat_template": template}).encode()
        return read_small(self.adapter.repository, file)

    def read_range(self, file: str, start: int, buffer: memoryview) -> None:
        if file in self._own_files():
            buffer[:] = memoryview(self.read_file(file))[start : start + len(buffer)]
        else:
            self.base.read_range(file, start, buffer)

    def read_into(self, tensor: str, start: int, buffer: memoryview) -> None:
        if tensor not in self.changes:
            self.base.read_into(tensor, start, buffer)
            return
        import torch

        out = torch.frombuffer(buffer, dtype=torch.float32)
        self.changed(tensor).fill(start // out.itemsize, out)

    def changed(self, name: str) -> ChangedTensor:
        """The parts of the adapter that change a tensor, from memory if they were used lately."""
        from checkpoints.adapters.changed_tensor import ChangedTensor

        with self._lock:
            loading = self._loading[name]
        with loading:  # once for all who read the tensor
            with self._lock:
                held = self._held.pop(name, None)
                if held:
                    self._held[name] = held
                    return held
            change, read = self.changes[name], self.base.read_into
            base = change.base
            dtype = self.base.tensors[base].dtype if base else "F32"
            held = ChangedTensor(change, self.adapter, dtype, lambda at, part: read(str(base), at, part))
            held.measure()
            with self._lock:
                self._held[name] = held
                size = sum(tensor.nbytes for tensor in self._held.values())
                while size > HELD and len(self._held) > 1:
                    size -= self._held.popitem(last=False)[1].nbytes
            return held

    def bytes_to_read(self, tensor: str) -> int:
        change = self.changes.get(tensor)
        if change is None:
            return self.base.bytes_to_read(tensor)
        parts = sum(self.adapter.tensors[name].nbytes for name in change.held)
        if change.saved:
            parts += self.adapter.tensors[change.saved].nbytes
        needs_base = change.base and (not change.saved or self.adapter.scale != 1)
        passes = 1 + change.by_column
        return parts + (passes * self.base.bytes_to_read(change.base) if needs_base and change.base else 0)

    def interrupt(self) -> None:
        self.base.interrupt()
        self.adapter.repository.interrupt()

    def close(self) -> None:
        self.base.close()
        self.adapter.repository.close()

    def _with_changes(self, fitting: _Fitting) -> dict[str, TensorHeader]:
        """The base's tensors, with the headers of those that are computed."""
        tensors = dict(self.base.tensors)
        for name, change in self.changes.items():
            like = tensors.get(change.base or name) or tensors.get(fitting.embedding or "")
            assert like
            header = TensorHeader(name, "F32", change.shape, "", 0, 4 * math.prod(change.shape))
            tensors[name] = replace(header, rounds_to=like.stored_dtype)
        return tensors

    def _changed_config(self, fitting: _Fitting) -> dict[str, Any]:
        config: dict[str, Any] = copy.deepcopy(self.base.config)
        embedding = fitting.embedding
        if embedding in self.changes:
            rows, before = self.changes[embedding].shape[0], self.base.tensors[embedding].shape[0]
            if rows != before:
                for part in (config, *(value for value in config.values() if isinstance(value, dict))):
                    if "vocab_size" in part and part["vocab_size"] == self._vocabulary(before):
                        part["vocab_size"] = rows
        if fitting.unties:
            config["tie_word_embeddings"] = False
        return config

    def _vocabulary(self, rows: int) -> int:
        """What the config calls the size of the vocabulary: the rows of the embedding, or those of them in use."""
        parts = (self.base.config, *(v for v in self.base.config.values() if isinstance(v, dict)))
        sizes = [part["vocab_size"] for part in parts if isinstance(part.get("vocab_size"), int)]
        return rows if rows in sizes or not sizes else int(sizes[0])

    def _warnings(self) -> Iterator[Problem]:
        trained_on, first = self.adapter.option("base_model_name_or_path"), without_adapters(self.base)
        is_id = isinstance(trained_on, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", trained_on)
        if is_id and not first.is_folder and trained_on.lower() != first.name.lower():
            values = {"adapter": self.adapter.name, "trained_on": trained_on, "base": first.name}
            yield Problem("other-base", values)
        grown = any(EMBEDDING.search(name) and self._grows(name) for name in self.changes)
        if grown and not any(file in self._own_files() for file in VOCABULARIES):
            yield Problem("adapter-without-tokenizer", {"adapter": self.adapter.name})

    def _grows(self, name: str) -> bool:
        return name in self.base.tensors and self.changes[name].shape[0] > self.base.tensors[name].shape[0]


def without_adapters(checkpoint: Checkpoint) -> Checkpoint:
    """The model under all adapters."""
    while isinstance(checkpoint, AdaptedCheckpoint):
        checkpoint = checkpoint.base
    return checkpoint


def open_adapter(
    base: Checkpoint,
    name: str,
    revision: str | None = None,
    scale: float = 1.0,
    *,
    token: Token = None,
    allow_folders: bool = True,
) -> AdaptedCheckpoint:
    """Open an adapter, a folder or a Hub id, and apply it to a checkpoint; closing the result closes both.

    Args:
        scale: how much of its change counts: 0 gives the base back, 1 is all of it

    Raises:
        CheckpointError: it cannot be read or does not fit; with every problem.
    """
    repository = open_repository(name, revision, token, allow_folders)
    try:
        return AdaptedCheckpoint(base, read_adapter(repository, revision, scale))
    except BaseException:
        repository.close()
        raise


@dataclass
class _Fitting:
    """Finds for each part of an adapter the tensor that it changes, and what does not fit."""

    base: Checkpoint
    adapter: Adapter
    found: dict[str, Change] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    misfits: list[str | dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unties: bool = False

    def changes(self) -> dict[str, Change]:
        """Raises: CheckpointError: with all that does not fit."""
        for name, key in self.adapter.saved.items():
            self._save(name, key)
        for module, key in self.adapter.rows.items():
            self._replace_rows(module, key)
        for module, parts in self.adapter.low_rank.items():
            self._add(module, parts)
        for module, others in self.adapter.others.items():
            self._add_other(module, others)
        if self.is_tied:
            self._keep_or_cut_tie()
        self._check_rows()
        self._report()
        return self.found

    # -- names -----------------------------------------------------------------------------------------

    @cached_property
    def embedding(self) -> str:
        """The tensor that embeds tokens; empty if there is none."""
        return next((name for name in self.base.tensors if EMBEDDING.search(name)), "")

    @cached_property
    def is_tied(self) -> bool:
        """Whether the base's head reads the embedding matrix."""
        inner = [v for k, v in self.base.config.items() if isinstance(v, dict) and "text" in k]
        tied = self.base.config.get("tie_word_embeddings", any(v.get("tie_word_embeddings") for v in inner))
        return bool(tied) and bool(self.embedding) and self._find(HEAD) is None

    @cached_property
    def _by_ending(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.base.tensors:
            words = name.split(".")
            for begin in range(len(words) - 1):
                found[".".join(words[begin:])].append(name)
        return found

    def _find(self, wanted: str) -> str | None:
        """The base's tensor of this name: models and files may differ in what stands before the layers."""
        if wanted in self.base.tensors:
            return wanted
        words = wanted.split(".")
        layer = next((i for i, word in enumerate(words) if word.isdigit()), len(words) - 1)
        for begin in range(max(layer, 1)):
            named = self._by_ending.get(".".join(words[begin:]), [])
            if len(named) == 1:
                return named[0]
        return None

    def _target(self, name: str) -> tuple[str, str] | None:
        """Names of the result's tensor and of the base's that it comes from."""
        own = self._find(name)
        if own is not None:
            return own, own
        if self.is_tied and name.endswith(HEAD):
            return HEAD, self.embedding
        return None

    # -- parts -----------------------------------------------------------------------------------------

    def _change(self, name: str, base: str) -> Change:
        shape = self.base.tensors[base].shape
        height = shape[0] if shape else 1
        return self.found.get(name) or Change(shape or (1,), base, height, height)

    def _save(self, name: str, key: str) -> None:
        target = self._target(name)
        if target is None:
            self.missing.append(name)
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

    def _is_vocabulary(self, name: str) -> bool:
        return name == self.embedding or name.endswith(HEAD)

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
        return self._layers_are_transposed

    @cached_property
    def _layers_are_transposed(self) -> bool:
        seen = set()
        for module, parts in self.adapter.low_rank.items():
            a, b = self.adapter.tensors[parts.a].shape, self.adapter.tensors[parts.b].shape
            own = self._find(f"{module}.weight")
            if own and re.search(r"\.\d+\.", module) and len(a) == len(b) == 2 and a[1] != b[0]:
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
        # PEFT shuffles the Kronecker product with a whole kernel along one axis: nobody can mean that.
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
        transposed = bool(self.adapter.option("fan_in_fan_out"))
        by_column = of_inputs != transposed
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
        """A head that read the embedding goes on so where both were trained as one, or grew as one.

        Else it has to become a tensor of its own, as it was in training: PEFT changes the embedding or the head,
        and not both.
        """
        embedding, head = self.found.get(self.embedding), self.found.get(HEAD)
        if not (embedding or head):
            return
        together = self.adapter.option("ensure_weight_tying") or (embedding and not head and embedding.rows)
        if embedding and together:
            self.found.pop(HEAD, None)
            return
        if embedding and not head and embedding.shape != self.base.tensors[self.embedding].shape:
            return
        if head is None:
            shape = self.base.tensors[self.embedding].shape
            self.found[HEAD] = Change(shape, self.embedding, shape[0], shape[0])
        self.unties = True

    def _misfit(self, how: str, name: str, **values: Any) -> None:
        self.misfits.append({"phrase": how, "name": name, **values})

    def _check_rows(self) -> None:
        """Embedding and head must have rows for the same tokens."""
        names = [self.embedding, self._find(HEAD) or HEAD]
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
