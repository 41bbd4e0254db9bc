"""The training of a chain: its last document, told by its key `train`.

    merge_method: passthrough
    slices: [...]
    ---
    train: distillation
    datasets: [{path: heal.jsonl}]
    arguments: {max_steps: 400, learning_rate: 2.0e-4}
    evaluate: {texts: english}

Arguments have the names that TRL and transformers give them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import yaml

from checkpoints.problems import Place, Problem, RecipeError
from merging.recipe.reader import read_nodes
from merging.recipe.recipe import Recipe
from merging.recipe.yaml import YamlReader

_KEYS = ("train", "teacher", "datasets", "arguments", "hidden_states", "evaluate")
_DATASET = ("path", "name", "split", "column", "rows")
_EVALUATE = ("texts", "stop_above")
# Kinds of training that are there.
KINDS = ("distillation",)


@dataclass(frozen=True)
class Dataset:
    """A text to train on.

    Args:
        path: a file (.txt, .jsonl), "python-topics" for the manual that comes with Python, or "owner/name" on the Hub
        name: configuration of a data set on the Hub
        split, column, rows: of that
        where: its place in the text
    """

    path: str
    name: str | None = None
    split: str = "train"
    column: str = "text"
    rows: int = 1000
    where: Place | str = field(default="", compare=False)


@dataclass(frozen=True)
class Arguments:
    """Numbers of a training run.

    Args:
        max_steps: how often the adapter is updated
        learning_rate: the highest; it grows over `warmup_steps`, and falls to a twentieth at the end
        per_device_train_batch_size: sequences a step
        max_length: tokens in a sequence
        lora_r: rank of the adapter
        lora_alpha: its change is scaled by this divided by the rank
        warmup_steps: see `learning_rate`
        max_grad_norm: longer gradients are shortened to this length
        temperature: both models' logits are divided by it
        save_steps: the state is stored every `save_steps` steps
        seed: of the adapter's first values, and of the order of sequences
    """

    max_steps: int = 400
    learning_rate: float = 2e-4
    per_device_train_batch_size: int = 4
    max_length: int = 512
    lora_r: int = 16
    lora_alpha: int = 32
    warmup_steps: int = 20
    max_grad_norm: float = 1.0
    temperature: float = 1.0
    save_steps: int = 10
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Read by the whole run."""
        return self.max_steps * self.per_device_train_batch_size * self.max_length


# The least value of each argument that may not be 0.
_FROM_ZERO = ("warmup_steps", "seed")


@dataclass(frozen=True)
class Training:
    """What to train and how.

    Args:
        recipe: of the model to train
        recipe_text: its YAML
        text: of the whole chain
        teacher: model that is imitated; None: the only parent
        datasets: texts to train on
        arguments: numbers
        hidden_states: weight of the cosine distance of hidden states beside the divergence of predictions
        texts: names of the bundled texts, or files, to judge on
        stop_above: a result is not written if its perplexity divided by the teacher's is above this
    """

    recipe: Recipe
    recipe_text: str
    text: str
    datasets: tuple[Dataset, ...]
    arguments: Arguments = Arguments()
    teacher: str | None = None
    hidden_states: float = 0.0
    texts: tuple[str, ...] = ("english", "korean")
    stop_above: float | None = None


def read_training(text: str) -> Training:
    """Read a chain that ends in a training document.

    Raises:
        RecipeError: with every problem of the training document, or else of the recipe before it.
    """
    reader = _Reader(text)
    nodes = reader.documents()
    if not nodes or reader.problems:
        raise RecipeError(reader.problems)
    *before, last = nodes
    if not _trains(last) or not before or any(map(_trains, before)):
        raise RecipeError(Problem("no-training", {}, Place(last.start_mark.line + 1, 1)))
    found = reader.training(last)
    if reader.problems:
        raise RecipeError(reader.problems)
    lines = text.splitlines(keepends=True)
    ends = max(i for i in range(last.start_mark.line + 1) if lines[i].startswith("---"))
    recipe_text = "".join(lines[:ends])
    return Training(read_nodes(before, recipe_text), recipe_text, text, **found)


def _trains(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode) and any(key.value == "train" for key, _ in node.value)


class _Reader(YamlReader):
    """Reads the fields of a training document."""

    def training(self, node: yaml.Node) -> Mapping[str, Any]:
        given = self.mapping(node, "`train`", _KEYS) or {}
        kind = self.text_of(given["train"], "`train`") if "train" in given else None
        if kind not in KINDS:
            self.problem(
                "training-kind", {"given": str(kind), "known": list(KINDS)}, given.get("train", node)
            )
        found: dict[str, Any] = {"datasets": self.sequence(given.get("datasets"), "datasets", self.dataset)}
        if not found["datasets"] and not self.problems:
            self.problem("no-training-data", {}, node)
        if "teacher" in given:
            found["teacher"] = self.text_of(given["teacher"], "`teacher`")
        if "arguments" in given:
            found["arguments"] = self.arguments(given["arguments"])
        if "hidden_states" in given:
            found["hidden_states"] = self.number(given["hidden_states"], "hidden_states", float, 0)
        if "evaluate" in given:
            found |= self.evaluate(given["evaluate"])
        return found

    def dataset(self, node: yaml.Node) -> Dataset | None:
        given = self.mapping(node, "`datasets`", _DATASET) or {}
        if "path" not in given:
            self.problem("no-training-data", {}, node)
            return None
        read: dict[str, Any] = {
            key: self.number(value, key, int, 1) if key == "rows" else self.text_of(value, f"`{key}`") or ""
            for key, value in given.items()
        }
        mark = node.start_mark
        return Dataset(**read, where=Place(mark.line + 1, mark.column + 1))

    def arguments(self, node: yaml.Node) -> Arguments:
        kinds = {one.name: type(one.default) for one in fields(Arguments)}
        given = self.mapping(node, "`arguments`", tuple(kinds)) or {}
        read: dict[str, Any] = {
            key: self.number(value, key, kinds[key], 0 if key in _FROM_ZERO else None)
            for key, value in given.items()
        }
        return Arguments(**read)

    def evaluate(self, node: yaml.Node) -> dict[str, Any]:
        given = self.mapping(node, "`evaluate`", _EVALUATE) or {}
        found: dict[str, Any] = {}
        if "texts" in given:
            texts = given["texts"]
            names: Sequence[str | None] = (
                [self.text_of(one, "`texts`") for one in texts.value]
                if isinstance(texts, yaml.SequenceNode)
                else [self.text_of(texts, "`texts`")]
            )
            found["texts"] = tuple(name for name in names if name)
        if "stop_above" in given:
            found["stop_above"] = self.number(given["stop_above"], "stop_above", float, None)
        return found

    def number(self, node: yaml.Node, name: str, kind: type, least: int | None) -> Any:
        """A number of this kind, from `least` on; None: above 0."""
        value = self.plain(node)
        least = 1 if kind is int and least is None else least
        is_number = isinstance(value, int) if kind is int else isinstance(value, int | float)
        if not is_number or isinstance(value, bool) or not self._in_range(float(str(value)), least):
            whole = {"phrase": "whole-number"} if kind is int else None
            values = {"name": name, "found": self.shown(node), "whole": whole, "least": least}
            self.problem("training-number", values, node)
            return 1
        return value

    @staticmethod
    def _in_range(value: float, least: int | None) -> bool:
        return (value > 0 if least is None else value >= least) and value < 1e12
