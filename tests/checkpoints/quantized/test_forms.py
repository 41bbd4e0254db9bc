"""Every form of quantized weights gives the numbers that its own library gives, however it is cut."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch
from compressed_tensors.compressors import (
    IntQuantizationCompressor,
    MXFP4PackedCompressor,
    NVFP4PackedCompressor,
    PackedQuantizationCompressor,
)
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from checkpoints import Checkpoint, locate, open_checkpoint, open_located
from checkpoints.gguf.blocks import FLOATS
from checkpoints.located import LocatedCheckpoint
from checkpoints.problems import CheckpointError
from checkpoints.quantized import FORMS
from checkpoints.quantized.dequantized import DequantizedCheckpoint
from checkpoints.quantized.mxfp4 import GROUP
from tests.checkpoints.gguf.written import LLAMA, write_gguf

Tensors = dict[str, torch.Tensor]
NAME = "model.layers.0.mlp.up_proj.weight"
MODULE = NAME.removesuffix(".weight")
PLAIN = {"model.norm.weight": torch.arange(5.0)}


@dataclass(frozen=True)
class Case:
    """A quantized tensor.

    Args:
        tensors: as they are stored
        settings: the config's `quantization_config`
        expected: float32, in the plain tensor's shape
        exactly: whether its library computes in float32, too; else results are equal once rounded to bfloat16
        name: of the plain tensor
        gguf: the type, if the tensors are in a GGUF file, by the names there
        heads, head: of such a model, and the rows of each
    """

    tensors: Tensors
    settings: Mapping[str, Any]
    expected: torch.Tensor
    exactly: bool = True
    name: str = NAME
    gguf: str = ""
    heads: int = 4
    head: int = 64


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random numbers with a few that are extreme, zeros among them."""
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    flat = numbers.view(-1)
    flat[::7] *= 30
    flat[3::11] = 0
    return numbers


def fp8(scales: tuple[int, ...], block: tuple[int, int] | None = None, suffix: str = "_scale") -> Case:
    """(40, 24) in blocks that do not fit, in rows, or in one; expanded number by number."""
    stored = drawn(40, 24).clamp(-448, 448).to(torch.float8_e4m3fn)
    scale = drawn(*scales, seed=1).abs() + 0.01
    height, width = block or (40 if scales[0] == 1 or scales == () else 1, 24)
    grid = scale.view(-(-40 // height), -1)
    expected = torch.tensor(
        [
            [stored[row, column].float() * grid[row // height, column // width] for column in range(24)]
            for row in range(40)
        ]
    )
    settings = {"quant_method": "fp8", "weight_block_size": block and list(block)}
    return Case(
        {NAME: stored, NAME + suffix: scale, f"{MODULE}.input_scale": torch.ones(1)}, settings, expected
    )


def fp8_whole() -> Case:
    stored, scale = drawn(6, 8).to(torch.float8_e5m2), torch.tensor(0.25)
    return Case({NAME: stored, f"{NAME}_scale": scale}, {}, stored.float() * 0.25)


def fp8_experts() -> Case:
    """(3, 20, 12), in blocks of (8, 8) with exponents as scales."""
    stored = drawn(3, 20, 12).to(torch.float8_e4m3fn)
    scale = torch.randint(120, 135, (3, 3, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    rows, columns = torch.arange(20) // 8, torch.arange(12) // 8
    factors = torch.exp2(scale.float() - 127)[:, rows][:, :, columns]
    settings = {"quant_method": "fp8", "weight_block_size": [8, 8]}
    tensors = {NAME: stored, f"{NAME}_scale_inv": scale.view(torch.float8_e8m0fnu)}
    return Case(tensors, settings, stored.float() * factors)


def mxfp4() -> Case:
    generator = torch.Generator().manual_seed(3)
    blocks = torch.randint(0, 256, (3, 10, 2, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(110, 140, (3, 10, 2), dtype=torch.uint8, generator=generator)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert expected.shape == (3, 2 * GROUP, 10)
    return Case(
        {f"{name}_blocks": blocks, f"{name}_scales": scales}, {"quant_method": "mxfp4"}, expected, name=name
    )


def four_bits(kind: str, nested: bool, block: int, shape: tuple[int, int]) -> Case:
    stored, state = bnb.quantize_4bit(
        drawn(*shape), blocksize=block, quant_type=kind, compress_statistics=nested
    )
    expected = bnb.dequantize_4bit(stored, state).float()
    tensors = {NAME: stored, **{f"{NAME}.{name}": part for name, part in state.as_dict(packed=True).items()}}
    return Case(tensors, {"quant_method": "bitsandbytes"}, expected, exactly=False)


def int8() -> Case:
    stored, scales, _ = bnb.int8_vectorwise_quant(drawn(12, 10).half())
    expected = bnb.int8_vectorwise_dequant(stored, scales)
    tensors = {
        NAME: stored,
        f"{MODULE}.SCB": scales,
        f"{MODULE}.weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    return Case(tensors, {"quant_method": "bitsandbytes"}, expected, exactly=False)


def packed_by_hand(numbers: torch.Tensor, bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """Integers (rows, n) as int32 (rows, n * bits / 32): the order says which one is in the lowest bits, and so on."""
    per_word = 32 // bits
    rows = []
    for row in numbers.tolist():
        words = []
        for at in range(0, len(row), per_word):
            word = sum(row[at + (order or range(per_word))[k]] << (bits * k) for k in range(per_word))
            words.append(word - (1 << 32) if word >= 1 << 31 else word)
        rows.append(words)
    return torch.tensor(rows, dtype=torch.int32)


def gptq(bits: int, layout: str, ordered: bool) -> Case:
    """16 outputs of 32 inputs in 4 groups."""
    generator = torch.Generator().manual_seed(bits)
    integers = torch.randint(0, 1 << bits, (32, 16), generator=generator)
    zeros = torch.randint(0, 1 << bits, (4, 16), generator=generator)
    zeros[0, 0] = (1 << bits) - 1
    scales = drawn(4, 16).abs().half()
    groups = torch.arange(32) // 8 if ordered else torch.randperm(32, generator=generator) % 4
    # As AutoGPTQ computes it: a zero point of 0 is stored as the largest integer.
    points = (zeros + (1 if layout == "gptq" else 0)) % (1 << bits)
    expected = torch.stack([scales[g].float() * (integers[i] - points[g]) for i, g in enumerate(groups)]).T
    tensors = {
        f"{MODULE}.qweight": packed_by_hand(integers.T, bits).T.contiguous(),
        f"{MODULE}.qzeros": packed_by_hand(zeros, bits),
        f"{MODULE}.scales": scales,
        f"{MODULE}.g_idx": groups.int(),
    }
    return Case(tensors, {"quant_method": "gptq", "bits": bits, "checkpoint_format": layout}, expected)


def awq() -> Case:
    """24 outputs of 16 inputs in 2 groups. Bits 0 to 3 hold output 0, bits 4 to 7 output 2, and so on."""
    generator = torch.Generator().manual_seed(5)
    integers = torch.randint(0, 16, (16, 24), generator=generator)
    zeros = torch.randint(0, 16, (2, 24), generator=generator)
    scales = drawn(2, 24).abs().half()
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    expected = torch.stack([scales[i // 8].float() * (integers[i] - zeros[i // 8]) for i in range(16)]).T
    tensors = {
        f"{MODULE}.qweight": packed_by_hand(integers, 4, order),
        f"{MODULE}.qzeros": packed_by_hand(zeros, 4, order),
        f"{MODULE}.scales": scales,
    }
    return Case(tensors, {"quant_method": "awq", "bits": 4, "version": "gemm"}, expected)


def compressed(kind: Any, **arguments: Any) -> Case:
    """What a compressor of compressed-tensors makes of a matrix, and what it makes of that."""
    weights = QuantizationArgs(**arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    weight = drawn(16, 64)
    group = weights.group_size if weights.group_size and weights.group_size > 0 else 64
    groups = 64 // group
    scale = weight.view(16, groups, group).abs().amax(-1) / (6 if weights.type == "float" else 7)
    state: Tensors = {"weight": weight, "weight_scale": scale}
    if kind is NVFP4PackedCompressor:
        state["weight_global_scale"] = torch.tensor([3.0])
        state["weight_scale"] = (scale * 3).to(torch.float8_e4m3fn).float()
    if kind is MXFP4PackedCompressor:
        state["weight_scale"] = torch.exp2(scale.log2().round())
    if not weights.symmetric:
        state["weight_zero_point"] = torch.randint(
            -3, 3, scale.shape, dtype=torch.int8, generator=torch.Generator().manual_seed(6)
        )
    stored = kind.compress({k: v.clone() for k, v in state.items()}, scheme)
    expected = kind.decompress({k: v.clone() for k, v in stored.items()}, scheme)["weight"].float()
    settings = {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": json.loads(scheme.model_dump_json())},
    }
    return Case(
        {f"{MODULE}.{name}": tensor for name, tensor in stored.items()}, settings, expected, exactly=False
    )


def gguf_blocks(kind: str) -> Case:
    """21 rows of 2 blocks of 256 random bytes with extreme scales, by the package that is llama.cpp's own."""
    elements, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    generator = np.random.default_rng(len(kind))
    stored = generator.integers(0, 256, (21, 512 // elements * nbytes), dtype=np.uint8)
    if kind in ("F32", "F16", "BF16"):
        plain = drawn(21, 512)
        stored = plain.to({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind])
        stored = stored.view(torch.uint8).numpy()
    with np.errstate(all="ignore"):
        expected = torch.from_numpy(np.array(dequantize(stored, GGMLQuantizationType[kind]), np.float32))
    return Case({"blk.0.ffn_up.weight": torch.from_numpy(stored)}, {}, expected, gguf=kind)


def gguf_heads() -> Case:
    """Two heads of 6 rows: 0 3 1 4 2 5 are stored for 0 1 2 3 4 5."""
    plain = drawn(12, 64)
    order = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    stored = plain[order].half().view(torch.uint8)
    name = "model.layers.0.self_attn.q_proj.weight"
    return Case(
        {"blk.0.attn_q.weight": stored}, {}, plain.half().float(), name=name, gguf="F16", heads=2, head=6
    )


GGUF_TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *(
        "IQ4_NL",
        "IQ4_XS",
        "IQ3_S",
        "IQ3_XXS",
        "IQ2_XXS",
        "IQ2_XS",
        "IQ2_S",
        "IQ1_S",
        "IQ1_M",
        "TQ1_0",
        "TQ2_0",
    ),
    *("MXFP4",),
)

CASES: dict[str, Callable[[], Case]] = {
    "fp8 by tensor": fp8_whole,
    "fp8 by row": lambda: fp8((40, 1)),
    "fp8 by row, flat": lambda: fp8((40,)),
    "fp8 by block": lambda: fp8((3, 2), (16, 16), "_scale_inv"),
    "fp8 experts by exponents": fp8_experts,
    "mxfp4": mxfp4,
    "nf4": lambda: four_bits("nf4", nested=False, block=64, shape=(24, 40)),
    "nf4 nested, odd": lambda: four_bits("nf4", nested=True, block=64, shape=(31, 21)),
    "nf4 nested, many blocks": lambda: four_bits("nf4", nested=True, block=64, shape=(200, 100)),
    "fp4": lambda: four_bits("fp4", nested=True, block=128, shape=(16, 24)),
    "int8": int8,
    "gptq 4": lambda: gptq(4, "gptq", ordered=False),
    "gptq 2 in order": lambda: gptq(2, "gptq", ordered=True),
    "gptq 8, second layout": lambda: gptq(8, "gptq_v2", ordered=False),
    "awq": awq,
    "packed 4 bits": lambda: compressed(
        PackedQuantizationCompressor, num_bits=4, strategy="group", group_size=16, symmetric=True
    ),
    "packed 4 bits, zero points": lambda: compressed(
        PackedQuantizationCompressor, num_bits=4, strategy="group", group_size=16, symmetric=False
    ),
    "packed 8 bits by row": lambda: compressed(
        PackedQuantizationCompressor, num_bits=8, strategy="channel", symmetric=True
    ),
    "integers": lambda: compressed(
        IntQuantizationCompressor, num_bits=8, strategy="channel", symmetric=False
    ),
    "nvfp4": lambda: compressed(
        NVFP4PackedCompressor, num_bits=4, type="float", strategy="tensor_group", group_size=16
    ),
    **{f"gguf {kind}": partial(gguf_blocks, kind) for kind in GGUF_TYPES},
    "gguf heads": gguf_heads,
    "mxfp4 packed": lambda: compressed(
        MXFP4PackedCompressor, num_bits=4, type="float", strategy="group", group_size=32
    ),
}

each_case = pytest.mark.parametrize("name", CASES)


def saved(case: Case, folder: Path) -> Checkpoint:
    """The case among plain tensors, opened."""
    if case.gguf:
        stored = {name: (case.gguf, tensor.numpy()) for name, tensor in case.tensors.items()}
        plain = {"output_norm.weight": ("F32", np.arange(5, dtype=np.float32))}
        settings = LLAMA | {"attention.head_count": case.heads, "attention.key_length": case.head}
        return open_checkpoint(str(write_gguf(folder / "model.gguf", {**plain, **stored}, settings)))
    config = {"dtype": "bfloat16", "quantization_config": case.settings}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor.contiguous() for name, tensor in case.tensors.items()}
    save_file({**PLAIN, **tensors}, folder / "model.safetensors")
    return open_checkpoint(str(folder))


def read(checkpoint: Checkpoint, name: str, start: int = 0, end: int | None = None) -> torch.Tensor:
    """Elements of a tensor that is computed."""
    end = checkpoint.tensors[name].elements if end is None else end
    buffer = bytearray(4 * (end - start))
    checkpoint.read_into(name, 4 * start, memoryview(buffer))
    return torch.frombuffer(buffer, dtype=torch.float32)


@each_case
def test_the_numbers_are_those_of_its_library(name: str, tmp_path: Path) -> None:
    case = CASES[name]()

    checkpoint = saved(case, tmp_path)

    assert checkpoint.tensors.keys() == {case.name, *PLAIN}
    header = checkpoint.tensors[case.name]
    assert (header.shape, header.dtype) == (tuple(case.expected.shape), "F32")
    found = read(checkpoint, case.name).view(header.shape)
    if case.exactly:
        assert torch.equal(found.nan_to_num(), case.expected.nan_to_num())
    else:
        assert torch.equal(found.bfloat16(), case.expected.bfloat16())
    assert checkpoint.bytes_to_read(case.name) <= sum(tensor.nbytes for tensor in case.tensors.values())


@each_case
def test_any_cut_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    checkpoint = saved(CASES[name](), tmp_path)
    target = next(iter(checkpoint.tensors.keys() - PLAIN.keys()))
    whole = read(checkpoint, target)
    draw = random.Random(name)

    for _ in range(20):
        start, end = sorted(draw.sample(range(len(whole) + 1), 2))
        part = read(checkpoint, target, start, end)
        assert torch.equal(part.view(torch.int32), whole[start:end].view(torch.int32)), (start, end)


@each_case
def test_config_and_warning_say_what_it_is(name: str, tmp_path: Path) -> None:
    checkpoint = saved(CASES[name](), tmp_path)

    assert "quantization_config" not in checkpoint.config
    rounded = [] if CASES[name]().gguf in FLOATS else ["dequantized"]
    assert [problem.code for problem in checkpoint.warnings if problem.code != "gguf-tokenizer"] == rounded


@each_case
def test_it_is_opened_again_elsewhere(name: str, tmp_path: Path) -> None:
    checkpoint = saved(CASES[name](), tmp_path)
    [target] = checkpoint.tensors.keys() - PLAIN.keys()

    located = LocatedCheckpoint.from_json(locate(checkpoint, [target]).to_json())
    again = open_located(located, None)

    assert again.tensors.keys() == {target}
    assert torch.equal(read(again, target).nan_to_num(), read(checkpoint, target).nan_to_num())


def test_every_form_is_tested(tmp_path: Path) -> None:
    tested = set()
    for number, make in enumerate(CASES.values()):
        (tmp_path / str(number)).mkdir()
        checkpoint = saved(make(), tmp_path / str(number))
        assert isinstance(checkpoint, DequantizedCheckpoint)
        tested |= {form.name for form in checkpoint.forms}
    assert tested == {form.name for form in FORMS}


def test_rows_that_are_cut_into_tiles_are_refused(tmp_path: Path) -> None:
    case = int8()
    case.tensors[f"{MODULE}.weight_format"].fill_(2)
    checkpoint = saved(case, tmp_path)

    with pytest.raises(CheckpointError, match="weight_format: the rows are cut into tiles"):
        read(checkpoint, case.name)
