"""A line for each job at the top of every tab: what waits or runs, and folded below it what came before.

The title of the browser's tab says how much of the first running job is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import gradio as gr
from markupsafe import Markup

from ui.languages.translate import t
from ui.server.jobs import JobStatus
from ui.widgets.html import html, tag

# A list that was unfolded stays so when it is drawn again. Times are the reader's own.
_SHOW = """
const own = window.alloyTitle ??= document.title;
let unfolded = false;
element.addEventListener("click", (event) => {
  const line = event.target.closest("[data-job]");
  if (line) trigger("click", {job: line.dataset.job, what: line.dataset.what, tab: line.dataset.tab});
});
element.addEventListener("toggle", (event) => { unfolded = event.target.open; }, true);
const draw = () => {
  const running = document.querySelector(".alloy-tray [data-percent]");
  document.title = running ? `${running.dataset.percent} % · ${own}` : own;
  const folded = element.querySelector("details");
  if (folded) folded.open = unfolded;
  for (const time of element.querySelectorAll("time")) {
    const when = new Date(time.dateTime);
    const today = when.toDateString() === new Date().toDateString();
    const style = today ? {timeStyle: "short"} : {dateStyle: "short", timeStyle: "short"};
    time.textContent = new Intl.DateTimeFormat(navigator.language, style).format(when);
  }
};
watch("value", draw);
draw();
"""
SHOW, REMOVE = "show", "remove"


class JobTray:
    """The lines, made inside the page's Blocks.

    Attributes:
        merges, search: each is drawn by what watches these jobs; a `click` says of which `job`, in which `tab`, and
            `what` is wanted: SHOW or REMOVE
    """

    def __init__(self) -> None:
        with gr.Column(elem_classes="alloy-tray"):
            self.merges, self.search = (gr.HTML(js_on_load=_SHOW) for _ in range(2))


def tray_lines(jobs: Sequence[JobStatus], tab: str) -> Markup:
    """A line for each job that waits or runs, which leads to the tab that shows it; the others are folded."""
    live = [_live(job, tab) for job in jobs if job.is_live]
    ended = [_ended(job, tab) for job in jobs if not job.is_live]
    if not ended:
        return html(live)
    summary = tag.summary(t(f"tray.{tab}", count=len(ended)))
    return html(live, tag.details(summary, tag.ul(ended)))


def _live(job: JobStatus, tab: str) -> Markup:
    percent = job.percent if job.state == "running" else None
    done = None if percent is None else [" ", tag.b(f"{percent} %")]
    mood = "busy" if job.state == "running" else "idle"
    return _button([f"{state_words(job)}: {job.title}", done], mood, job, tab, percent)


def _ended(job: JobStatus, tab: str) -> Markup:
    mood = {"done": "good", "failed": "bad"}.get(job.state, "idle")
    line = _button(f"{state_words(job)}: {job.title}", mood, job, tab)
    label = t("tray.remove", title=job.title)
    remove = tag.button("×", type="button", aria_label=label, title=label, data_job=job.id, data_what=REMOVE)
    return tag.li(line, _time(job.asked_at), remove)


def _button(words: object, mood: str, job: JobStatus, tab: str, percent: int | None = None) -> Markup:
    mark = tag.span(class_="alloy-mark", aria_hidden="true")
    return tag.button(
        mark, words, type="button", class_=f"alloy-{mood}", data_tab=tab, data_job=job.id, data_what=SHOW,
        data_percent=percent,
    )  # fmt: skip


def _time(asked_at: float) -> Markup | None:
    """When a job was asked for, which the browser writes in the reader's own way; nothing if that is unknown."""
    if not asked_at:
        return None
    when = datetime.fromtimestamp(asked_at, UTC)
    return tag.time(f"{when:%Y-%m-%d %H:%M} UTC", datetime=when.isoformat(timespec="seconds"))


def state_words(job: JobStatus) -> str:
    """What the job is doing, or how it ended."""
    if job.stopping:
        return t("jobs.stopping")
    if job.state != "running":
        return t(f"jobs.{job.state}")
    if job.search is not None:
        return t("tray.searching")
    if job.heal is not None:
        return t("tray.healing")
    return t("tray.gguf" if job.request.only_gguf else "jobs.running")
