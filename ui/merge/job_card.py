"""Jobs as their visitor sees them: the bar while they run, the link when they are done."""

from __future__ import annotations

from markupsafe import Markup

from ui.hub.recipes import query_of
from ui.languages.translate import t
from ui.merge.commands import command_line, hf_job, python
from ui.server.downloads import links
from ui.server.jobs import JobStatus
from ui.widgets.html import card, count, duration, heading, link, problem_list, quiet, size, text

_MOODS = {"waiting": "idle", "running": "busy", "done": "good", "failed": "bad", "cancelled": "idle"}


def empty_card() -> str:
    """When there are no merges."""
    return card(quiet(t("jobs.empty")))


def lost_card() -> str:
    """When merges that the browser remembers are gone."""
    return card(quiet(t("jobs.lost")))


def job_card(job: JobStatus, space_id: str = "") -> str:
    """One job; `space_id` of the Space that this is, if it is one."""
    state = t("jobs.stopping") if job.stopping else t(f"jobs.{job.state}")
    body = str(heading(f"{state}: {job.title}"))
    match job.state:
        case "waiting":
            position = job.position
            line = t("jobs.waiting.position", position=position) if position > 1 else t("jobs.waiting.next")
            if job.seconds_to_wait:
                # In steps: an estimate that counts down by the second would pretend to be exact.
                line += t("jobs.waiting.time", time=duration(max(10, round(job.seconds_to_wait, -1))))
            body += f'<p class="alloy-quiet">{text(line)}</p>'
        case "running":
            body += _progress(job)
        case "done":
            body += _result(job)
        case "failed":
            body += str(problem_list(job.problems))
        case "cancelled":
            body += f'<p class="alloy-quiet">{text(t("jobs.cancelled.detail"))}</p>'
    # While a job runs its card is drawn anew every second, which would fold these up again.
    if not job.is_live:
        body += _compared(job) + _card(job) + _elsewhere(job, space_id) + _log(job)
    return card(Markup(body), _MOODS[job.state])


def _progress(job: JobStatus) -> str:
    progress = job.progress
    share = progress.bytes_done / progress.bytes_total if progress and progress.bytes_total else 0.0
    percent = round(100 * min(share, 1.0))
    numbers = [t(f"jobs.phase.{progress.phase}") if progress else t("jobs.phase.start")]
    if progress and progress.tensors_total:
        numbers.append(t("jobs.tensors", done=progress.tensors_done, total=progress.tensors_total))
    if progress and progress.bytes_total:
        numbers.append(t("jobs.bytes", done=size(progress.bytes_done), total=size(progress.bytes_total)))
    if job.rate:
        numbers.append(t("jobs.rate", rate=size(job.rate)))
    if job.seconds_left is not None:
        numbers.append(t("jobs.left", time=duration(job.seconds_left)))
    label = text(t("jobs.progress", title=job.title))
    return (
        f'<div class="alloy-bar" role="progressbar" aria-label="{label}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><span style="width:{percent}%"></span></div>'
        f'<div class="alloy-numbers">{"".join(f"<span>{text(number)}</span>" for number in numbers)}</div>'
    )


def _result(job: JobStatus) -> str:
    result = job.result
    if result is None:
        return ""
    name = result.location.removeprefix("hf://")
    if job.request.download:
        files = links(result.location)
        items = "".join(
            f'<li><a href="{text(address)}" download="{text(file)}">{text(file)}</a></li>'
            for file, address in files
        )
        where: str = text(t("jobs.download" if files else "jobs.download.gone"))
        where = f'{where}</p><ul class="alloy-lines">{items}</ul><p>'
    else:
        where = (
            link(result.url, t("jobs.open", name=name)) if result.url else text(t("jobs.saved", folder=name))
        )
    took = t("jobs.took", size=size(result.bytes_out), time=duration(job.elapsed))
    if asked := result.location.partition("@refs/pr/")[2]:
        where = link(result.url, t("jobs.pull_request", number=asked, name=name.partition("@")[0]))
    if result.written_by:
        ways = t("jobs.ways", read=", ".join(result.read_by) or "-", written=", ".join(result.written_by))
        took = f"{took}. {ways}"
    verified = f'<p class="alloy-quiet">{text(t("jobs.verified"))}</p>' if result.verified else ""
    return f'<p class="alloy-result">{where}</p><p class="alloy-quiet">{text(took)}</p>{verified}'


def _compared(job: JobStatus) -> str:
    """Structure and size of the result beside its parents."""
    if job.state != "done" or not job.request.summaries:
        return ""
    columns = ("plan.model.name", "jobs.compared.structure", "plan.model.parameters", "jobs.compared.bytes")
    head = "".join(
        f'<th scope="col"{" class=number" * (place > 1)}>{text(t(key))}</th>'
        for place, key in enumerate(columns)
    )
    rows = ""
    for part in job.request.summaries:
        layers = t("jobs.compared.layers", count=part.layers) if part.layers else ""
        structure = ", ".join(filter(None, [part.architecture, layers]))
        rows += (
            f'<tr><th scope="row">{text(part.name)}</th><td>{text(structure)}</td>'
            f'<td class="number">{count(part.parameters)}</td><td class="number">{text(size(part.bytes))}</td></tr>'
        )
    table = f'<table class="alloy-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    scroll = f'<div class="alloy-scroll" tabindex="0">{table}</div>'
    return f"<details><summary>{text(t('jobs.compared'))}</summary>{scroll}</details>"


def _card(job: JobStatus) -> str:
    """The model card, as it was written."""
    if job.state != "done" or not job.request.card:
        return ""
    return f"<details><summary>{text(t('jobs.card'))}</summary><pre>{text(job.request.card)}</pre></details>"


def _elsewhere(job: JobStatus, space_id: str) -> str:
    """The same merge as a command line, as Python, as a job, and as a link."""
    request = job.request
    if not request.recipe:
        return ""
    page = f"https://huggingface.co/spaces/{space_id}" if space_id else ""
    address = f"{page}?{query_of(request.recipe)}"
    remix = f'<p><a href="{text(address)}" target="_blank">{text(t("jobs.remix"))}</a></p>'
    ways = [("jobs.shell", command_line(request)), ("jobs.python", python(request))]
    if space_id and request.to.startswith("hf://"):
        ways.append(("jobs.rented", hf_job(request, space_id)))
    blocks = "".join(f"<p>{text(t(key))}</p><pre>{text(script)}</pre>" for key, script in ways)
    return f"<details><summary>{text(t('jobs.elsewhere'))}</summary>{remix}{blocks}</details>"


def _log(job: JobStatus) -> str:
    lines = "\n".join(f"{seconds:7.1f} s  {line}" for seconds, line in job.log)
    return f"<details><summary>{text(t('jobs.log'))}</summary><pre>{text(lines)}</pre></details>"
