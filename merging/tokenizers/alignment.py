"""Putting every model's rows in the order of one vocabulary, where a recipe asks for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
from merging.tokenizers.transplant import Transplant, Transplanted
from merging.tokenizers.vocabulary import Vocabulary, differences

Checkpoints = Mapping[ModelReference, Checkpoint]
Layouts = Mapping[ModelReference, Layout]


class Aligned(NamedTuple):
    """What alignment found.

    Args:
        vocabulary: of the result; None where it stays the models' own
        alignments: of the models whose rows change
        checkpoints: all models, as they are to be read
        transplant: that approximated rows; None where the recipe asks for none
    """

    vocabulary: Vocabulary | None
    alignments: dict[ModelReference, Alignment]
    checkpoints: dict[ModelReference, Checkpoint]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    transplant: Transplant | None = None


def align(
    section: TokenizerSection | None,
    checkpoints: Checkpoints,
    layouts: Layouts,
    base: ModelReference,
    merged: Collection[ModelReference],
) -> Aligned:
    """Put the rows of every model in the order that a recipe's tokenizer asks for.

    Args:
        section: of the recipe; None leaves all as it is
        checkpoints, layouts: of every model that takes part
        base: the model whose config the result has
        merged: the models whose tensors are merged; others only give tokens and rows
    """
    if section is None:
        return Aligned(None, {}, dict(checkpoints))
    problems: list[Problem] = []
    warnings: list[Problem] = []
    rows = {model: _rows(checkpoints[model], layouts[model]) for model in checkpoints}
    tokenizers = _tokenizers(checkpoints, rows, base, problems, warnings)
    if tokenizers.keys() != rows.keys():
        return Aligned(None, {}, dict(checkpoints), tuple(problems), tuple(warnings))
    if isinstance(section.source, ModelReference) and not (section.approximate or rows[section.source]):
        section = replace(section, approximate="subword")  # a tokenizer alone has no rows to give
    vocabulary = Vocabulary(section, tokenizers, rows, base)
    numbers = {model: number for number, model in enumerate(checkpoints)}
    transplant = Transplant(vocabulary, checkpoints, numbers) if section.approximate else None
    opened = tuple(checkpoints.values())
    by_token = {model: _by_token(checkpoints[model], layouts[model]) for model in checkpoints}
    # With rows of its own making a model needs no head for the rows of models that only give tokens.
    giving = [*merged] if transplant else [*checkpoints]
    heads = {name for model in giving for name in by_token[model] if OUTPUT_HEAD.search(name)}
    alignments: dict[ModelReference, Alignment] = {}
    aligned = dict(checkpoints)
    for model in giving:
        found = transplant.rows(model) if transplant else Transplanted(vocabulary.rows(model, numbers), ())
        if found.rows == (Rows(rows[model], ((numbers[model], 0),)),) and not vocabulary.padding:
            continue
        names = dict.fromkeys([*by_token[model], *(head for head in heads if layouts[model].tied(head))])
        tensors = {name: _namesakes(name, model, checkpoints, layouts) for name in names}
        alignment = Alignment(found.rows, vocabulary.padding, tensors, found.approximations)
        if misfit := _of_other_width(model, alignment, checkpoints):
            problems.append(misfit)
            continue
        alignments[model] = alignment
        aligned[model] = AlignedCheckpoint(checkpoints[model], alignment, opened)
    vocabulary.check()
    problems += vocabulary.problems
    warnings += vocabulary.warnings
    if transplant:
        problems += transplant.problems
        warnings += transplant.warnings
    return Aligned(vocabulary, alignments, aligned, tuple(problems), tuple(warnings), transplant)


def _of_other_width(model: ModelReference, alignment: Alignment, checkpoints: Checkpoints) -> Problem | None:
    """That a model is to get rows of another model that are longer or shorter than its own."""
    models = list(checkpoints)
    own = models.index(model)
    for run in alignment.rows:
        for giver in (number for number, _ in run.sources if number >= 0):
            for names in alignment.tensors.values():
                theirs = checkpoints[models[giver]].tensors.get(names[giver])
                ours = checkpoints[model].tensors[names[own]]
                if theirs and theirs.shape[1:] != ours.shape[1:]:
                    values = {
                        "model": str(model),
                        "giver": str(models[giver]),
                        "width": str(ours.shape[-1]),
                        "found": str(theirs.shape[-1]),
                    }
                    return Problem("rows-of-other-width", values, str(model))
    return None


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
    """What a tensor with a row a token is called in every model; a tied head is the embedding matrix.

    Models of other classes may give their head another name.
    """
    if name == layouts[model].embedding:
        return tuple(layouts[other].embedding or "" for other in checkpoints)

    def named(other: ModelReference) -> str:
        if name in checkpoints[other].tensors:
            return name
        found = _by_token(checkpoints[other], layouts[other]) if OUTPUT_HEAD.search(name) else []
        return layouts[other].tied(name) or next(filter(OUTPUT_HEAD.search, found), "")

    return tuple(map(named, checkpoints))
