"""The name of the model that a quantized one was made from, as far as its own name tells."""

from __future__ import annotations

import re

# What quantized copies are named with: `-bnb-4bit`, `-unsloth-bnb-4bit`, `-GPTQ-Int4`, `-AWQ`, `-FP8-dynamic`,
# `.Q4_K_M.gguf`, ...
_ENDING = re.compile(
    r"(?:[-_.](?:awq|bnb|bitsandbytes|fp4|fp8|gguf|gptq|mxfp4|nf4|nvfp4|unsloth|quantized|quant|dynamic|block|"
    r"int[48]|[48]-?bits?|w\d+a\d+|g\d+|\d+g|i1|imat|ud|i?q\d(?:_(?:\d|k|nl|x*[sml]))*))+$",
    re.IGNORECASE,
)


def original_name(name: str) -> str:
    """The name without what says that a model is quantized; the name itself if it says nothing."""
    return _ENDING.sub("", name)


def is_original(name: str, quantized: str) -> bool:
    """Whether two ids on the Hub name a model and a quantized copy of it, of any owners."""
    original = original_name(quantized)
    return original != quantized and _model(name) == _model(original)


def _model(name: str) -> str:
    return name.rpartition("/")[2].lower()
