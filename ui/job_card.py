"""Jobs as their visitor sees them: the bar while they run, the link when they are done."""

from __future__ import annotations

from collections.abc import Sequence

from ui.jobs import Snapshot
from ui.markup import card, duration, heading, link, problem_list, size, text
from ui.texts import t

_MOODS = {"waiting": "idle", "running": "busy", "done": "good", "failed": "bad", "cancelled": "idle"}


def job_cards(jobs: Sequence[Snapshot], lost: int = 0) -> str:
    """The visitor's jobs, the newest first; `lost` of those that the browser remembers are gone."""
    note = card(f'<p class="alloy-quiet">{text(t("jobs.lost"))}</p>') if lost else ""
    if not jobs:
        return note or card(f'<p class="alloy-quiet">{text(t("jobs.empty"))}</p>')
    return "".join(job_card(job) for job in jobs) + note


def job_card(job: Snapshot) -> str:
    """One job."""
    state = t("jobs.stopping") if job.stopping else t(f"jobs.{job.state}")
    body = heading(f"{state}: {job.title}")
    match job.state:
        case "waiting":
            position = job.position
            line = t("jobs.waiting.position", position=position) if position > 1 else t("jobs.waiting.next")
            body += f'<p class="alloy-quiet">{text(line)}</p>'
        case "running":
            body += _progress(job)
        case "done":
            body += _result(job)
        case "failed":
            body += problem_list(job.problems)
        case "cancelled":
            body += f'<p class="alloy-quiet">{text(t("jobs.cancelled.detail"))}</p>'
    # While a job runs its card is drawn anew every second, which would fold the log up again.
    return card(body if job.is_live else body + _log(job), _MOODS[job.state])


def _progress(job: Snapshot) -> str:
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


def _result(job: Snapshot) -> str:
    result = job.result
    if result is None:
        return ""
    name = result.location.removeprefix("hf://")
    saved = text(t("jobs.saved", folder=result.location))
    where = link(result.url, t("jobs.open", name=name)) if result.url else saved
    took = t("jobs.took", size=size(result.bytes_out), time=duration(job.elapsed))
    verified = f'<p class="alloy-quiet">{text(t("jobs.verified"))}</p>' if result.verified else ""
    return f'<p class="alloy-result">{where}</p><p class="alloy-quiet">{text(took)}</p>{verified}'


def _log(job: Snapshot) -> str:
    lines = "\n".join(f"{seconds:7.1f} s  {line}" for seconds, line in job.log)
    return f"<details><summary>{text(t('jobs.log'))}</summary><pre>{text(lines)}</pre></details>"
