"""The plan as people read it: what will be made and what it costs, or what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from checkpoints.memory import free_memory
from checkpoints.problems import some
from merging import METHODS, Plan, Problem
from merging.plan import PlannedModel
from merging.tokenizers.report import TokenizerReport
from ui.hub.licences import FREE, NON_COMMERCIAL, OWN_TERMS, SHARE_ALIKE, Parent, strictest, strictness
from ui.languages.translate import t
from ui.merge.lineage import lineage
from ui.server.gpu import USUAL_ANSWER, seconds_to_answer
from ui.widgets.html import card, count, duration, heading, problem_list, quiet, size, text


@dataclass(frozen=True)
class Surroundings:
    """What a plan's card says beside the plan.

    Args:
        parents: what their cards say
        result: name of what will be made
        on_space: whether it will run on a Space
        on_zero_gpu: whether that Space asks for its visitors' GPU quota
    """

    parents: tuple[Parent, ...] = ()
    result: str = ""
    on_space: bool = False
    on_zero_gpu: bool = False


def empty_card() -> str:
    """Before there is a plan."""
    return card(quiet(t("plan.waiting")))


def problems_card(problems: Sequence[Problem]) -> str:
    """Everything that stands in the way."""
    many = len(problems) != 1
    title = t("plan.bad.many", count=len(problems)) if many else t("plan.bad.one")
    return card(heading(title, 2) + problem_list(problems), "bad")


def plan_card(plan: Plan, around: Surroundings | None = None) -> str:
    """A plan, good or not."""
    if not plan.ok:
        return problems_card(plan.problems)
    around = around or Surroundings()
    warnings = (
        f'<p class="alloy-quiet">{text(t("plan.warning.one"))}</p>{problem_list(plan.warnings)}'
        if plan.warnings
        else ""
    )
    where = f'<p class="alloy-quiet">{text(_where(plan, around))}</p>'
    body = _facts(plan) + where + _models(plan, around.parents) + _licence(around.parents) + warnings
    if plan.tokenizer:
        body += _tokenizer(plan.tokenizer)
    return card([heading(t("plan.good"), 2), Markup(body), Markup(_lineage(around))], "good")


def _where(plan: Plan, around: Surroundings) -> str:
    """Where it will run and why, and what that takes of a GPU quota."""
    said = t("plan.where.space" if around.on_space else "plan.where.laptop")
    if around.on_zero_gpu:
        said += " " + t("plan.where.chat", seconds=seconds_to_answer([plan.bytes_out], USUAL_ANSWER))
    return said


def _facts(plan: Plan) -> str:
    shards = t("plan.shards.one") if len(plan.shards) == 1 else t("plan.shards.many", count=len(plan.shards))
    models = len(plan.parents)
    source = t("plan.read.detail.many", count=models) if models != 1 else t("plan.read.detail.one")
    disk = t("plan.disk", size=size(plan.disk_bytes)) if plan.disk_bytes else t("plan.disk.none")
    free = free_memory()
    if plan.peak_memory_bytes > free:
        disk = t("plan.memory.short", free=size(free))
    facts = (
        ("plan.size", size(plan.bytes_out), t("plan.size.detail", tensors=len(plan.tensors), shards=shards)),
        ("plan.read", size(plan.bytes_in), source),
        ("plan.memory", size(plan.peak_memory_bytes), disk),
        ("plan.time", duration(plan.seconds), t("plan.time.detail")),
    )
    cells = (
        f"<div><dt>{text(t(key))}</dt><dd>{text(value)}<small>{text(detail)}</small></dd></div>"
        for key, value, detail in facts
    )
    return f'<dl class="alloy-facts">{"".join(cells)}</dl>'


def _models(plan: Plan, parents: Sequence[Parent]) -> str:
    licences = {parent.name: parent.licence or t("plan.licence.none") for parent in parents}

    def row(name: str, what: str, commit: str | None, number: str) -> str:
        licence = licences.get(name, "")
        return (
            f'<tr><th scope="row">{text(name)}<small>{text(what)} <code>{text((commit or "")[:7])}</code></small></th>'
            f'<td class="number">{number}</td><td>{text(licence)}</td></tr>'
        )

    def rows_of(model: PlannedModel) -> Iterator[str]:
        what = model.architecture
        if model.made_by:
            parts = ", ".join(part.name for part in model.made_by.models)
            what = t("plan.model.made", method=METHODS[model.made_by.method].title, parts=parts)
        yield row(model.name, what, model.commit, count(model.parameters))
        for adapter in model.adapters:
            key = "plan.model.adapter" if adapter.scale == 1 else "plan.model.adapter.scaled"
            what = t(key, model=model.name, scale=f"{adapter.scale:g}")
            yield row(adapter.name, what, adapter.commit, count(adapter.bytes // 4))

    made = [model for model in plan.models if model.made_by]
    rows = "".join(each for model in (*made, *plan.parents) for each in rows_of(model))
    head = (
        f'<th scope="col">{text(t("plan.model.name"))}</th>'
        f'<th scope="col" class="number">{text(t("plan.model.parameters"))}</th>'
        f'<th scope="col">{text(t("plan.licence"))}</th>'
    )
    return f'<table class="alloy-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _tokenizer(report: TokenizerReport) -> str:
    """What becomes of the tokenizers, folded: side by side, with a conversation as the result's template writes it."""
    begins = t(
        "plan.tokenizer.begins", name=report.begins_with, tokens=f"{report.tokens:,}", rows=f"{report.rows:,}"
    )
    if report.appended:
        begins += " " + t("plan.tokenizer.appended", tokens=some(report.appended))
    keys = ("plan.model.name", "plan.tokenizer.tokens", "plan.tokenizer.unknown", "plan.tokenizer.lost")
    last = ("plan.tokenizer.special", "plan.tokenizer.template")
    head = "".join(
        f'<th scope="col"{" class=number" * (0 < place < len(keys))}>{text(t(key))}</th>'
        for place, key in enumerate((*keys, *last))
    )
    rows = ""
    for model in report.models:
        numbers = "".join(f'<td class="number">{n:,}</td>' for n in (model.tokens, model.unknown, model.lost))
        special = ", ".join(f"{role} {token or '–'}" for role, token in model.special.items()) or "–"
        rows += (
            f'<tr><th scope="row">{text(model.name)}</th>{numbers}<td>{text(special)}</td>'
            f"<td>{text(t(f'plan.tokenizer.template.{model.template}'))}</td></tr>"
        )
    table = f'<table class="alloy-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    sample = (
        f'<p class="alloy-quiet">{text(t("plan.tokenizer.sample"))}</p><pre>{text(report.sample)}</pre>'
        if report.sample
        else ""
    )
    return (
        f"<details><summary>{text(t('plan.tokenizer'))}</summary><p>{text(begins)}</p>"
        f'<div class="alloy-scroll" tabindex="0">{table}</div>{sample}</details>'
    )


def _licence(parents: Sequence[Parent]) -> str:
    worst = strictest(parents)
    if worst is None:
        return ""
    key = {
        FREE: "plan.licence.free",
        SHARE_ALIKE: "plan.licence.share",
        OWN_TERMS: "plan.licence.own",
        NON_COMMERCIAL: "plan.licence.noncommercial",
    }.get(strictness(worst.licence), "plan.licence.unknown")
    mood = "alloy-quiet" if strictness(worst.licence) == FREE else "alloy-heed"
    return f'<p class="{mood}">{text(t(key, licence=worst.licence, name=worst.name))}</p>'


def _lineage(around: Surroundings) -> str:
    if not around.parents or not around.result:
        return ""
    title = f'<h3 class="alloy-part">{text(t("plan.lineage"))}</h3>'
    return title + lineage(around.parents, around.result)
