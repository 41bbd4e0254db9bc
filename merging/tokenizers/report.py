"""What becomes of the tokenizers, for people to look at before a merge: whose tokens, which of them are special, and
how a conversation looks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from checkpoints import Checkpoint
from checkpoints.checkpoint import read_mapping
from checkpoints.problem_texts import WORDING
from checkpoints.problems import Problem
from checkpoints.wording import few
from merging.tokenizers.chat_preview import rendered
from merging.tokenizers.pieces import digits
from merging.tokenizers.tokenizer import ROLES, Tokenizer, special_tokens
from merging.tokenizers.transplant import Transplant
from merging.tokenizers.vocabulary import Vocabulary

# How chat formats mark turns, where they do it with tokens of their own.
_MARKS = re.compile(r"<\|[^<>|\s]+\|>")

Template = Literal["none", "same", "other"]


@dataclass(frozen=True)
class TokenizerOf:
    """A model's tokenizer beside the result's.

    Args:
        name: of the model
        tokens: how many it has
        rows: how many its weights have
        unknown: how many tokens of the result it does not have
        lost: how many of its tokens the result does not have
        special: its special tokens that differ from the result's, by their role; empty where it has none there
        template: its chat template: none, the result's, or another
        common: how many tokens of the result it has a row for, by what they stand for; None where no row is
            approximated
        digits: the pieces of a number of seven digits, where rows are approximated
    """

    name: str
    tokens: int
    rows: int
    unknown: int
    lost: int
    special: Mapping[str, str]
    template: Template
    common: int | None = None
    digits: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenizerReport:
    """The tokenizer of a result.

    Args:
        begins_with: the model whose tokenizer it is, or begins with
        tokens: how many it has
        rows: how many the weights have
        appended: tokens behind those of that model
        special: its special tokens, by their role
        sample: a conversation by its chat template; empty without one
        trouble: what is wrong with the chat template; None if nothing is
        models: those that take part
        digits: the pieces of a number of seven digits, where rows are approximated
    """

    begins_with: str
    tokens: int
    rows: int
    appended: tuple[str, ...]
    special: Mapping[str, str]
    sample: str
    trouble: Problem | None
    models: tuple[TokenizerOf, ...]
    digits: tuple[str, ...] = ()

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Self:
        """From what `asdict` made of it, by way of JSON."""
        models = tuple(TokenizerOf(**{**model, "digits": tuple(model["digits"])}) for model in data["models"])
        trouble = data["trouble"] and Problem.from_data(data["trouble"])
        lists = {key: tuple(data[key]) for key in ("appended", "digits")}
        return cls(**{**data, **lists, "models": models, "trouble": trouble})


def tokenizer_report(
    vocabulary: Vocabulary,
    checkpoints: Mapping[Any, Checkpoint],
    template: str | None,
    transplant: Transplant | None = None,
) -> TokenizerReport:
    """Compare the result's tokenizer with those of the models.

    Args:
        vocabulary: of the result
        checkpoints: of the models, by reference
        template: the result's chat template
        transplant: that approximated rows; None where none is
    """
    special = special_tokens(checkpoints[vocabulary.start.model])
    text, error = rendered(template, special) if template else ("", "")
    trouble = None
    if error:
        trouble = Problem("template", {"error": error})
    elif missing := [mark for mark in dict.fromkeys(_MARKS.findall(text)) if mark not in vocabulary.ids]:
        trouble = Problem("template-tokens", {"tokens": few(missing)})

    def beside(tokenizer: Tokenizer) -> TokenizerOf:
        checkpoint = checkpoints[tokenizer.model]
        own, found = special_tokens(checkpoint), chat_template(checkpoint)
        same = (found or "").strip() == (template or "").strip()
        return TokenizerOf(
            str(tokenizer.model),
            len(tokenizer.ids),
            vocabulary.own_rows[tokenizer.model],
            len(vocabulary.ids.keys() - tokenizer.ids.keys()),
            len(tokenizer.ids.keys() - vocabulary.ids.keys()),
            {role: own.get(role, "") for role in ROLES if own.get(role) != special.get(role)},
            "none" if found is None else "same" if same else "other",
            transplant.common[tokenizer.model] if transplant else None,
            digits(tokenizer, checkpoint) if transplant else (),
        )

    return TokenizerReport(
        str(vocabulary.start.model),
        len(vocabulary.ids),
        vocabulary.size,
        tuple(token["content"] for token in vocabulary.appended),
        special,
        text,
        trouble,
        tuple(beside(tokenizer) for tokenizer in vocabulary.tokenizers.values()),
        digits(vocabulary.start, checkpoints[vocabulary.start.model]) if transplant else (),
    )


def digits_differ(report: TokenizerReport) -> list[Problem]:
    """That models split numbers in another way than the result, which their layers have not learnt to reckon with."""
    return [
        Problem(
            "digits-differ",
            {"model": model.name, "own": " ".join(model.digits), "result": " ".join(report.digits)},
            model.name,
        )
        for model in report.models
        if model.digits and report.digits and model.digits != report.digits
    ]


def chat_template(checkpoint: Checkpoint) -> str | None:
    """The template that a model's tokenizer uses by itself."""
    if "chat_template.jinja" in checkpoint.files:
        text: str = checkpoint.read_file("chat_template.jinja").decode(errors="replace")
        return text
    for file in ("chat_template.json", "tokenizer_config.json"):
        template = read_mapping(checkpoint, file).get("chat_template")
        if isinstance(template, list):
            named = (one for one in template if isinstance(one, dict))
            template = next((one.get("template") for one in named if one.get("name") == "default"), None)
        if isinstance(template, str):
            return template
    return None


def in_lines(report: TokenizerReport) -> list[str]:
    """The report for a terminal."""
    roles = ", ".join(f"{role} {token}" for role, token in report.special.items())
    appended = WORDING.format("{names:few}", names=few(report.appended))
    more = f", and {len(report.appended)} more ({appended})" if report.appended else ""
    lines = [f"tokenizer     {report.tokens:,} tokens in {report.rows:,} rows: {report.begins_with}'s{more}"]
    lines += [f"  special     {roles}"] if roles else []
    lines += [f"  numbers     {' '.join(report.digits)}"] * bool(report.digits)
    for model in report.models:
        told = [f"{model.tokens:,} tokens in {model.rows:,} rows"]
        if model.common is None:
            told += [f"{model.unknown:,} of the result unknown to it"] * (model.unknown > 0)
            told += [f"{model.lost:,} lost"] * (model.lost > 0)
        else:
            share = model.common / max(report.tokens, 1)
            told.append(f"{model.common:,} of the result's in common ({share:.0%})")
        told += [f"numbers as {' '.join(model.digits)}"] * bool(model.digits)
        told += [f"{role} {token or 'none'}" for role, token in model.special.items()]
        told += {"none": ["no chat template"], "other": ["another chat template"], "same": []}[model.template]
        lines.append(f"  {model.name}: {', '.join(told)}")
    if report.sample:
        lines += ["  a conversation:", *(f"    | {line}" for line in report.sample.splitlines())]
    return lines
