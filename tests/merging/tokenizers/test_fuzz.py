"""Whatever the files of a tokenizer hold: vocabularies are aligned, or the plan refuses them in words."""

from __future__ import annotations

import json
import shutil
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from merging import make_plan, read_recipe
from tests.checkpoints.test_fuzz import LENGTHS, fuzz
from tests.tiny import save_tokenizer, tiny_llama

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
GONE = "gone"
LEAVES = st.sampled_from(
    [
        GONE,
        None,
        True,
        -1,
        0,
        300,
        2**70,
        1.5,
        float("nan"),
        "",
        "a",
        "<s>",
        "BPE",
        "Unigram",
        "\u2581",
        "<0x41>",
    ]
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "id", "content", "vocab", "merges", "special", "a"]), inner, max_size=3
        )
    ),
    max_leaves=4,
)
# Where a change is made: at each level an entry by its number, until the numbers or the levels end.
CHANGES = st.lists(
    st.tuples(st.integers(0, len(FILES) - 1), st.lists(st.integers(0, 300), max_size=4), VALUES),
    min_size=1,
    max_size=3,
)


def changed(document: Any, places: list[int], value: Any) -> Any:
    """A document with a value at another place; `GONE` takes out what is there."""
    keys = (
        list(document)
        if isinstance(document, dict)
        else range(len(document))
        if isinstance(document, list)
        else ()
    )
    if not places or not keys:
        return None if value == GONE else value
    key = keys[places[0] % len(keys)]
    if value == GONE and len(places) == 1:
        del document[key]
    else:
        document[key] = changed(document[key], places[1:], value)
    return document


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_llama(tmp_path_factory.mktemp("model"), 1, vocab_size=262)
    return save_tokenizer(folder, [("a", "b"), ("ab", "c")], ["<x>", "<y>"], "{{ messages }}")


@pytest.mark.parametrize("examples", LENGTHS)
def test_tokenizers(model: Path, examples: int) -> None:
    documents = {name: json.loads(path.read_text()) for name in FILES if (path := model / name).exists()}

    def check(changes: list[tuple[int, list[int], Any]]) -> None:
        mine = deepcopy(documents)
        for file, places, value in changes:
            mine[FILES[file]] = changed(mine.get(FILES[file], {}), places, value)
        with tempfile.TemporaryDirectory() as folder:
            other = Path(folder) / "other"
            shutil.copytree(model, other, copy_function=lambda source, to: Path(to).symlink_to(source))
            for name, document in mine.items():
                (other / name).unlink(missing_ok=True)
                (other / name).write_text(json.dumps(document))
            for source in ("union", str(other)):
                recipe = {
                    "merge_method": "linear",
                    "models": [{"model": str(path), "parameters": {"weight": 1}} for path in (model, other)],
                    "tokenizer": {"source": source},
                }
                plan = make_plan(read_recipe(yaml.safe_dump(recipe)))
                assert all(str(problem) for problem in (*plan.problems, *plan.warnings))

    fuzz(check, CHANGES, examples // 4)
