"""Element types: how safetensors, recipes and configs name them, and their size."""

from __future__ import annotations

# safetensors' name: (torch's and recipes' name, bytes an element), in the order in which its writer sorts a file
_TYPES = {
    "I64": ("int64", 8),
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "I32": ("int32", 4),
    "BF16": ("bfloat16", 2),
    "F16": ("float16", 2),
    "I16": ("int16", 2),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
_RANKS = {name: rank for rank, name in enumerate(_TYPES)}
_BY_TORCH_NAME = {torch_name: name for name, (torch_name, _) in _TYPES.items()}

# What weights may be stored as, in the order of promotion. Eight-bit floats carry scales outside the tensor.
FLOATS = ("F16", "BF16", "F32", "F64")
# What a recipe may ask for.
RECIPE_DTYPES = ("bfloat16", "float16", "float32", "float64")


def is_known(dtype: str) -> bool:
    return dtype in _TYPES


def itemsize(dtype: str) -> int:
    """Bytes an element, by safetensors' name."""
    return _TYPES[dtype][1]


def rank_in_file(dtype: str) -> int:
    """Sorts dtypes as safetensors' writer does: the widest first, so that all tensors are aligned."""
    return _RANKS[dtype]


def torch_name(dtype: str) -> str:
    """`bfloat16` for `BF16`."""
    return _TYPES[dtype][0]


def safetensors_name(torch_name: str) -> str:
    """`BF16` for `bfloat16` or `torch.bfloat16`."""
    return _BY_TORCH_NAME[torch_name.removeprefix("torch.")]


def promote(dtypes: set[str]) -> str:
    """The float type that holds all of them; a mix of the two 16-bit floats needs float32."""
    if dtypes == {"F16", "BF16"}:
        return "F32"
    return max(dtypes, key=FLOATS.index)
