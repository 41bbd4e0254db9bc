"""Recipes as nobody should write them: random data with a recipe's words, and recipes with random edits."""

from __future__ import annotations

import yaml
from hypothesis import strategies as st

from merging.methods import METHODS
from merging.recipe.reader import TOP_LEVEL
from tests.merging.recipe.test_recipe import GRADIENT_SLERP
from tests.merging.recipe.test_wild_kinds import KINDS

PARAMETERS = sorted({p.name for method in METHODS.values() for p in method.parameters})
INNER = [
    "model",
    "sources",
    "layer_range",
    "filter",
    "value",
    "path",
    "revision",
    "lora",
    "adapters",
    "scale",
]
KEYS = [
    *TOP_LEVEL,
    *INNER,
    "source",
    "tokens",
    "kind",
    "token_id",
    "force",
    "pad_to_multiple_of",
    "<<",
    "default",
    "x",
]
SNIPPETS = [
    *("- ", ": ", "{", "}", "[", "]", "&a ", "*a", "<<: *a\n", "---\n", "#", "'", '"', "|\n", "? ", "!!int "),
    *(
        "null",
        "~",
        "1e400",
        ".nan",
        ".inf",
        "-0",
        "0x_",
        "1_0",
        "9" * 5000,
        "yes",
        "2024-13-99",
        "1:2:3",
        "\u2028",
    ),
    *(
        "revision: v1\n",
        "dtype: x\n",
        "filter: mlp\n",
        "weight: 1\n",
        "t: 2\n",
        "parameters:\n",
        "a+b+c",
        "a@b@c",
    ),
    *("%", "\t", "\x00"),
]
SEEDS = [GRADIENT_SLERP, *(kind.text for kind in KINDS.values())]

keys = st.sampled_from(KEYS) | st.sampled_from(PARAMETERS) | st.text(max_size=4)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(sorted(METHODS))
    | st.sampled_from(["org/a", "org/b@v1", "a+b", "union", "base", "bfloat16", "zero", "model_token"])
)
data = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys | st.integers(), inner, max_size=6),
    max_leaves=30,
)
top = st.fixed_dictionaries(
    {"merge_method": st.sampled_from(sorted(METHODS)) | data},
    optional={key: data for key in TOP_LEVEL if key != "merge_method"},
)


@st.composite
def edited(draw: st.DrawFn) -> str:
    """A recipe with pieces cut out, doubled, moved or written in."""
    text = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 40)))
        piece = draw(st.sampled_from([*SNIPPETS, "", text[start:end] * 2, text[end : end + 20]]))
        text = text[:start] + piece + text[end:]
    return text


texts = (
    edited()
    | top.map(lambda it: yaml.safe_dump(it, sort_keys=False, allow_unicode=True))
    | st.text(max_size=60)
)
