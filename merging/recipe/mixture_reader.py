"""Reads the YAML of a mixture of experts. What takes the models to know is checked by the plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import yaml

from checkpoints.problems import Problem, suggestion
from merging.recipe.mixture import COMPUTED, GATE_MODES, SHARED_WEIGHTS, Expert, Mixture
from merging.recipe.recipe import Recipe
from merging.recipe.yaml import place_of

if TYPE_CHECKING:
    from merging.recipe.reader import Reader

# Keys that only a mixture of experts has.
OWN_KEYS = ("experts", "gate_mode", "shared_experts", "experts_per_token")
TOP_LEVEL = (
    "base_model",
    *OWN_KEYS,
    "architecture",
    "shared_weights",
    "dtype",
    "seed",
    "name",
)
EXPERT = ("source_model", "positive_prompts", "negative_prompts", "noise_scale", "residual_scale")
# Tensors that several models give are averaged; an expert is a sum of its weights and noise.
METHOD = "linear"
MOST_EXPERTS = 256
MOST_PROMPTS = 256


def read_mixture(reader: Reader, node: yaml.Node) -> Recipe | None:
    """The recipe of one document that describes a mixture of experts; None if it is no mapping."""
    fields = reader.mapping(node, "recipe", known=TOP_LEVEL, ignored=("merge_method",))
    if fields is None:
        return None
    if "merge_method" in fields:  # as some write who have seen merges: experts are not merged
        reader.warn("ignored-key", {"name": "merge_method", "what": "recipe"}, fields["merge_method"])
    if "base_model" not in fields:
        reader.problem("mixture-without-base", {}, node)
    if "experts" not in fields:
        reader.problem("no-experts", {}, node)
    entries = _Experts(reader)
    mixture = Mixture(
        experts=reader.sequence(fields.get("experts"), "experts", entries.read),
        shared_experts=reader.sequence(_listed(fields.get("shared_experts")), "shared_experts", entries.read),
        gate_mode=_choice(reader, fields, "gate_mode", GATE_MODES, "hidden"),
        experts_per_token=_per_token(reader, fields.get("experts_per_token")),
        architecture=reader.text_of(fields["architecture"], "model-class")
        if "architecture" in fields
        else None,
        shared_weights=_choice(reader, fields, "shared_weights", SHARED_WEIGHTS, "base"),
    )
    _check(reader, mixture, fields)
    return Recipe(
        merge_method=METHOD,
        mixture=mixture,
        base_model=reader.reference(fields.get("base_model")),
        dtype=reader.dtype(fields.get("dtype")),
        seed=reader.seed(fields.get("seed")),
        name=(reader.text_of(fields["name"], "name") or "") if "name" in fields else "",
        text=reader.text,
    )


def _listed(node: yaml.Node | None) -> yaml.Node | None:
    """A list, but for an empty one: mergekit takes `shared_experts: []` for none."""
    return None if isinstance(node, yaml.SequenceNode) and not node.value else node


def _choice(
    reader: Reader, fields: Mapping[str, yaml.Node], key: str, known: tuple[str, ...], default: str
) -> str:
    if key not in fields:
        return default
    value = reader.text_of(fields[key], key)
    if value is None or value in known:
        return value or known[-1]
    reader.problem("unknown-choice", {"key": key, "name": value, **suggestion(value, known)}, fields[key])
    return known[-1]  # which asks for nothing more


def _per_token(reader: Reader, node: yaml.Node | None) -> int:
    if node is None:
        return 2
    value = reader.plain(node)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    reader.problem("experts-per-token", {"found": reader.shown(node)}, node)
    return 1


class _Experts:
    """Reads the entries of `experts` and `shared_experts`."""

    def __init__(self, reader: Reader):
        self._reader = reader

    def read(self, node: yaml.Node) -> Expert | None:
        reader = self._reader
        fields = reader.mapping(node, "expert", known=EXPERT)
        if fields is None:
            return None
        if "source_model" not in fields:
            reader.problem("no-source-model", {}, node)
            return None
        model = reader.reference(fields["source_model"])
        before = len(reader.problems)
        prompts = [self._prompts(fields, key) for key in ("positive_prompts", "negative_prompts")]
        if len(reader.problems) > before:
            prompts[0] = prompts[0] or ("?",)  # what is wrong with them is reported, and none is missing
        scales = [self._number(fields, "noise_scale", 0.0), self._number(fields, "residual_scale", 1.0)]
        return Expert(model, prompts[0], prompts[1], scales[0], scales[1], place_of(node)) if model else None

    def _prompts(self, fields: Mapping[str, yaml.Node], key: str) -> tuple[str, ...]:
        """The prompts under a key: a list of texts; mergekit takes an empty list for none."""
        node = _listed(fields.get(key))
        found = self._reader.sequence(node, key, self._prompt)
        if node is not None and len(found) > MOST_PROMPTS:
            self._reader.problem("too-many-prompts", {"count": len(found), "most": MOST_PROMPTS}, node)
        return found[:MOST_PROMPTS]

    def _prompt(self, node: yaml.Node) -> str | None:
        """A text as it is written: blanks at its ends count."""
        value = self._reader.plain(node)
        if isinstance(value, str) and value.strip():
            return value
        return self._reader.text_of(node, "prompt")

    def _number(self, fields: Mapping[str, yaml.Node], key: str, default: float) -> float:
        if key not in fields:
            return default
        value = self._reader.plain(fields[key])
        if isinstance(value, str):  # YAML 1.1 takes 1e-5 for text
            try:
                value = float(value)
            except ValueError:
                value = None
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if is_number and (key != "noise_scale" or value >= 0):  # type: ignore[operator]
            return float(value)  # type: ignore[arg-type]
        self._reader.problem(
            "expert-number", {"key": key, "found": self._reader.shown(fields[key])}, fields[key]
        )
        return default


def _check(reader: Reader, mixture: Mixture, fields: Mapping[str, yaml.Node]) -> None:
    """Check what concerns several fields."""
    count = len(mixture.experts)
    if "experts" in fields and count > MOST_EXPERTS:
        reader.problem("too-many-experts", {"count": count, "most": MOST_EXPERTS}, fields["experts"])
    if count and mixture.experts_per_token > count and "experts_per_token" in fields:
        values = {"given": mixture.experts_per_token, "count": count}
        reader.problem("more-than-experts", values, fields["experts_per_token"])
    if len(mixture.shared_experts) > 1:
        values = {"count": len(mixture.shared_experts)}
        reader.problem("shared-experts", values, fields["shared_experts"])
    if mixture.gate_mode in COMPUTED:
        for expert in mixture.all_experts():
            if not expert.positive_prompts:
                about = {"model": str(expert.model), "mode": mixture.gate_mode}
                reader.report(Problem("expert-without-prompts", about, expert.where))
        _same_prompts(reader, mixture, fields)


def _same_prompts(reader: Reader, mixture: Mixture, fields: Mapping[str, yaml.Node]) -> None:
    """Warn of experts that no prompt tells apart."""
    prompts = Counter(frozenset(expert.positive_prompts) for expert in mixture.experts)
    for expert in mixture.experts:
        if prompts[frozenset(expert.positive_prompts)] > 1 and expert.positive_prompts:
            alike = [
                str(other.model)
                for other in mixture.experts
                if {*other.positive_prompts} == {*expert.positive_prompts}
            ]
            reader.warn("same-prompts", {"models": alike}, fields["experts"])
