"""The vocabulary of the result, and where each model's rows for it come from: mergekit's `tokenizer` section.

Tokens of other models are appended as added tokens, which are found in a text before it is split: whole words of
another vocabulary keep their rows, but the text is still split as the first tokenizer splits it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from checkpoints import Checkpoint
from checkpoints.aligned import Rows
from checkpoints.problems import Problem
from checkpoints.wording import few
from merging.recipe.recipe import ModelReference, TokenizerSection, TokenRow
from merging.tokenizers.tokenizer import LITERAL, Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

# In place of a model's number, for rows that are no model's: zeros, and averages of several. Other negative numbers are
# those of approximations, see `Rows`.
ZEROS, AVERAGE = -(2**40), -(2**40) - 1


class Vocabulary:
    """The tokens of the result.

    Args:
        section: of the recipe
        tokenizers: of every model that takes part, in the order of the recipe
        rows: that each model has for tokens
        base: the model that is the recipe's base, or its first

    Attributes:
        tokens: by number; empty for numbers without one
    """

    def __init__(
        self,
        section: TokenizerSection,
        tokenizers: Mapping[ModelReference, Tokenizer],
        rows: Mapping[ModelReference, int],
        base: ModelReference,
    ):
        self.section = section
        self.tokenizers = tokenizers
        self.own_rows = rows
        self.base = base
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.start = tokenizers[self._start()]
        self.ids = dict(self.start.ids)
        self.appended: list[dict[str, Any]] = []
        if section.source == "union":
            self._unite()
        for token in section.tokens:
            self._append(token, next((t for t in tokenizers.values() if token in t.added), self.start))
        real = 1 + max(self.ids.values(), default=-1)
        multiple = section.pad_to_multiple_of or 1
        self.padding = -real % multiple
        self.size = real + self.padding
        self.tokens = [""] * real
        for token, number in self.ids.items():
            self.tokens[number] = token
        self._fallbacks: dict[int, tuple[tuple[ModelReference, int], ...]] = {}

    # -- tokens ----------------------------------------------------------------------------------------

    def _start(self) -> ModelReference:
        """The model whose tokenizer the result's begins with."""
        source = self.section.source
        if isinstance(source, ModelReference):
            return source
        if source == "union":
            # One that has all tokens of the base, under the same numbers, and splits more text into longer ones.
            start = self.tokenizers[self.base]
            for model, tokenizer in self.tokenizers.items():
                if tokenizer.extends(start) and self.own_rows[model] > max(tokenizer.ids.values()):
                    start = tokenizer
            return start.model
        return self.base

    def _unite(self) -> None:
        for model, tokenizer in self.tokenizers.items():
            new = [
                token
                for token, number in sorted(tokenizer.ids.items(), key=lambda item: item[1])
                if token not in self.ids and number < self.own_rows[model]
            ]
            ordinary = [token for token in new if token not in tokenizer.added]
            if ordinary:
                values = {
                    "count": len(ordinary),
                    "model": str(model),
                    "start": str(self.start.model),
                    "tokens": few(quoted(ordinary)),
                }
                self.warnings.append(Problem("literal-tokens", values))
            for token in new:
                self._append(token, tokenizer)

    def _append(self, token: str, tokenizer: Tokenizer) -> None:
        if token in self.ids:
            return
        number = 1 + max(self.ids.values(), default=-1) if not self.appended else self.appended[-1]["id"] + 1
        self.appended.append({**LITERAL, **tokenizer.added.get(token, {}), "content": token, "id": number})
        self.ids[token] = number

    def translate(self, number: int) -> int | None:
        """The number in the result of a token that the base's config names by number."""
        token = self.tokenizers[self.base].token(number)
        return None if token is None else self.ids.get(token)

    # -- rows ------------------------------------------------------------------------------------------

    def rows(self, model: ModelReference, numbers: Mapping[ModelReference, int]) -> tuple[Rows, ...]:
        """Where a model's rows for the tokens of the result come from.

        Its own row where it has the token. Otherwise the row that the recipe names; else that of the only model with
        the token; else the base's; else the average over the models with it.

        Args:
            model: whose rows they are
            numbers: of the models
        """
        import numpy as np

        own, limit = self.tokenizers[model].ids, self.own_rows[model]
        places = np.fromiter((own.get(token, -1) for token in self.tokens), np.int64, len(self.tokens))
        places[places >= limit] = -1
        forced = [self.ids[token] for token, row in self.section.tokens.items() if row.force]
        places[forced] = -1
        models = np.where(places >= 0, numbers[model], ZEROS)
        averages: dict[int, tuple[tuple[int, int], ...]] = {}
        for token in np.flatnonzero(places < 0).tolist():
            found = tuple((numbers[source], row) for source, row in self.fallback(token))
            if len(found) == 1:
                [(models[token], places[token])] = found
            elif found:
                models[token], averages[token] = AVERAGE, found
        return tuple(runs(models, places, averages))

    def fallback(self, number: int) -> tuple[tuple[ModelReference, int], ...]:
        """The rows that a token gets in a model that does not have it."""
        if number not in self._fallbacks:
            self._fallbacks[number] = self._find(self.tokens[number])
        return self._fallbacks[number]

    def says(self, number: int) -> bool:
        """Whether the recipe names the row of a token."""
        row = self.section.tokens.get(self.tokens[number])
        return row is not None and (row.zero or row.model is not None)

    def told(self, places: NDArray[Any]) -> list[int]:
        """The tokens that get the row that the recipe names.

        Args:
            places: of a model's own rows, by token; -1 where it has none
        """
        rows = ((self.ids[token], row) for token, row in self.section.tokens.items())
        return [number for number, row in rows if self.says(number) and (row.force or places[number] < 0)]

    def _find(self, token: str) -> tuple[tuple[ModelReference, int], ...]:
        wanted = self.section.tokens.get(token)
        if wanted and wanted.zero:
            return ()
        if wanted and wanted.model:
            return self._named(token, wanted, wanted.model)
        having = tuple(
            (model, tokenizer.ids[token])
            for model, tokenizer in self.tokenizers.items()
            if tokenizer.ids.get(token, self.own_rows[model]) < self.own_rows[model]
        )
        of_base = tuple(pair for pair in having if pair[0] == self.base)
        return of_base if of_base and len(having) > 1 else having

    def _named(
        self, token: str, wanted: TokenRow, model: ModelReference
    ) -> tuple[tuple[ModelReference, int], ...]:
        name = token if wanted.token is None else wanted.token
        number = self.tokenizers[model].ids.get(name) if wanted.token_id is None else wanted.token_id
        if number is not None and number < self.own_rows[model]:
            return ((model, number),)
        if not any(problem.where == wanted.where for problem in self.problems):
            values = {"model": str(model), "source": name, "number": wanted.token_id, "token": token}
            code = "unknown-source-token" if wanted.token_id is None else "unknown-token-id"
            self.problems.append(Problem(code, values, wanted.where))
        return ()

    def check(self) -> None:
        """Report tokens that no model has a row for; call it after `rows` for every model."""
        empty = (self.tokens[number] for number, found in self._fallbacks.items() if not found)
        nowhere = [token for token in empty if token]
        unknown = [token for token in nowhere if token in self.section.tokens]
        for token in unknown:
            row = self.section.tokens[token]
            if not (row.zero or row.model):
                self.problems.append(Problem("unknown-token", {"token": token}, row.where))
        values = {
            "rows": self.size,
            "tokens": len(self.ids),
            "model": str(self.start.model),
            "count": len(self.appended) or None,
            "appended": few(quoted([token["content"] for token in self.appended])),
        }
        self.warnings.append(Problem("result-vocabulary", values))
        without = [token for token in nowhere if token not in unknown]
        if without:
            self.warnings.append(Problem("zero-rows", {"tokens": few(quoted(without))}))

    # -- files -----------------------------------------------------------------------------------------

    def documents(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The tokenizer's files that have to be rewritten, by name.

        Args:
            checkpoint: that the result's tokenizer begins with
        """
        return self.start.with_tokens(self.appended, checkpoint) if self.appended else {}


def runs(
    models: NDArray[Any], places: NDArray[Any], averages: Mapping[int, Sequence[tuple[int, int]]]
) -> Iterable[Rows]:
    """Rows that follow each other in one model, as runs.

    Args:
        models, places: for each row the number of a model and its row there
        averages: the sources of rows whose model is AVERAGE
    """
    import numpy as np

    goes_on = (models[1:] == models[:-1]) & ((places[1:] == places[:-1] + 1) | (models[1:] == ZEROS))
    goes_on &= models[1:] != AVERAGE
    starts = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    for first, end in zip(starts.tolist(), [*starts[1:].tolist(), len(models)], strict=True):
        number = int(models[first])
        if number == AVERAGE:
            yield Rows(1, tuple(averages[first]))
        else:
            yield Rows(end - first, () if number == ZEROS else ((number, int(places[first])),))


def differences(
    tokenizers: Mapping[ModelReference, Tokenizer], rows: Mapping[ModelReference, int]
) -> list[dict[str, Any]]:
    """What each vocabulary has that others lack, tokens and rows behind the last token, as phrases.

    Args:
        tokenizers: of models that can be read
        rows: that models have for tokens
    """
    common = (
        set.intersection(*(set(tokenizer.ids) for tokenizer in tokenizers.values())) if tokenizers else set()
    )
    parts = []
    for model, tokenizer in tokenizers.items():
        alone = [token for token in tokenizer.ids if token not in common]
        parts.append(
            {
                "phrase": "vocabulary-size",
                "model": str(model),
                "rows": rows[model],
                "tokens": len(tokenizer.ids),
                "lacking": len(alone) or None,
                "alone": few(quoted(alone)),
            }
        )
    return parts


def quoted(tokens: Sequence[str]) -> list[str]:
    return [f"'{token}'" for token in tokens]
