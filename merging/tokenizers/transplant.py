"""Rows for the tokens that a model does not have, made of its own: the `approximate` of a recipe's tokenizer.

A token is a model's own where the bytes are the same, or the role: `<s>` and `<|begin_of_text|>` both begin a text. Of
the others, `omp` and `nearest` ask a guide: a model that has a row for the token. What no guide knows is cut into
pieces, and what has no pieces gets the average row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from checkpoints import Checkpoint
from checkpoints.aligned import Rows
from checkpoints.approximation import Approximation, Guided, Mean, Subword
from checkpoints.problems import CheckpointError, Problem
from merging.recipe.recipe import ModelReference
from merging.tokenizers.pieces import Cut, cut_by
from merging.tokenizers.spelling import is_byte, spelling_of, text_of
from merging.tokenizers.tokenizer import Tokenizer, special_tokens
from merging.tokenizers.vocabulary import AVERAGE, ZEROS, Vocabulary, runs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What a token means: whether it is special, and its bytes.
Meaning = tuple[bool, bytes]


class Transplanted(NamedTuple):
    """Where a model's rows for the tokens of the result come from."""

    rows: tuple[Rows, ...]
    approximations: tuple[Approximation, ...]


class Transplant:
    """Finds what the rows of tokens are made of that a model does not have.

    Args:
        vocabulary: of the result
        checkpoints: of the models
        numbers: of the models

    Attributes:
        problems, warnings: what prevents it, and what the user should know
        common: tokens of the result that each model has a row for
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        checkpoints: Mapping[ModelReference, Checkpoint],
        numbers: Mapping[ModelReference, int],
    ):
        self.vocabulary = vocabulary
        self.checkpoints = checkpoints
        self.numbers = numbers
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._places: dict[ModelReference, NDArray[np.int64]] = {}

    @property
    def common(self) -> dict[ModelReference, int]:
        return {model: int((self.places(model) >= 0).sum()) for model in self.numbers}

    @cached_property
    def meanings(self) -> list[Meaning | None]:
        """What each token of the result means; None for numbers without a token."""
        vocabulary = self.vocabulary
        meanings = _meanings(vocabulary.start)
        appended = {token["content"]: bool(token["special"]) for token in vocabulary.appended}
        return [
            (appended[token], token.encode()) if token in appended else meanings.get(token)
            for token in vocabulary.tokens
        ]

    def places(self, model: ModelReference) -> NDArray[np.int64]:
        """The model's row for each token of the result; -1 where it has none."""
        if model not in self._places:
            self._places[model] = self._find(self.vocabulary.tokenizers[model])
        return self._places[model]

    def _find(self, own: Tokenizer) -> NDArray[np.int64]:
        import numpy as np

        vocabulary = self.vocabulary
        by_meaning = _by_meaning(own)
        literal = {token["content"] for token in vocabulary.appended} | vocabulary.start.added.keys()
        found = [
            own.ids[token]
            if token in literal and token in own.ids
            else by_meaning.get(meaning or (True, b""), -1)
            for token, meaning in zip(vocabulary.tokens, self.meanings, strict=True)
        ]
        roles = special_tokens(self.checkpoints[own.model])
        for role, token in special_tokens(self.checkpoints[vocabulary.start.model]).items():
            number = vocabulary.ids.get(token)
            if number is not None and found[number] < 0:
                found[number] = own.ids.get(roles.get(role, ""), -1)
        places = np.array(found, np.int64)
        places[places >= vocabulary.own_rows[own.model]] = -1
        return places

    def rows(self, model: ModelReference) -> Transplanted:
        """Where a model's rows for the tokens of the result come from: its own where it has the token, else the row
        that the recipe names, else an approximation."""
        import numpy as np

        vocabulary = self.vocabulary
        places = self.places(model).copy()
        models = np.where(places >= 0, self.numbers[model], ZEROS)
        averages: dict[int, tuple[tuple[int, int], ...]] = {}
        lacking = []
        for token in np.flatnonzero(places < 0).tolist():
            if not vocabulary.says(token):
                lacking.append(token)
        for token in vocabulary.told(places):
            places[token], models[token] = -1, ZEROS
            found = tuple((self.numbers[source], row) for source, row in vocabulary.fallback(token))
            if len(found) == 1:
                [(models[token], places[token])] = found
            elif found:
                models[token], averages[token] = AVERAGE, found
        approximations: list[Approximation] = []
        for approximation, tokens in self._approximated(model, lacking):
            models[tokens] = -1 - len(approximations)
            places[tokens] = np.arange(len(tokens))
            approximations.append(approximation)
        return Transplanted(tuple(runs(models, places, averages)), tuple(approximations))

    def _approximated(
        self, model: ModelReference, lacking: Sequence[int]
    ) -> list[tuple[Approximation, list[int]]]:
        """Approximations of the rows of tokens, each with its tokens."""
        rule, k = self.vocabulary.section.approximate, self.vocabulary.section.k
        found: list[tuple[Approximation, list[int]]] = []
        rest = list(lacking)
        if rule in ("omp", "nearest"):
            by_guide, rest = self._by_guide(model, rest)
            for guide, tokens in by_guide.items():
                own, theirs = self.places(model), self.places(guide)
                [shared] = ((own >= 0) & (theirs >= 0)).nonzero()
                if not len(shared):
                    values = {"model": str(model), "guide": str(guide), "rule": rule}
                    self.problems.append(Problem("no-common-tokens", values, str(model)))
                    continue
                guided = Guided(
                    "omp" if rule == "omp" else "nearest",
                    min(k, len(shared)),
                    self.numbers[guide],
                    tuple(own[shared].tolist()),
                    tuple(theirs[shared].tolist()),
                    tuple(theirs[tokens].tolist()),
                )
                found.append((guided, tokens))
        pieces: dict[int, tuple[int, ...]] = {}
        if rule != "mean" and rest:
            pieces = self._pieces(model, rest)
            if pieces:
                found.append((Subword(tuple(pieces.values())), list(pieces)))
        if bare := [token for token in rest if token not in pieces]:
            limit = self.vocabulary.own_rows[model]
            last = max(
                (n for n in self.vocabulary.tokenizers[model].ids.values() if n < limit), default=limit - 1
            )
            found.append((Mean(len(bare), last + 1), bare))
        self._tell(model, found)
        return found

    def _by_guide(
        self, model: ModelReference, lacking: Sequence[int]
    ) -> tuple[dict[ModelReference, list[int]], list[int]]:
        """Tokens by the model whose rows guide their approximation, and those that no other model has."""
        vocabulary = self.vocabulary
        order = dict.fromkeys([vocabulary.start.model, vocabulary.base, *self.numbers])
        guides = [(guide, self.places(guide)) for guide in order if guide != model]
        by_guide: dict[ModelReference, list[int]] = defaultdict(list)
        rest: list[int] = []
        for token in lacking:
            guide = next((guide for guide, places in guides if places[token] >= 0), None)
            (rest if guide is None else by_guide[guide]).append(token)
        return dict(by_guide), rest

    def _pieces(self, model: ModelReference, tokens: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """The model's rows of the pieces of tokens; tokens without pieces are left out."""
        limit = self.vocabulary.own_rows[model]
        try:
            cut: Cut = cut_by(self.vocabulary.tokenizers[model], self.checkpoints[model])
        except CheckpointError as error:
            self.problems += error.problems
            return {}
        found = {}
        for token in tokens:
            meaning = self.meanings[token]
            rows = tuple(row for row in cut(meaning[1]) if row < limit) if meaning else ()
            if rows:
                found[token] = rows
        return found

    def _tell(self, model: ModelReference, found: Sequence[tuple[Approximation, list[int]]]) -> None:
        counts: dict[str, int] = defaultdict(int)
        for approximation, tokens in found:
            name = (
                approximation.rule
                if isinstance(approximation, Guided)
                else type(approximation).__name__.lower()
            )
            named = sum(self.meanings[token] is not None for token in tokens)
            counts[name] += named
        counts = {name: count for name, count in counts.items() if count}
        if counts:
            ways = [
                {"phrase": "approximated-by", "rule": name, "count": count} for name, count in counts.items()
            ]
            values = {
                "model": str(model),
                "count": sum(counts.values()),
                "tokens": len(self.vocabulary.ids),
                "ways": ways,
            }
            self.warnings.append(Problem("approximated-rows", values))


def _meanings(tokenizer: Tokenizer) -> dict[str, Meaning]:
    """What each token of a tokenizer means."""
    spelling = spelling_of(tokenizer)
    return {
        token: (bool(tokenizer.added[token].get("special")), token.encode())
        if token in tokenizer.added
        else (False, text_of(token, spelling))
        for token in tokenizer.ids
    }


def _by_meaning(tokenizer: Tokenizer) -> dict[Meaning, int]:
    """The number of each token by what it means; of two that mean the same, of the one that is no number of a byte."""
    spelling = spelling_of(tokenizer)
    found: dict[Meaning, int] = {}
    bytes_later = sorted(_meanings(tokenizer).items(), key=lambda item: is_byte(item[0], spelling))
    for token, meaning in bytes_later:
        found.setdefault(meaning, tokenizer.ids[token])
    return found
