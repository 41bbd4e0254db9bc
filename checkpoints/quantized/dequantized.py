"""A quantized model as plain numbers, computed in float32 when they are read. Nothing is stored on the way."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from checkpoints.checkpoint import Checkpoint
from checkpoints.dtypes import FLOATS, safetensors_name
from checkpoints.formats.header import TensorHeader
from checkpoints.lru_cache import LruCache
from checkpoints.problems import CheckpointError, Problem
from checkpoints.quantized import FORMS
from checkpoints.quantized.form import Form, QuantizedTensor, StoredTensors, UnknownQuantizationError
from checkpoints.view import View

if TYPE_CHECKING:
    from torch import Tensor

    Held = tuple[Tensor, ...]

# Bytes of scales, tables and packed matrices that are kept, so that they are not fetched again for each part.
HELD = 128 * 1024 * 1024
SETTINGS = ("quantization_config", "compression_config")


def held(pieces: int, *, elements: int, readers: int, copies: int) -> int:
    """Bytes that a quantized model holds while it is read.

    Args:
        pieces: bytes of all stored tensors that are quantized
        elements: that are read at once
        readers: that read at a time
        copies: processes that hold pieces of their own
    """
    # Integers and their scales are spread to four bytes an element each before they are multiplied.
    return copies * min(pieces, HELD) + readers * elements * 16


class DequantizedCheckpoint(View):
    """A quantized checkpoint as plain numbers.

    Args:
        own: as it is stored
        forms: of its quantized tensors
        quantized: these, by name
    """

    def __init__(self, own: Checkpoint, forms: Sequence[Form], quantized: Mapping[str, QuantizedTensor]):
        super().__init__(own)
        self.forms = forms
        self.quantized = quantized
        self.tensors = self._headers()
        self.config = plain_config(own.config)
        values = {"model": self.name, "form": _names(forms)}
        if made_from := quantization_settings(own.config).get("made_from"):
            values["made_from"] = made_from
        lost = (Problem("dequantized", values, self.name),)
        is_rounded = any(tensor.is_rounded for tensor in quantized.values())
        self.warnings = (*own.warnings, *(lost if is_rounded else ()))
        self._kept = LruCache["Held"](HELD, lambda held: sum(each.nbytes for each in held))

    def _headers(self) -> dict[str, TensorHeader]:
        used = {piece for tensor in self.quantized.values() for piece in tensor.pieces}
        left_out = tuple(end for form in self.forms for end in form.left_out)
        plain = {
            name: header
            for name, header in self.own.tensors.items()
            if name not in used and not name.endswith(left_out)
        }
        computed = {
            name: TensorHeader(
                name, "F32", tensor.shape, "", 0, 4 * math.prod(tensor.shape), rounds_to=tensor.dtype
            )
            for name, tensor in self.quantized.items()
        }
        return plain | computed

    def own_names(self, tensors: Collection[str]) -> list[str]:
        pieces = (self.quantized[name].pieces if name in self.quantized else (name,) for name in tensors)
        return list(dict.fromkeys(piece for each in pieces for piece in each))

    def read_into(self, tensor: str, start: int, buffer: memoryview) -> None:
        quantized = self.quantized.get(tensor)
        if quantized is None:
            self.own.read_into(tensor, start, buffer)
            return
        import torch

        out = torch.frombuffer(buffer, dtype=torch.float32)
        first, end, width = start // 4, start // 4 + len(out), quantized.width
        row, last = first // width, -(-end // width)
        while row < last:
            part = row // quantized.part_rows
            stop = min(last, (part + 1) * quantized.part_rows)
            kept = self._held(tensor, quantized, part)
            numbers = quantized.rows(row, stop, kept).flatten()
            low, high = max(first, row * width), min(end, stop * width)
            out[low - first : high - first] = numbers[low - row * width : high - row * width]
            row = stop

    def _held(self, name: str, quantized: QuantizedTensor, part: int) -> Held:
        try:
            return self._kept.get(f"{name} {part}", lambda: quantized.hold(part))
        except UnknownQuantizationError as error:
            raise damaged(self.own, self.forms, error) from error

    def bytes_to_read(self, tensor: str) -> int:
        quantized = self.quantized.get(tensor)
        return self.own.bytes_to_read(tensor) if quantized is None else quantized.nbytes


def quantized_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the stored tensors that plain ones are computed from; 0 for a model that is not quantized."""
    while not isinstance(checkpoint, DequantizedCheckpoint):
        inner = getattr(checkpoint, "own", None) or getattr(checkpoint, "base", None)
        if inner is None:
            return 0
        checkpoint = inner
    return sum(map(checkpoint.bytes_to_read, checkpoint.quantized))


def dequantized(stored: Checkpoint) -> Checkpoint:
    """A checkpoint as plain numbers where its form is known; else as it is stored.

    Raises:
        CheckpointError: its tensors contradict their form.
    """
    settings = quantization_settings(stored.config)
    source = StoredTensors(stored.tensors, stored.read_into, settings, _dtype(stored.config))
    forms: list[Form] = []
    quantized: dict[str, QuantizedTensor] = {}
    for form in FORMS:
        try:
            found = form.find(source)
        except UnknownQuantizationError as error:
            raise damaged(stored, [form], error) from error
        if found:
            forms.append(form)
            quantized |= found
            used = {piece for tensor in found.values() for piece in tensor.pieces}
            left = {name: header for name, header in source.headers.items() if name not in used}
            source = replace(source, headers=left)
    if quantized:
        return DequantizedCheckpoint(stored, forms, quantized)
    return stored


def damaged(stored: Checkpoint, forms: Sequence[Form], error: UnknownQuantizationError) -> CheckpointError:
    values = {"model": stored.name, "form": _names(forms), "error": str(error)}
    return CheckpointError(Problem("unknown-quantization", values, stored.name))


def _names(forms: Sequence[Form]) -> str:
    return ", ".join(form.name for form in forms)


def quantization_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a config says of the form of its weights; empty where it says nothing."""
    found = [part[key] for part in _parts(config) for key in SETTINGS if isinstance(part.get(key), Mapping)]
    return found[0] if found else {}


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what it says of the form of its weights."""
    plain = copy.deepcopy(dict(config))
    for part in _parts(plain):
        for key in SETTINGS:
            part.pop(key, None)
    return plain


def _parts(config: Any) -> Sequence[Any]:
    """A config, and the configs of its parts."""
    return [
        config,
        *(value for key, value in config.items() if isinstance(value, dict) and key not in SETTINGS),
    ]


def _dtype(config: Mapping[str, Any]) -> str:
    """By safetensors' name, what the weights were stored in before; bfloat16 where the config does not say."""
    for part in _parts(config):
        for key in ("dtype", "torch_dtype"):
            try:
                named = safetensors_name(str(part.get(key)))
            except KeyError:
                continue
            if named in FLOATS:
                return named
    return "BF16"
