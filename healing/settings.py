"""The training of a chain: its last document, told by its key `train`.

    merge_method: passthrough
    slices: [...]
    ---
    train: distillation
    datasets: [{path: heal.jsonl}]
    arguments: {max_steps: 400, learning_rate: 2.0e-4}
    evaluate: {texts: english}

Arguments have the names that TRL and transformers give them. A `name:` lets later documents use the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import yaml

from checkpoints.problems import Place, Problem, RecipeError, suggestion
from merging.recipe.reader import read_nodes
from merging.recipe.recipe import Recipe
from merging.recipe.yaml import YamlReader, place_of

_KEYS = ("train", "name", "teacher", "datasets", "arguments", "weights", "hidden_states", "top_k", "evaluate")
_DATASET = ("path", "name", "split", "column", "rows")
_EVALUATE = ("texts", "stop_above")
# Rows that were kept apart from training, as a text to judge on.
HELD_OUT = "held-out"


@dataclass(frozen=True)
class Kind:
    """A kind of training.

    Args:
        name: as `train:` says it
        imitates: whether a teacher is imitated
        rows: what its data sets hold: texts (or conversations), conversations, or preferences
        by_trl: whether TRL prepares the rows and computes the loss
        loss: names and types of arguments that only this kind has, as TRL calls them
    """

    name: str
    imitates: bool
    rows: Literal["texts", "conversations", "preferences"]
    by_trl: bool
    loss: Mapping[str, type]


KINDS = {
    kind.name: kind
    for kind in (
        Kind("distillation", True, "texts", False, {"temperature": float}),
        Kind("gold", True, "conversations", True, {"temperature": float, "uld_use_hybrid_loss": bool}),
        Kind("sft", False, "texts", True, {"completion_only_loss": bool, "assistant_only_loss": bool}),
        Kind("dpo", False, "preferences", True, {"beta": float, "loss_type": str, "label_smoothing": float}),
        Kind("orpo", False, "preferences", True, {"beta": float}),
    )
}
# What is trained: a LoRA on every linear layer but the head, the silent copies of a stack, or everything.
Weights = Literal["lora", "copies", "all"]
WEIGHTS: tuple[Weights, ...] = ("lora", "copies", "all")


@dataclass(frozen=True)
class Dataset:
    """Rows to train on.

    Args:
        path: a file (.txt, .jsonl), "python-topics" for the manual that comes with Python, or "owner/name" on the Hub
        name: configuration of a data set on the Hub
        split, rows: of that
        column: that holds the text, where a row has no `messages`, `prompt` or `chosen`
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
    """Numbers of a training run, for every kind.

    Args:
        max_steps: how often the weights are updated
        learning_rate: the highest; it grows over `warmup_steps`, and falls to a twentieth at the end
        per_device_train_batch_size: sequences, rows or pairs a step
        max_length: tokens in a sequence; where it is not given, at most the model's context
        lora_r: rank of the adapter
        lora_alpha: its change is scaled by this divided by the rank
        warmup_steps: see `learning_rate`; where it is not given, a twentieth of `max_steps`
        max_grad_norm: longer gradients are shortened to this length
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
    save_steps: int = 10
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Read by the whole run, at most."""
        return self.max_steps * self.per_device_train_batch_size * self.max_length


# Losses of `dpo`, as TRL calls them.
DPO_LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip


@dataclass(frozen=True)
class _Range:
    """The least and the greatest value of a number; `least` None: above 0."""

    least: float | None
    most: float


_RANGES = {
    "max_steps": _Range(1, 1_000_000),
    "learning_rate": _Range(None, 1),
    "per_device_train_batch_size": _Range(1, 65_536),
    "max_length": _Range(2, 1 << 20),  # a token, and one that follows it
    "lora_r": _Range(1, 65_536),
    "lora_alpha": _Range(1, 65_536),
    "warmup_steps": _Range(0, 1_000_000),
    "max_grad_norm": _Range(None, 1_000_000),
    "save_steps": _Range(1, 1_000_000),
    "seed": _Range(0, 2**32 - 1),  # of NumPy's
    "temperature": _Range(0.01, 100),
    "beta": _Range(None, 1000),
    "label_smoothing": _Range(0, 0.49),  # at a half, both answers are as good
    "hidden_states": _Range(0, 1_000_000),
    "top_k": _Range(0, 1_000_000),
    "rows": _Range(1, 10_000_000),
    "stop_above": _Range(None, 1_000_000),
}


@dataclass(frozen=True)
class Training:
    """What to train and how.

    Args:
        recipe: of the model to train
        recipe_text: its YAML
        text: of the whole chain
        kind: how
        datasets: rows to train on
        name: by which later documents of a chain use the result; empty where none does
        arguments: numbers
        loss: arguments of this kind alone, as they are given
        weights: what is trained; None: copies of a silent stack, else a LoRA
        teacher: model that is imitated; None: the only parent
        hidden_states: weight of the cosine distance of hidden states beside the divergence of predictions
        top_k: predictions of the teacher that are stored for each token before training, and the sum of the rest; 0
            for a teacher that runs beside the student
        texts: names of the bundled texts, files, or `HELD_OUT`, to judge on
        stop_above: a result is not written if its perplexity divided by the teacher's is above this
        places: where the keys and arguments that are given are in the text
    """

    recipe: Recipe
    recipe_text: str
    text: str
    kind: Kind
    datasets: tuple[Dataset, ...]
    name: str = ""
    arguments: Arguments = Arguments()
    loss: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights | None = None
    teacher: str | None = None
    hidden_states: float = 0.0
    top_k: int = 0
    texts: tuple[str, ...] = ("english", "korean")
    stop_above: float | None = None
    places: Mapping[str, Place | str] = field(default_factory=dict, compare=False)

    @property
    def document(self) -> str:
        """The YAML of the training alone, with the line that separates it from the recipe."""
        return self.text.removeprefix(self.recipe_text)


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
    if not is_training(last) or not before or any(map(is_training, before)):
        raise RecipeError(Problem("no-training", {}, Place(last.start_mark.line + 1, 1)))
    found = reader.training(last)
    if reader.problems:
        raise RecipeError(reader.problems)
    lines = text.splitlines(keepends=True)
    ends = max(i for i in range(last.start_mark.line + 1) if lines[i].startswith("---"))
    recipe_text = "".join(lines[:ends])
    return Training(read_nodes(before, recipe_text), recipe_text, text, **found)


def is_training(node: yaml.Node) -> bool:
    """Whether a document is one of training."""
    return isinstance(node, yaml.MappingNode) and any(key.value == "train" for key, _ in node.value)


class _Reader(YamlReader):
    """Reads the fields of a training document."""

    def training(self, node: yaml.Node) -> Mapping[str, Any]:
        given = self.mapping(node, "`train`", _KEYS) or {}
        name = self.text_of(given["train"], "`train`") if "train" in given else None
        kind = KINDS.get(name or "")
        if kind is None:
            values = {"given": str(name), "known": list(KINDS)}
            self.problem("training-kind", values, given.get("train", node))
            return {}
        found: dict[str, Any] = {"kind": kind, "places": {key: place_of(one) for key, one in given.items()}}
        found["datasets"] = self.sequence(given.get("datasets"), "datasets", self.dataset)
        if not found["datasets"] and not self.problems:
            self.problem("no-training-data", {}, node)
        for key in ("teacher", "name"):
            if key in given:
                found[key] = self.text_of(given[key], f"`{key}`")
        if "arguments" in given:
            found |= self.arguments(given["arguments"], kind, found["places"])
        if "weights" in given:
            found["weights"] = self.weights(given["weights"])
        found |= self.of_distillation(given, kind)
        found.setdefault("texts", Training.texts if kind.imitates else (HELD_OUT,))
        if "evaluate" in given:
            found |= self.evaluate(given["evaluate"])
        return found

    def of_distillation(self, given: Mapping[str, yaml.Node], kind: Kind) -> dict[str, Any]:
        """The keys that only a teacher beside the student, or its stored predictions, have a use for."""
        found: dict[str, Any] = {}
        for key, type_ in (("hidden_states", float), ("top_k", int)):
            if key in given and kind.name != "distillation":
                self.problem("only-distillation", {"name": key, "kind": kind.name}, given[key])
            elif key in given:
                found[key] = self.number(given[key], key, type_)
        if found.get("hidden_states") and found.get("top_k"):
            self.problem("stored-without-states", {}, given["top_k"])
        return found

    def weights(self, node: yaml.Node) -> str:
        found = self.text_of(node, "`weights`")
        if found not in WEIGHTS:
            self.problem("training-weights", {"given": str(found), "known": list(WEIGHTS)}, node)
        return str(found)

    def dataset(self, node: yaml.Node) -> Dataset | None:
        given = self.mapping(node, "`datasets`", _DATASET) or {}
        if "path" not in given:
            self.problem("no-training-data", {}, node)
            return None
        read: dict[str, Any] = {
            key: self.number(value, key, int) if key == "rows" else self.text_of(value, f"`{key}`") or ""
            for key, value in given.items()
        }
        return Dataset(**read, where=place_of(node))

    def arguments(self, node: yaml.Node, kind: Kind, places: dict[str, Place | str]) -> dict[str, Any]:
        kinds = {one.name: type(one.default) for one in fields(Arguments)}
        given = self.mapping(node, "`arguments`", (*kinds, *kind.loss)) or {}
        read = {
            key: self.argument(value, key, kinds.get(key) or kind.loss[key]) for key, value in given.items()
        }
        places |= {key: place_of(value) for key, value in given.items()}
        common = {key: value for key, value in read.items() if key in kinds}
        steps = common.get("max_steps", Arguments.max_steps)
        if common.setdefault("warmup_steps", steps // 20) > steps and not self.problems:
            self.problem(
                "warmup-too-long", {"warmup": common["warmup_steps"], "steps": steps}, given["warmup_steps"]
            )
        return {
            "arguments": Arguments(**common),
            "loss": {key: value for key, value in read.items() if key not in kinds},
        }

    def argument(self, node: yaml.Node, name: str, kind: type) -> Any:
        if kind is bool:
            value = self.plain(node)
            if not isinstance(value, bool):
                self.problem("training-switch", {"name": name, "found": self.shown(node)}, node)
            return value
        if kind is str:
            value = self.text_of(node, f"`{name}`")
            if value is not None and value not in DPO_LOSSES:
                self.problem("training-loss", {"given": value, **suggestion(value, DPO_LOSSES)}, node)
            return value
        return self.number(node, name, kind)

    def evaluate(self, node: yaml.Node) -> dict[str, Any]:
        given = self.mapping(node, "`evaluate`", _EVALUATE) or {}
        found: dict[str, Any] = {}
        if "texts" in given:
            texts = given["texts"]
            names: Sequence[str | None] = (
                self.sequence(texts, "texts", lambda one: self.text_of(one, "`texts`"))
                if isinstance(texts, yaml.SequenceNode)
                else [self.text_of(texts, "`texts`")]
            )
            found["texts"] = tuple(name for name in names if name)
        if "stop_above" in given:
            found["stop_above"] = self.number(given["stop_above"], "stop_above", float)
        return found

    def number(self, node: yaml.Node, name: str, kind: type) -> Any:
        """A number of this kind, in its range."""
        value, allowed = self.plain(node), _RANGES[name]
        is_number = isinstance(value, int) if kind is int else isinstance(value, int | float)
        if is_number and not isinstance(value, bool) and _is_in(allowed, value):
            return value
        whole = {"phrase": "whole-number"} if kind is int else None
        values = {
            "name": name,
            "found": self.shown(node),
            "whole": whole,
            "least": allowed.least,
            "most": allowed.most,
        }
        self.problem("training-number", values, node)
        return 1


def _is_in(allowed: _Range, value: Any) -> bool:
    above = value > 0 if allowed.least is None else value >= allowed.least
    return bool(above and value <= allowed.most)
