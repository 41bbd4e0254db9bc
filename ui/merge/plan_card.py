"""The plan as people read it: what will be made and what it costs, or what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from checkpoints.memory import free_memory
from checkpoints.wording import few
from merging import METHODS, Plan, Problem
from merging.licences import FREE, NON_COMMERCIAL, OWN_TERMS, SHARE_ALIKE, Parent, strictest, strictness
from merging.plan import PlannedModel
from merging.tokenizers.report import TokenizerReport
from ui.languages.translate import t
from ui.merge.lineage import lineage
from ui.server.gpu import USUAL_ANSWER, seconds_to_answer
from ui.widgets.html import (
    Content,
    card,
    column,
    count,
    duration,
    figure,
    folded,
    heading,
    part,
    problem_list,
    quiet,
    scrolling,
    size,
    table,
    table_row,
    tag,
)


@dataclass(frozen=True)
class Surroundings:
    """What a plan's card says besides the plan.

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


def no_plan_card() -> Markup:
    """Before there is a plan."""
    return card(quiet(t("plan.waiting")))


def problems_card(problems: Sequence[Problem], said: str = "") -> Markup:
    """Every problem of a plan, below what is to be said of them together."""
    about = tag.p(said) if said else None
    return card([heading(t("plan.bad", count=len(problems)), 2), about, problem_list(problems)], "bad")


def plan_card(plan: Plan, around: Surroundings | None = None) -> Markup:
    """A plan, good or not."""
    if not plan.ok:
        return problems_card(plan.problems)
    around = around or Surroundings()
    warnings = [quiet(t("plan.warnings")), problem_list(plan.warnings)] if plan.warnings else None
    body = [
        heading(t("plan.good"), 2),
        _facts(plan),
        quiet(_where(plan, around)),
        _models(plan, around.parents),
        _licence(around.parents),
        warnings,
        _tokenizer(plan.tokenizer) if plan.tokenizer else None,
        _lineage(around),
    ]
    return card(body, "good")


def _where(plan: Plan, around: Surroundings) -> str:
    """Where it will run and why, and what that takes of a GPU quota."""
    words = t("plan.where.space" if around.on_space else "plan.where.laptop")
    if around.on_zero_gpu:
        words += " " + t("plan.where.chat", seconds=seconds_to_answer([plan.bytes_out], USUAL_ANSWER))
    return words


def _facts(plan: Plan) -> Markup:
    shards = t("plan.shards", count=len(plan.shards))
    source = t("plan.read.detail", count=len(plan.parents))
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
    cells = [tag.div(tag.dt(t(key)), tag.dd(value, tag.small(detail))) for key, value, detail in facts]
    return tag.dl(cells, class_="alloy-facts")


def _models(plan: Plan, parents: Sequence[Parent]) -> Markup:
    licences = {parent.name: parent.licence or t("plan.licence.none") for parent in parents}
    made = [model for model in plan.models if model.made_by]
    rows = [_model_rows(model, licences) for model in (*made, *plan.parents)]
    columns = [
        column(t("plan.model.name")),
        column(t("plan.model.parameters"), of_figures=True),
        column(t("plan.licence")),
    ]
    return table(columns, rows)


def _model_rows(model: PlannedModel, licences: Mapping[str, str]) -> Iterator[Markup]:
    """A model, and each adapter that is applied to it."""

    def row(name: str, what: str, commit: str | None, parameters: int, is_cached: bool) -> Markup:
        if is_cached:
            what = f"{what}, {t('plan.model.cached')}"
        small = tag.small(what, " ", tag.code((commit or "")[:7]))
        return table_row([name, small], figure(count(parameters)), tag.td(licences.get(name, "")))

    what = model.architecture
    if model.made_by:
        parts = ", ".join(part.name for part in model.made_by.models if not part.generated)
        title = t("experts.title") if model.made_by.mixture else METHODS[model.made_by.method].title
        what = t("plan.model.made", method=title, parts=parts)
    yield row(model.name, what, model.commit, model.parameters, model.is_cached)
    for adapter in model.adapters:
        key = "plan.model.adapter" if adapter.scale == 1 else "plan.model.adapter.scaled"
        what = t(key, model=model.name, scale=f"{adapter.scale:g}")
        yield row(adapter.name, what, adapter.commit, adapter.bytes // 4, adapter.is_cached)


def _tokenizer(report: TokenizerReport) -> Markup:
    """What becomes of the tokenizers, folded: side by side, with a conversation as the result's template writes it."""
    begins = t(
        "plan.tokenizer.begins", name=report.begins_with, tokens=f"{report.tokens:,}", rows=f"{report.rows:,}"
    )
    if report.appended:
        begins += " " + t("plan.tokenizer.appended", tokens=few(report.appended))
    if report.digits:
        begins += " " + t("plan.tokenizer.digits", pieces=" ".join(report.digits))
    approximates = any(model.common is not None for model in report.models)
    # Of an approximated row it matters what tokens stand for, and not how they are spelled.
    figures = ["plan.tokenizer.common"] if approximates else ["plan.tokenizer.unknown", "plan.tokenizer.lost"]
    words = ["plan.tokenizer.numbers"] if approximates else []
    columns = [
        column(t("plan.model.name")),
        *(column(t(key), of_figures=True) for key in ("plan.tokenizer.tokens", *figures)),
        *(column(t(key)) for key in (*words, "plan.tokenizer.special", "plan.tokenizer.template")),
    ]
    rows = []
    for model in report.models:
        numbers = [figure(f"{model.tokens:,}")]
        if model.common is None:
            numbers += [figure(f"{model.unknown:,}"), figure(f"{model.lost:,}")]
        else:
            share = f"{model.common / max(report.tokens, 1):.0%}"
            numbers += [figure(f"{model.common:,} ({share})"), tag.td(" ".join(model.digits) or "–")]
        special = ", ".join(f"{role} {token or '–'}" for role, token in model.special.items()) or "–"
        template = t(f"plan.tokenizer.template.{model.template}")
        rows.append(table_row(model.name, numbers, tag.td(special), tag.td(template)))
    sample = [quiet(t("plan.tokenizer.sample")), tag.pre(report.sample)] if report.sample else None
    side_by_side = scrolling(table(columns, rows), focusable=True)
    return folded(t("plan.tokenizer"), tag.p(begins), side_by_side, sample)


def _licence(parents: Sequence[Parent]) -> Markup | None:
    worst = strictest(parents)
    if worst is None:
        return None
    key = {
        FREE: "plan.licence.free",
        SHARE_ALIKE: "plan.licence.share",
        OWN_TERMS: "plan.licence.own",
        NON_COMMERCIAL: "plan.licence.noncommercial",
    }.get(strictness(worst.licence), "plan.licence.unknown")
    mood = "alloy-quiet" if strictness(worst.licence) == FREE else "alloy-heed"
    return tag.p(t(key, licence=worst.licence, name=worst.name), class_=mood)


def _lineage(around: Surroundings) -> Content:
    if not around.parents or not around.result:
        return None
    return [part(t("plan.lineage")), lineage(around.parents, around.result)]
