"""The names of quantized copies."""

from __future__ import annotations

import pytest

from checkpoints.quantized.original import is_original, original_name


@pytest.mark.parametrize(
    ("quantized", "original"),
    [
        ("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "unsloth/Llama-3.2-1B-Instruct"),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "unsloth/Qwen3-8B"),
        ("a/Qwen2.5-7B-Instruct-GPTQ-Int4", "a/Qwen2.5-7B-Instruct"),
        ("a/Qwen2.5-7B-Instruct-AWQ", "a/Qwen2.5-7B-Instruct"),
        ("a/Llama-3.1-8B-FP8-dynamic", "a/Llama-3.1-8B"),
        ("a/Llama-3.1-8B-quantized.w4a16", "a/Llama-3.1-8B"),
        ("a/Mistral-7B-4bit", "a/Mistral-7B"),
        ("a/Qwen3-0.6B-GGUF", "a/Qwen3-0.6B"),
        ("a/Qwen3-8B-i1-GGUF/Qwen3-8B.i1-IQ2_XXS.gguf", "a/Qwen3-8B-i1-GGUF/Qwen3-8B"),
        ("Qwen3-8B-UD-Q4_K_XL.gguf", "Qwen3-8B"),
        ("big.Q4_K_M.gguf", "big"),
        (f"a/b-q4{'_s' * 90}x", f"a/b-q4{'_s' * 90}x"),
        ("a/gpt4bit-7b", "a/gpt4bit-7b"),
        ("gptq/model", "gptq/model"),
    ],
)
def test_the_name_says_what_was_quantized(quantized: str, original: str) -> None:
    assert original_name(quantized) == original


def test_any_owner_may_have_quantized_it() -> None:
    assert is_original("Meta/Llama-3.2-1B", "unsloth/llama-3.2-1b-bnb-4bit")
    assert not is_original("Meta/Llama-3.2-1B", "unsloth/Llama-3.2-1B-Instruct-bnb-4bit")
    assert not is_original("Meta/Llama-3.2-1B", "other/Llama-3.2-1B")
