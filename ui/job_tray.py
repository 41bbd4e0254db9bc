"""The jobs that wait or run, in a line each at the top of every tab; the title says how much of the first is done."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr
from markupsafe import Markup

from ui.languages.translate import t
from ui.server.jobs import JobStatus
from ui.widgets.html import html, tag

_SHOW = """
const own = window.alloyTitle ??= document.title;
element.addEventListener("click", (event) => {
  const line = event.target.closest("[data-tab]");
  if (line) trigger("click", {tab: line.dataset.tab});
});
const title = () => {
  const running = document.querySelector(".alloy-tray [data-percent]");
  document.title = running ? `${running.dataset.percent} % · ${own}` : own;
};
watch("value", title);
title();
"""


class JobTray:
    """The lines, made inside the page's Blocks.

    Attributes:
        merges, search: each is drawn by what watches these jobs; a `click` says whose `tab` was asked for
    """

    def __init__(self) -> None:
        with gr.Column(elem_classes="alloy-tray"):
            self.merges, self.search = (gr.HTML(js_on_load=_SHOW) for _ in range(2))


def tray_lines(jobs: Sequence[JobStatus], tab: str) -> Markup:
    """A line for each job that waits or runs; it leads to the tab that shows it."""
    return html(_line(job, tab) for job in jobs if job.is_live)


def _line(job: JobStatus, tab: str) -> Markup:
    state = t("jobs.stopping") if job.stopping else t(f"jobs.{job.state}")
    percent = job.percent if job.state == "running" else None
    done = None if percent is None else [" ", tag.b(f"{percent} %")]
    mark = tag.span(class_="alloy-mark", aria_hidden="true")
    mood = "busy" if job.state == "running" else "idle"
    return tag.button(
        mark, f"{state}: {job.title}", done, type="button", class_=f"alloy-{mood}", data_tab=tab, data_percent=percent
    )  # fmt: skip
