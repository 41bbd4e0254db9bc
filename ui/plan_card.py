"""The plan as people read it: what will be made and what it costs, or what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from merging import Plan, Problem
from ui.markup import card, count, duration, heading, problem_list, size, text
from ui.texts import t


def empty_card() -> str:
    """Before there is a plan."""
    return card(f'<p class="alloy-quiet">{text(t("plan.waiting"))}</p>')


def problems_card(problems: Sequence[Problem]) -> str:
    """Everything that stands in the way."""
    many = len(problems) != 1
    title = t("plan.bad.many", count=len(problems)) if many else t("plan.bad.one")
    return card(heading(title) + problem_list(problems), "bad")


def plan_card(plan: Plan) -> str:
    """A plan, good or not."""
    if not plan.ok:
        return problems_card(plan.problems)
    warnings = (
        f'<p class="alloy-quiet">{text(t("plan.warning.one"))}</p>{problem_list(plan.warnings)}'
        if plan.warnings
        else ""
    )
    return card(heading(t("plan.good")) + _facts(plan) + _models(plan) + warnings, "good")


def _facts(plan: Plan) -> str:
    shards = t("plan.shards.one") if len(plan.shards) == 1 else t("plan.shards.many", count=len(plan.shards))
    many = len(plan.models) != 1
    source = t("plan.read.detail.many", count=len(plan.models)) if many else t("plan.read.detail.one")
    disk = t("plan.disk", size=size(plan.disk_bytes)) if plan.disk_bytes else t("plan.disk.none")
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


def _models(plan: Plan) -> str:
    rows = "".join(
        f'<tr><th scope="row">{text(model.name)}<small>{text(model.architecture)}</small></th>'
        f'<td class="number">{count(model.parameters)}</td><td class="number"><code>{text((model.commit or "")[:7])}'
        "</code></td></tr>"
        for model in plan.models
    )
    head = f'<th scope="col">{text(t("plan.model.name"))}</th>' + "".join(
        f'<th scope="col" class="number">{text(t(key))}</th>'
        for key in ("plan.model.parameters", "plan.model.commit")
    )
    return (
        f'<div class="alloy-scroll"><table class="alloy-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
