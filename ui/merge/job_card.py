"""Jobs as their visitor sees them: the bar while they run, the link when they are done."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from checkpoints.names import model_name
from checkpoints.repositories.repository import HUB_SCHEME
from merging import Result
from merging.result_card import with_not_finite
from ui.heal.card import heal_progress, healed
from ui.hub.recipes import query_of
from ui.job_tray import state_words
from ui.languages.translate import t
from ui.merge.commands import command_line, hf_job, python
from ui.server.downloads import links
from ui.server.jobs import JobStatus, ModelSummary
from ui.widgets.html import (
    Content,
    bar,
    card,
    column,
    count,
    duration,
    figure,
    folded,
    heading,
    html,
    link,
    problem_list,
    quiet,
    scrolling,
    size,
    table,
    table_row,
    tag,
)

_MOODS = {"waiting": "idle", "running": "busy", "done": "good", "failed": "bad", "cancelled": "idle"}


def no_merges_card() -> Markup:
    """When there are no merges."""
    return card(quiet(t("jobs.empty")))


def lost_card() -> Markup:
    """When merges that the browser remembers are gone."""
    return card(quiet(t("jobs.lost")))


def job_card(job: JobStatus, space_id: str = "", commit: str = "", offer: Markup | None = None) -> Markup:
    """One job.

    Args:
        space_id, commit: of the Space that this is, if it is one
        offer: of healing the result
    """
    # While a job runs its card is drawn again every second, which would fold the details up again.
    details = (
        None if job.is_live else [_compared(job), _card(job), _elsewhere(job, space_id, commit), log_of(job)]
    )
    return card(
        [heading(f"{state_words(job)}: {job.title}"), _rented(job), _state(job), offer, details],
        _MOODS[job.state],
    )


def finished_details(job: JobStatus) -> Content:
    """Where the result of a job is, what was verified, how it compares with its parents, and its model card."""
    return [_result(job), _compared(job), _card(job), log_of(job)]


def _state(job: JobStatus) -> Content:
    match job.state:
        case "waiting":
            return waiting_line(job)
        case "running":
            return heal_progress(job.title, job.heal) if job.heal else _progress(job)
        case "done":
            return [healed(job.heal) if job.heal else None, _result(job)]
        case "failed":
            return problem_list(job.problems)
        case "cancelled":
            return quiet(t("rent.cancelled" if job.request.rented else "jobs.cancelled.detail"))


def _rented(job: JobStatus) -> Markup | None:
    """The machine that a job runs on, if it is not this one."""
    rented = job.request.rented
    return tag.p(link(rented.url, t("rent.on", machine=rented.flavor))) if rented else None


def waiting_line(job: JobStatus) -> Markup:
    """Where a job is in the queue, and when it begins."""
    position = job.position
    line = t("jobs.waiting.position", position=position) if position > 1 else t("jobs.waiting.next")
    if job.seconds_to_wait:
        # In steps: an estimate that counts down by the second would pretend to be exact.
        line += t("jobs.waiting.time", time=duration(max(10, round(job.seconds_to_wait, -1))))
    return quiet(line)


def _progress(job: JobStatus) -> Markup:
    progress = job.progress
    share = progress.bytes_done / progress.bytes_total if progress and progress.bytes_total else 0.0
    # When the last tensor is made, files are still being sent, closed and verified.
    is_made = share >= 1 and progress is not None and progress.phase == "merge"
    phase = "finish" if is_made else progress.phase if progress else "start"
    numbers = [t(f"jobs.phase.{phase}")]
    if progress and progress.tensors_total:
        numbers.append(t("jobs.tensors", done=progress.tensors_done, total=progress.tensors_total))
    if progress and progress.bytes_total:
        numbers.append(t("jobs.bytes", done=size(progress.bytes_done), total=size(progress.bytes_total)))
    if job.rate:
        numbers.append(t("jobs.rate", rate=size(job.rate)))
    if job.seconds_left is not None and job.seconds_left >= 1 and not is_made:
        numbers.append(t("jobs.left", time=duration(job.seconds_left)))
    filled = bar(job.percent, t("jobs.progress", title=job.title))
    return html(filled, tag.div(map(tag.span, numbers), class_="alloy-numbers"))


def _result(job: JobStatus) -> Markup | None:
    result = job.result
    if result is None:
        return None
    took = t("jobs.took", size=size(result.bytes_out), time=duration(job.elapsed))
    if result.written_by:
        ways = t("jobs.ways", read=_ways(result.read_by) or "-", written=_ways(result.written_by))
        took = f"{took}. {ways}"
    verified = quiet(t("jobs.verified")) if result.verified else None
    return html(
        _where(job, result),
        _gguf(job, result),
        quiet(took),
        verified,
        problem_list(result.warnings) if result.warnings else None,
    )


def _ways(names: Sequence[str]) -> str:
    """How files were read or written; protocols go by their own names."""
    known = {"cache": t("jobs.way.cache"), "folder": t("jobs.way.folder")}
    return ", ".join(known.get(name, name) for name in names)


def _where(job: JobStatus, result: Result) -> Markup:
    """Where the result is, with a link if it is on the Hub, or to each file of a download."""
    if job.request.download:
        return _files(result)
    name = model_name(result.location)
    if asked := result.location.partition("@refs/pr/")[2]:
        found = link(result.url, t("jobs.pull_request", number=asked, name=name.partition("@")[0]))
    elif result.url:
        files = t("jobs.gguf", types=", ".join(job.request.gguf), name=name)
        found = link(result.url, files if job.request.only_gguf else t("jobs.open", name=name))
    else:
        found = escape(t("jobs.saved", folder=name))
    return tag.p(found, class_="alloy-result")


def _gguf(job: JobStatus, result: Result) -> Markup | None:
    """Where the GGUF files are, if they are in a place of their own."""
    place = result.gguf
    if place is None or job.request.download:
        return None
    name = model_name(place.location)
    words = t("jobs.gguf", types=", ".join(job.request.gguf), name=name)
    return tag.p(link(place.url, words) if place.url else escape(words), class_="alloy-result")


def _files(result: Result) -> Markup:
    files = links(result.location) + (links(result.gguf.location) if result.gguf else [])
    items = [tag.li(tag.a(file, href=address, download=file)) for file, address in files]
    line = tag.p(t("jobs.download" if files else "jobs.download.gone"), class_="alloy-result")
    return html(line, tag.ul(items, class_="alloy-lines"))


def _compared(job: JobStatus) -> Markup | None:
    """Structure and size of the result beside its parents."""
    if job.state != "done" or not job.request.summaries:
        return None
    words, figures = (
        ("plan.model.name", "jobs.compared.structure"),
        ("plan.model.parameters", "jobs.compared.bytes"),
    )
    columns = [
        *(column(t(key)) for key in words),
        *(column(t(key), of_figures=True) for key in figures),
    ]
    rows = map(_summary_row, job.request.summaries)
    return folded(t("jobs.compared"), scrolling(table(columns, rows), focusable=True))


def _summary_row(model: ModelSummary) -> Markup:
    layers = t("jobs.compared.layers", count=model.layers) if model.layers else ""
    structure = ", ".join(filter(None, [model.architecture, layers]))
    return table_row(
        model.name, tag.td(structure), figure(count(model.parameters)), figure(size(model.bytes))
    )


def _card(job: JobStatus) -> Markup | None:
    """The model card, as it was written."""
    if job.state != "done" or not job.request.card:
        return None
    counts = job.result.not_finite if job.result else {}
    return folded(t("jobs.card"), tag.pre(with_not_finite(job.request.card, counts)))


def _elsewhere(job: JobStatus, space_id: str, commit: str) -> Markup | None:
    """The same merge as a command line, as Python, as a job, and as a link."""
    request = job.request
    if not request.recipe:
        return None
    page = f"https://huggingface.co/spaces/{space_id}" if space_id else ""
    remix = tag.a(t("jobs.remix"), href=f"{page}?{query_of(request.recipe)}", target="_blank")
    ways = [("jobs.shell", command_line(request)), ("jobs.python", python(request))]
    if space_id and request.to.startswith(HUB_SCHEME):
        ways.append(("jobs.rented", hf_job(request, space_id, commit)))
    scripts = [[tag.p(t(key)), tag.pre(script)] for key, script in ways]
    return folded(t("jobs.elsewhere"), tag.p(remix), scripts)


def log_of(job: JobStatus) -> Markup:
    """What a job has done, folded."""
    lines = "\n".join(f"{seconds:7.1f} s  {line}" for seconds, line in job.log)
    return folded(t("jobs.log"), tag.pre(lines))
