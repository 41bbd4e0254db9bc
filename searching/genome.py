"""Reads a file for mergekit-evolve (`genome:` and `tasks:`) as a space.

    genome:
      models: [org/math, org/korean]
      base_model: org/base
      merge_method: ties
      layer_granularity: 8      # layers in a group; each group has its own numbers
      filters: [self_attn, mlp] # each filter has its own numbers, and so has the rest
    tasks:
      - {name: kmmlu, weight: 1, metric: "acc,none"}

mergekit-evolve searches without bounds. Here weights go from 0 (or -1.5 with `allow_negative_weights`) to 1.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from checkpoints import Token, open_checkpoint
from checkpoints.architecture import Layout
from checkpoints.problems import RecipeError, suggestion
from checkpoints.yaml import plain
from merging.recipe.reader import read_reference
from merging.recipe.yaml import YamlReader

MOST_WEIGHT = 1.5
_METHODS = ("linear", "task_arithmetic", "ties", "dare_ties", "slerp")
_WITH_DENSITY = ("ties", "dare_ties")
_NORMALIZED = ("linear", "ties", "dare_ties")
_GENOME = (
    "models",
    "merge_method",
    "base_model",
    "tokenizer_source",
    "layer_granularity",
    "normalize",
    "allow_negative_weights",
    "filters",
    "smooth",
)
_TASK = ("name", "weight", "metric")
_TOP = ("genome", "tasks", "limit", "num_fewshot")
# They change how mergekit-evolve asks or starts, and have no counterpart here.
_IGNORED = ("shuffle", "random_init", "apply_chat_template", "fewshot_as_multiturn")


def is_genome(text: str) -> bool:
    """Whether a text is a file for mergekit-evolve."""
    nodes = YamlReader(text).documents()
    return bool(nodes) and any(
        getattr(key, "value", None) == "genome"
        for node in nodes
        if isinstance(node, yaml.MappingNode)
        for key, _ in node.value
    )


def layers_of(model: str, *, token: Token = None, allow_folders: bool = True) -> int:
    """How many layers a model has; 0 where it has none.

    Raises:
        CheckpointError: it cannot be opened.
    """
    reference = read_reference(model)
    checkpoint = open_checkpoint(reference.name, reference.revision, token=token, allow_folders=allow_folders)
    try:
        stack = Layout(checkpoint.tensors, checkpoint.config).main.stack
    finally:
        checkpoint.close()
    return stack.count if stack else 0


def space_of_genome(text: str, layers: Callable[[str], int]) -> str:
    """The text of the space.

    Args:
        text: a file for mergekit-evolve
        layers: how many layers a model has

    Raises:
        RecipeError: with every problem of the text.
    """
    reader = _GenomeReader(text)
    space = reader.space(layers)
    if reader.problems or space is None:
        raise RecipeError(reader.problems)
    return yaml.safe_dump(space, sort_keys=False, allow_unicode=True)


class _GenomeReader(YamlReader):
    def space(self, layers: Callable[[str], int]) -> dict[str, Any] | None:
        node = self.documents()[0]
        top = self.mapping(node, "genome-file", known=_TOP, ignored=_IGNORED)
        genome = self.mapping(top["genome"], "genome", known=_GENOME) if top and "genome" in top else None
        if top is None or genome is None:
            return None
        found = {name: self.value(value) for name, value in genome.items()}
        method = found.get("merge_method")
        models = found.get("models")
        if method not in _METHODS:
            values = {"name": str(method), **suggestion(str(method), _METHODS)}
            self.problem("genome-method", values, genome.get("merge_method", node))
        if not isinstance(models, list) or len(models) < 2:
            self.problem("genome-models", {}, genome.get("models", node))
        if method == "slerp" and (found.get("filters") or found.get("smooth")):
            self.problem("genome-slerp", {}, genome["merge_method"])
        if method == "slerp" and isinstance(models, list) and len(models) != 2:
            self.problem("genome-slerp-models", {"count": len(models)}, genome["models"])
        if not isinstance(found.get("filters", []), list):
            self.problem(
                "not-a-list", {"name": "filters", "found": self.shown(genome["filters"])}, genome["filters"]
            )
        group = found.get("layer_granularity", 0)
        if type(group) is not int:
            values = {"name": "layer_granularity", "found": self.shown(genome["layer_granularity"]), "low": 0}
            self.problem("search-number", values, genome["layer_granularity"])
        if "tasks" not in top:
            self.problem("no-objective", {}, node)
        if self.problems:
            return None
        group, groups = max(group, 0), 1
        if group and isinstance(models, list):
            count = layers(str(models[0]))
            groups, rest = divmod(count, group)
            if rest:
                values = {"layers": count, "group": group}
                self.problem("genome-layers", values, genome["layer_granularity"])
                return None
        recipe = _recipe(found, groups, group)
        goals = self.sequence(top["tasks"], "tasks", lambda one: self.task(one, top))
        return {**recipe, "search": {"objective": list(goals)}}

    def value(self, node: yaml.Node) -> Any:
        """Any plain value, a mapping among them."""
        return plain(node) if isinstance(node, yaml.MappingNode) else self.plain(node)

    def task(self, node: yaml.Node, top: Mapping[str, yaml.Node]) -> dict[str, Any] | None:
        fields = self.mapping(node, "genome-task", known=_TASK)
        if fields is None or "name" not in fields:
            return None
        goal: dict[str, Any] = {"task": self.text_of(fields["name"], "name")}
        if "weight" in fields:
            goal["weight"] = self.plain(fields["weight"])
        goal["metric"] = (
            self.text_of(fields["metric"], "name") if "metric" in fields else None
        ) or "acc,none"
        for name, here in (("limit", "questions"), ("num_fewshot", "few_shot")):
            if name in top:
                goal[here] = self.plain(top[name])
        return goal


def _recipe(genome: Mapping[str, Any], groups: int, group: int) -> dict[str, Any]:
    """The recipe with its ranges; `groups` runs of `group` layers, or the whole models where `group` is 0."""
    method, models = genome["merge_method"], genome["models"]
    base = genome.get("base_model")
    recipe: dict[str, Any] = {"merge_method": method}
    normalize = genome.get("normalize")
    if method in _NORMALIZED or (normalize is not None and method != "slerp"):
        recipe["parameters"] = {"normalize": method in _NORMALIZED if normalize is None else normalize}
    recipe |= {"dtype": "bfloat16"}
    if base and method != "slerp":
        recipe["base_model"] = base
    if genome.get("tokenizer_source"):
        recipe["tokenizer_source"] = genome["tokenizer_source"]
    if method == "slerp":
        recipe["base_model"] = models[0]
        t = {"search": [0, 1], "start": 0.5}
        if group:
            recipe["slices"] = [
                {**_slice(models, number, group), "parameters": {"t": dict(t)}} for number in range(groups)
            ]
        else:
            recipe["models"] = [{"model": model} for model in models]
            recipe["parameters"] = {"t": t}
        return recipe
    smooth = bool(genome.get("smooth"))
    anchors = groups if smooth and groups > 1 else 0
    entry = _parameters(genome, anchors)
    if group and not smooth:
        others = [base] if base and base not in models else []
        recipe["slices"] = [
            _slice(models, number, group, entry, others=tuple(others)) for number in range(groups)
        ]
    else:
        recipe["models"] = [{"model": model, "parameters": entry()} for model in models]
    return recipe


def _slice(
    models: list[Any],
    number: int,
    group: int,
    parameters: Callable[[], dict[str, Any]] | None = None,
    *,
    others: tuple[Any, ...] = (),
) -> dict[str, Any]:
    """One group of layers of each model, with numbers of its own."""
    layers = [number * group, (number + 1) * group]
    sources: list[dict[str, Any]] = [
        {"model": model, "layer_range": list(layers), **({"parameters": parameters()} if parameters else {})}
        for model in models
    ]
    return {"sources": sources + [{"model": other, "layer_range": list(layers)} for other in others]}


def _parameters(genome: Mapping[str, Any], anchors: int) -> Callable[[], dict[str, Any]]:
    """What makes the ranges of one model."""
    low = -MOST_WEIGHT if genome.get("allow_negative_weights") else 0
    ranges = {"weight": {"search": [low, MOST_WEIGHT], "start": round(1 / len(genome["models"]), 6)}}
    if genome["merge_method"] in _WITH_DENSITY:
        ranges["density"] = {"search": [0, 1], "start": 1}
    filters = genome.get("filters") or []

    def made() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, given in ranges.items():
            one = {**given, **({"anchors": anchors} if anchors else {})}
            found[name] = (
                [*({"filter": part, **one} for part in filters), dict(one)] if filters else dict(one)
            )
        return found

    return made
