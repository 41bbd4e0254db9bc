"""Names that mean the same tensor although they differ before its layer, where no class says so.

A model is `language_model.model.layers.` in one file and `model.language_model.layers.` in another. What follows the
number of the layer is the same, and the words before it are mostly the same, in another order.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from checkpoints.loading import Loading, Part, Shape

# How packed experts are called that are in files one by one: parameter, matrices that it stacks.
EXPERT_MATRICES = {
    "gate_up_proj": (("gate_proj", "w1"), ("up_proj", "w3")),
    "down_proj": (("down_proj", "w2"),),
}
EXPERT = re.compile(r"(?P<holder>.*\bexperts)\.(?P<number>\d+)\.(?P<matrix>\w+)\.weight")


class Endings:
    """Names by what they end in.

    Args:
        names: with dots
    """

    def __init__(self, names: Iterable[str]):
        self._found: Mapping[str, list[str]] = defaultdict(list)
        for name in names:
            words = name.split(".")
            for begin in range(len(words) - 1):
                self._found[".".join(words[begin:])].append(name)

    def nearest(self, wanted: str, least: int | None = None) -> str | None:
        """The one name that ends in most of another one's words.

        Of several the one whose other words are most nearly the same; None if that leaves more than one.

        Args:
            least: how many words have to be the same; None: its layer and all that follows, the word before a layer
                included
        """
        words = wanted.split(".")
        layer = next((i for i, word in enumerate(words) if word.isdigit() or word == "*"), len(words) - 1)
        for begin in range(max(layer, 1) if least is None else len(words) - least + 1):
            if named := self._found.get(".".join(words[begin:])):
                return _only(named, words[:begin], len(words) - begin)
        return None


def _only(names: Sequence[str], before: Sequence[str], count: int) -> str | None:
    """The name whose words before the last `count` have most in common with these."""
    shared = {name: (Counter(before) & Counter(name.split(".")[:-count])).total() for name in names}
    best = [name for name in names if shared[name] == max(shared.values())]
    return best[0] if len(best) == 1 else None


def assume_loading(shapes: Mapping[str, Shape]) -> Loading:
    """How a model is loaded whose class is not known: experts become one parameter, all else keeps its name.

    Args:
        shapes: of the stored tensors, by name
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    experts: dict[str, dict[tuple[int, str], str]] = defaultdict(dict)
    for name in shapes:
        if match := EXPERT.fullmatch(name):
            experts[match["holder"]][int(match["number"]), match["matrix"]] = name
    parameters: dict[str, tuple[Part, ...]] = {}
    whole: dict[str, Shape] = {}
    for holder, found in experts.items():
        count = 1 + max(number for number, _ in found)
        for parameter, matrices in EXPERT_MATRICES.items():
            words = [next((word for word in known if (0, word) in found), "") for known in matrices]
            names = [found.get((number, word), "") for number in range(count) for word in words]
            if all(names):
                height = sum(shapes[name][0] for name in names[: len(words)])
                whole[f"{holder}.{parameter}"] = (count, height, *shapes[names[0]][1:])
                parameters[f"{holder}.{parameter}"] = tuple(Part(name, 0, sizes[name]) for name in names)
    packed = {part.tensor for parts in parameters.values() for part in parts}
    for name, shape in shapes.items():
        if name not in packed:
            parameters[name], whole[name] = (Part(name, 0, sizes[name]),), shape
    return Loading(parameters, {}, whole, {}, frozenset())
