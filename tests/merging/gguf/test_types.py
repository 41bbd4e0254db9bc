"""The type of each tensor, by hand, for a model of 16 layers with a tied head."""

from __future__ import annotations

import pytest

from checkpoints.problems import MergeError
from merging.gguf.quantization import check_quantizer
from merging.gguf.types import FILE_TYPES, Shape, UnquantizedTensor, file_types, tensor_types

SHAPE = Shape("llama", layers=16, heads=8, kv_heads=4)
TENSORS = [
    UnquantizedTensor("token_embd.weight", 512, False),
    UnquantizedTensor("output_norm.weight", 512, True),
    *(
        UnquantizedTensor(f"blk.{layer}.{name}.weight", width, False)
        for layer in range(16)
        for name, width in (("attn_q", 512), ("attn_v", 512), ("attn_output", 512), ("ffn_down", 576))
    ),
]
# First and last eighth of the layers, and of the others every third from the fifth on.
SENSITIVE = {0, 1, 4, 7, 10, 13, 14, 15}


def test_a_mix_gives_more_bits_to_some_layers() -> None:
    types = tensor_types(FILE_TYPES["Q4_K_M"], TENSORS, SHAPE)

    assert types["token_embd.weight"].name == "Q6_K"
    assert types["output_norm.weight"].name == "F32"
    assert types["blk.3.attn_q.weight"].name == "Q4_K"
    assert {layer for layer in range(16) if types[f"blk.{layer}.attn_v.weight"].name == "Q6_K"} == SENSITIVE
    # 576 is no multiple of 256.
    assert {layer for layer in range(16) if types[f"blk.{layer}.ffn_down.weight"].name == "Q8_0"} == SENSITIVE
    assert types["blk.3.ffn_down.weight"].name == "Q5_0"


@pytest.mark.parametrize(
    ("kind", "shapes", "expected"),
    [
        ("Q6_K", [(1000, 512), (512,)], 1.02 * (512_000 * 210 / 256 + 4 * 512)),
        ("Q6_K", [(1000, 576)], 1.02 * 576_000 * 34 / 32),  # as Q8_0
        ("Q8_0", [(2, 10, 30)], 1.02 * 600 * 2),  # as F16
        ("Q4_K_M", [(1000, 512)], 1.1 * 512_000 * 144 / 256),
        ("BF16", [], 0),
    ],
)
def test_a_size_is_estimated_from_shapes(kind: str, shapes: list[tuple[int, ...]], expected: float) -> None:
    assert FILE_TYPES[kind].estimated_bytes(shapes) == int(expected)


def test_types_without_a_mix_have_one_type_but_for_the_head_and_float32() -> None:
    assert {kind.name for kind in tensor_types(FILE_TYPES["Q8_0"], TENSORS, SHAPE).values()} == {
        "Q8_0",
        "F32",
    }
    assert {kind.name for kind in tensor_types(FILE_TYPES["F16"], TENSORS, SHAPE).values()} == {"F16", "F32"}
    types = tensor_types(FILE_TYPES["Q4_0"], TENSORS, SHAPE)
    assert {types[name].name for name in ("token_embd.weight", "blk.0.attn_v.weight")} == {"Q6_K", "Q4_0"}


def test_a_row_that_no_block_divides_stays_in_16_bits() -> None:
    odd = [UnquantizedTensor("token_embd.weight", 100, False)]
    assert tensor_types(FILE_TYPES["Q8_0"], odd, SHAPE)["token_embd.weight"].name == "F16"


def test_names_in_any_case_each_once() -> None:
    assert [kind.name for kind in file_types(["q4_k_m", " Q8_0", "Q4_K_M"])] == ["Q4_K_M", "Q8_0"]


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (["IQ4_XS"], "gguf-needs-importance", "IQ4_XS needs an importance matrix"),
        (["Q2_K"], "gguf-unknown-type", "no GGUF files of type 'Q2_K'"),
        (["Q4_K"], "gguf-unknown-type", "Did you mean 'Q4_K_M'"),
        (["GPTQ"], "gguf-unknown-type", "no GGUF files of type 'GPTQ'"),
        ([], "gguf-no-type", "Choose one of BF16"),
    ],
)
def test_other_types_are_refused_by_name(given: list[str], code: str, said: str) -> None:
    with pytest.raises(MergeError, match=said) as refused:
        file_types([*given, *(["Q8_0"] if given else [])])

    assert [problem.code for problem in refused.value.problems] == [code]


def test_without_libgguf_the_simple_types_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("merging.gguf.quantization._native", lambda: None)

    check_quantizer(file_types(["BF16", "F16", "Q8_0"]))
    with pytest.raises(MergeError, match=r"Q4_K_M, Q4_0 need the package libgguf"):
        check_quantizer(file_types(["Q4_K_M", "Q4_0", "Q8_0"]))
