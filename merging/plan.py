"""A plan: what a merge will do, exactly, as pure data. It goes through JSON, and running it needs no recipe."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Self

from checkpoints.aligned import Alignment, Rows
from checkpoints.approximation import from_data as approximation_from_data
from checkpoints.dtypes import itemsize
from checkpoints.formats.header import TensorHeader
from checkpoints.formats.safetensors import write_header
from checkpoints.loading import Part
from checkpoints.made_rows import MadeCost
from checkpoints.names import is_address
from checkpoints.problems import Problem
from checkpoints.renamed import Assembled
from merging.fp8 import FP8
from merging.methods.parameters import Scalar
from merging.tokenizers.report import TokenizerReport

Value = Scalar | list[float] | None

# The version of everything that decides the bytes of an output file, beside the plan: the methods and how blocks are
# read, summed and rounded; how adapters and rows of a vocabulary are applied; the order of tensors in a file, and its
# header. Raise it when any of these changes a result. `tests/merging/test_golden.py` fails when it has to be raised.
ARITHMETIC = 1


@dataclass(frozen=True)
class PlannedAdapter:
    """An adapter of a model that takes part, at the content it had when the plan was made.

    Args:
        name, revision, scale: as the recipe names it
        version, is_folder, is_cached: see `PlannedModel`
        bytes: of all its tensors in float32, in which it is applied
    """

    name: str
    revision: str | None
    version: str
    is_folder: bool
    scale: float
    bytes: int
    is_cached: bool = False

    @property
    def is_remote(self) -> bool:
        """Whether it is read over a network."""
        return not (self.is_folder or self.is_cached)

    @property
    def commit(self) -> str | None:
        """The commit on the Hub; None for a folder, in an object store and in a bucket."""
        return None if self.is_folder or is_address(self.name) else self.version


@dataclass(frozen=True)
class Prompt:
    """A text that tells what an expert is for, or not for; as the base model's tokenizer numbers its tokens."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class PromptedExpert:
    """The prompts of one expert.

    Args:
        name: of its model
        is_shared: whether every token passes through it, so that it has a gate of its own
    """

    name: str
    positive: tuple[Prompt, ...]
    negative: tuple[Prompt, ...] = ()
    is_shared: bool = False


@dataclass(frozen=True)
class Gates:
    """How the rows of routers are computed.

    Args:
        mode: one of `recipe.mixture.COMPUTED`
        base: index of the model whose hidden states count
        layers: how many it has
        experts: in the order of the rows, the shared one last
    """

    mode: str
    base: int
    layers: int
    experts: tuple[PromptedExpert, ...]


@dataclass(frozen=True)
class GeneratedTensor:
    """A tensor of float32 numbers that no file holds.

    Args:
        kind: "zeros", "normal" (standard deviation 1), "uniform" (between -scale and scale), "router" (computed rows,
            one an expert) or "shared gate" (the same for the shared expert)
        layer: that it belongs to
    """

    kind: str
    shape: tuple[int, ...]
    scale: float = 1.0
    layer: int = 0


@dataclass(frozen=True)
class Generated:
    """Tensors that no file holds: they are drawn, or computed from models of the plan.

    Args:
        tensors: by name
        gates: how routers are computed; None where none is
    """

    tensors: Mapping[str, GeneratedTensor]
    gates: Gates | None = None


@dataclass(frozen=True)
class PlannedModel:
    """A model that takes part, at the content it had when the plan was made.

    Args:
        name: as the recipe names it, without the revision
        revision: as the recipe names it
        version: the commit on the Hub, or a fingerprint of the files elsewhere; the run refuses any other
        is_folder: whether it is a folder on this machine
        architecture: the model class
        parameters: number of elements of all its tensors
        bytes: of all its tensors
        layers: of its longest stack; 0 where there is none
        adapters: that are applied to it, in this order
        is_cached: whether its weights are read from the Hugging Face cache of this machine
        made_by: the plan of a merge that is made on the way; it has no files of its own
        quantized_bytes: of its stored tensors that plain numbers are computed from; 0 for a model that is not quantized
        alignment: of its rows with the vocabulary of the result; None where they are the result's already
        renamed: its tensors that the result has under other names, or cut in another way
        generated: the tensors, where they are drawn or computed and there is no such model
        approximating: what it takes to approximate rows of its tensors; None where no row is approximated
    """

    name: str
    revision: str | None
    version: str
    is_folder: bool
    architecture: str
    parameters: int
    bytes: int
    layers: int = 0
    adapters: tuple[PlannedAdapter, ...] = ()
    alignment: Alignment | None = None
    made_by: Plan | None = None
    is_cached: bool = False
    renamed: Mapping[str, Assembled] = field(default_factory=dict)
    quantized_bytes: int = 0
    generated: Generated | None = None
    approximating: MadeCost | None = None

    @property
    def is_remote(self) -> bool:
        """Whether any of it is read over a network."""
        if self.made_by:
            return any(model.is_remote for model in self.made_by.models)
        is_local = self.is_folder or self.is_cached
        return not is_local or any(adapter.is_remote for adapter in self.adapters)

    @property
    def commit(self) -> str | None:
        """The commit on the Hub; None for a folder, in an object store or a bucket, and for what is made on the way."""
        is_elsewhere = self.is_folder or self.made_by or is_address(self.name)
        return None if is_elsewhere else self.version


@dataclass(frozen=True)
class Input:
    """A tensor of a model (by index in the plan's models) that goes into an output tensor."""

    model: int
    tensor: str


@dataclass(frozen=True)
class PlannedTensor:
    """One output tensor.

    Args:
        name, dtype, shape: of the output; dtype by safetensors' name
        inputs: in the order that the method takes them, the base first where the method subtracts it
        parameters: the method's, by the recipe's names, resolved for this tensor; empty when it is one input as it is
        copied_from: index of the input whose bytes are the result, or None
        layer: of the output's stack, or None outside the layers
        scales: form of its eight-bit numbers, one of `FP8`; its scales are then a tensor of the file too, right before
            it. Empty for numbers as they are
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    inputs: tuple[Input, ...]
    parameters: Mapping[str, Value]
    copied_from: int | None
    layer: int | None
    scales: str = ""

    @cached_property
    def elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def bytes(self) -> int:
        """In the file, with its scales."""
        return self.scale_bytes + self.elements * itemsize(self.dtype)

    @property
    def scale_bytes(self) -> int:
        return FP8[self.scales].scale_bytes(self.shape) if self.scales else 0

    def headers(self, filename: str) -> Iterator[TensorHeader]:
        """What the header of its file says: of its scales, if it has any, and of itself."""
        size = self.bytes - self.scale_bytes
        if self.scales:
            form = FP8[self.scales]
            grid = form.grid(self.shape)
            yield TensorHeader(self.name + form.suffix, "F32", grid, filename, 0, self.scale_bytes)
        yield TensorHeader(self.name, self.dtype, self.shape, filename, 0, size)

    @property
    def is_one_input(self) -> bool:
        """Whether it is one model's tensor, if perhaps in another dtype, and the method has no part in it."""
        return len(self.inputs) == 1 and not self.parameters


@dataclass(frozen=True)
class SourceFile:
    """A file of a model (by index in the plan's models) on the Hub."""

    model: int
    filename: str


@dataclass(frozen=True)
class PlannedShard:
    """An output file: its tensors in the order of their bytes; `copy_of` is a file that has the very same bytes."""

    filename: str
    tensors: tuple[PlannedTensor, ...]
    bytes: int
    copy_of: SourceFile | None = None

    def places(self) -> Iterator[tuple[PlannedTensor, int]]:
        """The tensors, each with the offset of its first byte in the file."""
        offset = self.bytes - sum(tensor.bytes for tensor in self.tensors)
        for tensor in self.tensors:
            yield tensor, offset
            offset += tensor.bytes


@dataclass(frozen=True)
class PlannedMixture:
    """A mixture of experts, for people.

    Args:
        architecture: class of the result
        experts: names of their models, in the order of the routers' rows
        shared: name of the shared expert's model; empty where there is none
        per_token: how many experts a token passes through, besides the shared one
        gate_mode: where the routers come from
        averages: whether the weights outside the experts are averaged over the experts' models
    """

    architecture: str
    experts: tuple[str, ...]
    shared: str
    per_token: int
    gate_mode: str
    averages: bool


@dataclass(frozen=True)
class Plan:
    """What a merge will do and cost.

    Args:
        recipe: the text it was made from
        method: name of the merge method
        seed: of the method, if it draws at random
        problems: what prevents the merge; without any the plan can be run
        warnings: what the user should know
        models: that take part
        shards: output files, in order
        files: small output files with their text: config, index, ...
        copied_files: small files that are copied, with the index of the model they come from
        bytes_in: to be read
        bytes_out: weights to be written
        bytes_beside: of the small files beside them
        peak_memory_bytes: of the process, while merging; of a merge that is made on the way, what it adds
        disk_bytes: written to this machine's disk
        seconds: a rough guess of the time
        tokenizer: what becomes of the tokenizers; None where they stay as they are
        streams: whether output files go to the Hub's store while they are made (Xet): two of them, whole, as the
            quicker way (LFS) wants them, were more than the free memory
        mixture: of experts that the result is; None for a merge
        together: whether all output files are filled at the same time, and not one after the other
    """

    recipe: str
    method: str
    seed: int = 0
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    models: tuple[PlannedModel, ...] = ()
    shards: tuple[PlannedShard, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    copied_files: Mapping[str, int] = field(default_factory=dict)
    bytes_in: int = 0
    bytes_out: int = 0
    bytes_beside: int = 0
    peak_memory_bytes: int = 0
    disk_bytes: int = 0
    seconds: float = 0.0
    tokenizer: TokenizerReport | None = None
    streams: bool = False
    mixture: PlannedMixture | None = None
    together: bool = False

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def has_scales(self) -> bool:
        """Whether weights are eight-bit floats with scales."""
        return any(tensor.scales for tensor in self.tensors)

    @property
    def only_copies(self) -> bool:
        """Whether every tensor is copied, so that there is nothing to compute."""
        computed = any(
            model.adapters or model.alignment or model.made_by or model.renamed or model.generated
            for model in self.models
        )
        return not computed and all(tensor.copied_from is not None for tensor in self.tensors)

    @property
    def parents(self) -> tuple[PlannedModel, ...]:
        """The models that existed before: those that take part, and those of merges that are made on the way.

        Tensors that no file holds come from none. One under other adapters is another model.
        """
        found: dict[tuple[object, ...], PlannedModel] = {}
        for model in self.models:
            if model.generated:
                continue
            for parent in model.made_by.parents if model.made_by else (model,):
                found.setdefault((parent.name, parent.version, parent.adapters), parent)
        return tuple(found.values())

    @property
    def gates(self) -> Gates | None:
        """How its routers are computed; None where none is."""
        return next((model.generated.gates for model in self.models if model.generated), None)

    @property
    def computes_gates(self) -> bool:
        """Whether routers are computed, for it or for a merge that is made on the way."""
        return self.gates is not None or any(
            model.made_by and model.made_by.computes_gates for model in self.models
        )

    @cached_property
    def tensors(self) -> tuple[PlannedTensor, ...]:
        return tuple(tensor for shard in self.shards for tensor in shard.tensors)

    def cut(self, shards: Sequence[PlannedShard]) -> Self:
        """The plan of some of the shards alone: what a worker needs. It has another fingerprint."""
        return replace(self, shards=tuple(shards), files={}, copied_files={}, warnings=(), tokenizer=None)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the bytes of the shards: two plans share them only if every shard is the
        same. Where the result goes and what the merge costs do not count. Another `ARITHMETIC`, torch or numpy may
        round differently, and counts. The processor may too, and does not: receipts name it."""
        models = [
            (
                model.name,
                model.version,
                [(a.name, a.version, a.scale) for a in model.adapters],
                model.alignment and asdict(model.alignment),
                *([name, asdict(tensor)] for name, tensor in model.renamed.items()),
                *([asdict(model.generated)] if model.generated else ()),
            )
            for model in self.models
        ]
        shards = [asdict(shard) for shard in self.shards]
        made_of = [self.recipe, self.method, self.seed, models, shards, software()]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]

    def seed_of(self, tensor: PlannedTensor) -> tuple[int, ...]:
        """Four 32-bit numbers that random draws for a tensor begin with: whoever merges it, and whenever."""
        digest = hashlib.sha256(f"{self.seed} {tensor.name}".encode()).digest()
        return struct.unpack("<4I", digest[:16])

    def summary(self) -> dict[str, Any]:
        """The figures without the lists of tensors, for programs."""
        return {
            "ok": self.ok,
            "problems": [problem.as_dict() for problem in self.problems],
            "warnings": [problem.as_dict() for problem in self.warnings],
            "method": self.method,
            "models": [
                {
                    **asdict(model),
                    "commit": model.commit,
                    "adapters": [{**asdict(a), "commit": a.commit} for a in model.adapters],
                    "alignment": model.alignment is not None,
                    "approximated": sum(a.count for a in model.alignment.approximations)
                    if model.alignment
                    else 0,
                    "renamed": len(model.renamed),
                    "generated": model.generated and len(model.generated.tensors),
                    "made_by": model.made_by and model.made_by.summary(),
                }
                for model in self.models
            ],
            "tensors": len(self.tensors),
            "shards": len(self.shards),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "peak_memory_bytes": self.peak_memory_bytes,
            "streams": self.streams,
            "disk_bytes": self.disk_bytes,
            "seconds": round(self.seconds, 1),
            "tokenizer": self.tokenizer and asdict(self.tokenizer),
            "mixture": self.mixture and asdict(self.mixture),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_data(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.from_data(json.loads(text))

    def to_data(self) -> dict[str, Any]:
        """The plan as JSON can write it."""
        # The long parts without `asdict`, which takes longer than planning.
        data = asdict(replace(self, shards=(), models=tuple(replace(m, made_by=None) for m in self.models)))
        for model, of_model in zip(self.models, data["models"], strict=True):
            of_model["made_by"] = model.made_by and model.made_by.to_data()
        return {**data, "shards": [_shard_data(shard) for shard in self.shards]}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Self:
        """Of what JSON made of `to_data`; the data is used up."""
        data["problems"] = tuple(map(Problem.from_data, data["problems"]))
        data["warnings"] = tuple(map(Problem.from_data, data["warnings"]))
        data["models"] = tuple(_model(item) for item in data["models"])
        data["shards"] = tuple(_shard(item) for item in data["shards"])
        data["tokenizer"] = data["tokenizer"] and TokenizerReport.from_data(data["tokenizer"])
        if mixture := data["mixture"]:
            data["mixture"] = PlannedMixture(**{**mixture, "experts": tuple(mixture["experts"])})
        return cls(**{field.name: data[field.name] for field in fields(cls)})


def shard_header(shard: PlannedShard) -> bytes:
    """The first bytes of an output file."""
    return write_header(header for tensor in shard.tensors for header in tensor.headers(shard.filename))


def software() -> list[str]:
    """What else decides the bytes of a result: this program's arithmetic, and the libraries that compute."""
    versions = (importlib.metadata.version(name) for name in ("torch", "numpy"))
    return [f"arithmetic {ARITHMETIC}", *versions]


def _model(data: dict[str, Any]) -> PlannedModel:
    data["adapters"] = tuple(PlannedAdapter(**item) for item in data["adapters"])
    if data["made_by"]:
        data["made_by"] = Plan.from_data(data["made_by"])
    if alignment := data["alignment"]:
        rows = tuple(Rows(run["count"], tuple(map(tuple, run["sources"]))) for run in alignment["rows"])
        tensors = {name: tuple(names) for name, names in alignment["tensors"].items()}
        approximations = tuple(map(approximation_from_data, alignment["approximations"]))
        data["alignment"] = Alignment(rows, alignment["padding"], tensors, approximations)
    data["renamed"] = {
        name: Assembled(tuple(tensor["shape"]), tuple(Part(**part) for part in tensor["parts"]))
        for name, tensor in data["renamed"].items()
    }
    if generated := data["generated"]:
        data["generated"] = _generated(generated)
    data["approximating"] = data["approximating"] and MadeCost(*data["approximating"])
    return PlannedModel(**data)


def _generated(data: dict[str, Any]) -> Generated:
    tensors = {
        name: GeneratedTensor(**{**tensor, "shape": tuple(tensor["shape"])})
        for name, tensor in data["tensors"].items()
    }
    gates = data["gates"]
    if not gates:
        return Generated(tensors)
    experts = tuple(
        PromptedExpert(
            expert["name"], _prompts(expert["positive"]), _prompts(expert["negative"]), expert["is_shared"]
        )
        for expert in gates["experts"]
    )
    return Generated(tensors, Gates(gates["mode"], gates["base"], gates["layers"], experts))


def _prompts(data: Sequence[dict[str, Any]]) -> tuple[Prompt, ...]:
    return tuple(Prompt(prompt["text"], tuple(prompt["tokens"])) for prompt in data)


def _shard_data(shard: PlannedShard) -> dict[str, Any]:
    source = shard.copy_of and vars(shard.copy_of)
    tensors = list(_rows(shard.tensors))
    return {"filename": shard.filename, "tensors": tensors, "bytes": shard.bytes, "copy_of": source}


def _rows(tensors: Iterable[PlannedTensor]) -> Iterator[list[Any]]:
    """Tensors as short lists of their fields.

    An input is the number of its model alone where it has the tensor's name, and parameters are None where they are
    those of the tensor before.
    """
    before = ""
    for tensor in tensors:
        parameters = repr(tensor.parameters)
        yield [
            tensor.name,
            tensor.dtype,
            tensor.shape,
            [one.model if one.tensor == tensor.name else (one.model, one.tensor) for one in tensor.inputs],
            None if parameters == before else tensor.parameters,
            tensor.copied_from,
            tensor.layer,
            tensor.scales,
        ]
        before = parameters


def _shard(data: dict[str, Any]) -> PlannedShard:
    source = SourceFile(**data["copy_of"]) if data["copy_of"] else None
    return PlannedShard(data["filename"], tuple(_tensors(data["tensors"])), data["bytes"], source)


def _tensors(rows: Iterable[Sequence[Any]]) -> Iterator[PlannedTensor]:
    parameters: Mapping[str, Value] = {}
    for name, dtype, shape, given, changed, copied_from, layer, scales in rows:
        parameters = parameters if changed is None else changed
        inputs = tuple(Input(one, name) if isinstance(one, int) else Input(*one) for one in given)
        yield PlannedTensor(name, dtype, tuple(shape), inputs, parameters, copied_from, layer, scales)
