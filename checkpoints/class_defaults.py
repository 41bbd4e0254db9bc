"""What a setting is where a config leaves it out: the default of its class in transformers.

The classes declare their settings with defaults, as dataclasses do. They are read from the source, which takes
milliseconds; importing the classes takes seconds. A setting that a class also computes, or knows by a second name, has
no default here.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

# Names of model types, which name folders of transformers; a config is a stranger's file.
_MODEL_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# The rotary base of a class that names none: `RotaryEmbeddingConfigMixin.default_theta`.
ROPE_THETA = 10_000.0


def class_defaults(model_type: Any) -> Mapping[str, Any]:
    """The defaults of the settings of a model type; none for one that transformers does not know.

    >>> class_defaults("qwen2")["use_sliding_window"], "sliding_window" in class_defaults("qwen2")  # it is computed
    (False, False)

    Args:
        model_type: as a config says it
    """
    if not isinstance(model_type, str) or not _MODEL_TYPE.fullmatch(model_type):
        return {}
    return _defaults(model_type)


@lru_cache(maxsize=64)
def _defaults(model_type: str) -> Mapping[str, Any]:
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return {}
    models = Path(spec.submodule_search_locations[0]) / "models"
    for file in _files(models, model_type):
        for found in _classes(file).values():
            if _assigned(found).get("model_type") == model_type:
                return _declared(file, found)
    return {}


def _files(models: Path, model_type: str) -> Iterator[Path]:
    """Where the class of a type may be: `gemma3_text` is in the folder of `gemma3`."""
    words = model_type.replace("-", "_").split("_")
    for count in range(len(words), 0, -1):
        name = "_".join(words[:count])
        file = models / name / f"configuration_{name}.py"
        if file.is_file():
            yield file


def _declared(file: Path, found: ast.ClassDef) -> dict[str, Any]:
    """The defaults that a class and those before it declare, without what one of them computes."""
    line = list(_line(file, found))
    defaults: dict[str, Any] = {}
    theta = ROPE_THETA
    for one in reversed(line):
        theta = _assigned(one).get("default_theta", theta)
        for node in one.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                defaults.pop(node.target.id, None)
                defaults |= _literal(node.target.id, node.value)
    if "rope_parameters" in defaults:
        defaults["rope_theta"] = theta
    left_out = {name for one in line for name in (*_computed(one), *_with_second_name(one))}
    if "rope_parameters" in left_out or any("rope" in name for one in line for name in _functions(one)):
        left_out.add("rope_theta")
    return {name: value for name, value in defaults.items() if name not in left_out}


def _line(file: Path, found: ast.ClassDef) -> Iterator[ast.ClassDef]:
    """A class and those that it inherits from, as far as they are configs of models, too."""
    yield found
    for base in found.bases:
        if not isinstance(base, ast.Name):
            continue
        place = _imported(file).get(base.id, file)
        if parent := _classes(place).get(base.id):
            yield from _line(place, parent)


@lru_cache(maxsize=64)
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else ast.Module([], [])


def _classes(file: Path) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in _parsed(file).body if isinstance(node, ast.ClassDef)}


def _imported(file: Path) -> dict[str, Path]:
    """The files of other models that a file imports classes from, by the class."""
    return {
        name.name: file.parent.parent / Path(*node.module.split(".")).with_suffix(".py")
        for node in _parsed(file).body
        if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module
        for name in node.names
    }


def _assigned(found: ast.ClassDef) -> dict[str, Any]:
    """The literals that are assigned in a class, without annotation."""
    return {
        name: value
        for node in found.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
        for name, value in _literal(target.id, node.value).items()
    }


def _literal(name: str, node: ast.expr | None) -> dict[str, Any]:
    """A default by its name; none if it is no literal. `interval(min=0.0)(default=0.02)` is one of 0.02."""
    if isinstance(node, ast.Call):
        node = next((keyword.value for keyword in node.keywords if keyword.arg == "default"), None)
    try:
        return {name: ast.literal_eval(node)} if node else {}
    except ValueError:
        return {}


def _functions(found: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in found.body if isinstance(node, ast.FunctionDef)}


def _computed(found: ast.ClassDef) -> set[str]:
    """The settings that a class's functions assign."""
    return {
        node.attr
        for function in _functions(found).values()
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def _with_second_name(found: ast.ClassDef) -> set[str]:
    """The settings that configs may call by another name, too, and these names: `n_embd` is also `hidden_size`."""
    names = _assigned(found).get("attribute_map", {})
    return {*names, *names.values()}
