"""Putting every model's rows in the order of one vocabulary, where a recipe asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from checkpoints import AlignedCheckpoint, Alignment, Checkpoint
from checkpoints.aligned import Rows
from checkpoints.architecture import HEAD_BIAS, OUTPUT_HEAD, Layout
from checkpoints.problems import CheckpointError, Problem
from checkpoints.tokenizer_files import tokenizer_files
from merging.recipe.recipe import ModelReference, TokenizerSection
from merging.tokenizers.tokenizer import Tokenizer, read_tokenizer
from merging.tokenizers.vocabulary import Vocabulary, differences

Checkpoints = Mapping[ModelReference, Checkpoint]
Layouts = Mapping[ModelReference, Layout]


class Aligned(NamedTuple):
    """What alignment found.

    Args:
        vocabulary: of the result; None where it stays the models' own
        alignments: of the models whose rows change
        checkpoints: all models, as they are to be read
    """

    vocabulary: Vocabulary | None
    alignments: dict[ModelReference, Alignment]
    checkpoints: dict[ModelReference, Checkpoint]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def align(
    section: TokenizerSection | None, checkpoints: Checkpoints, layouts: Layouts, base: ModelReference
) -> Aligned:
    """Put the rows of every model in the order that a recipe's tokenizer asks for.

    Args:
        section: of the recipe; None leaves all as it is
        checkpoints, layouts: of every model that takes part
        base: the model whose config the result has
    """
    if section is None:
        return Aligned(None, {}, dict(checkpoints))
    problems: list[Problem] = []
    warnings: list[Problem] = []
    rows = {model: _rows(checkpoints[model], layouts[model]) for model in checkpoints}
    tokenizers = _tokenizers(checkpoints, rows, base, problems, warnings)
    if tokenizers.keys() != rows.keys():
        return Aligned(None, {}, dict(checkpoints), tuple(problems), tuple(warnings))
    vocabulary = Vocabulary(section, tokenizers, rows, base)
    numbers = {model: number for number, model in enumerate(checkpoints)}
    opened = tuple(checkpoints.values())
    by_token = {model: _by_token(checkpoints[model], layouts[model]) for model in checkpoints}
    heads = {name for names in by_token.values() for name in names if OUTPUT_HEAD.search(name)}
    alignments: dict[ModelReference, Alignment] = {}
    aligned = dict(checkpoints)
    for model, checkpoint in checkpoints.items():
        found = vocabulary.rows(model, numbers)
        if found == (Rows(rows[model], ((numbers[model], 0),)),) and not vocabulary.padding:
            continue
        names = dict.fromkeys([*by_token[model], *(head for head in heads if layouts[model].tied(head))])
        tensors = {name: _namesakes(name, model, checkpoints, layouts) for name in names}
        alignments[model] = Alignment(found, vocabulary.padding, tensors)
        aligned[model] = AlignedCheckpoint(checkpoint, alignments[model], opened)
    vocabulary.check()
    problems += vocabulary.problems
    warnings += vocabulary.warnings
    return Aligned(vocabulary, alignments, aligned, tuple(problems), tuple(warnings))


def sizes(checkpoints: Checkpoints, layouts: Layouts) -> list[dict[str, Any]]:
    """How the models' vocabularies differ, as phrases; empty if their tokenizers cannot be read."""
    found = {}
    for model, checkpoint in checkpoints.items():
        with suppress(CheckpointError):
            found[model] = read_tokenizer(model, checkpoint)
    return differences(found, {model: _rows(checkpoints[model], layouts[model]) for model in found})


def _rows(checkpoint: Checkpoint, layout: Layout) -> int:
    """How many tokens a model has rows for."""
    return checkpoint.tensors[layout.embedding].shape[0] if layout.embedding else 0


def _tokenizers(
    checkpoints: Checkpoints,
    rows: Mapping[ModelReference, int],
    base: ModelReference,
    problems: list[Problem],
    warnings: list[Problem],
) -> dict[ModelReference, Tokenizer]:
    """Of every model; one without any, and with as many rows as the base, is taken to have the base's."""
    found: dict[ModelReference, Tokenizer] = {}
    for model in (base, *(other for other in checkpoints if other != base)):
        checkpoint = checkpoints[model]
        if base in found and not tokenizer_files(checkpoint.files) and rows[model] == rows[base]:
            warnings.append(Problem("tokenizer-assumed", {"model": str(model), "base": str(base)}))
            found[model] = replace(found[base], model=model)
            continue
        try:
            found[model] = read_tokenizer(model, checkpoint)
        except CheckpointError as error:
            problems += error.problems
    return {model: found[model] for model in checkpoints if model in found}


def _by_token(checkpoint: Checkpoint, layout: Layout) -> list[str]:
    """The tensors of a model that have a row a token."""
    count = _rows(checkpoint, layout)
    return [
        name
        for name, header in checkpoint.tensors.items()
        if header.shape[:1] == (count,)
        and (name == layout.embedding or OUTPUT_HEAD.search(name) or HEAD_BIAS.search(name))
    ]


def _namesakes(
    name: str, model: ModelReference, checkpoints: Checkpoints, layouts: Layouts
) -> tuple[str, ...]:
    """What a tensor with a row a token is called in every model; a tied head is the embedding matrix."""
    if name == layouts[model].embedding:
        return tuple(layouts[other].embedding or "" for other in checkpoints)
    return tuple(
        name if name in checkpoints[other].tensors else layouts[other].tied(name) or ""
        for other in checkpoints
    )
