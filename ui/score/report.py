"""On the Score tab: results to download, as Markdown and JSON, and to write into the model's card."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import gradio as gr
from markupsafe import Markup

from checkpoints.problems import Problem
from evaluation import EvaluationError, write_card
from ui.host import Host
from ui.hub.account import account
from ui.languages.translate import error_words, t
from ui.score.findings import Findings
from ui.score.overview import overview
from ui.score.panel import Panel
from ui.server.internal_error import log_unexpected
from ui.widgets.events import NETWORK, PRIVATE, QUIET, Given, Updates
from ui.widgets.html import card, heading, link, section, tag

# Copies what a link of `files_of` contains to the clipboard, if the browser allows it.
COPY = """() => {
  const link = document.querySelector('.alloy-home a[data-kind="KIND"]');
  if (link) navigator.clipboard?.writeText(decodeURIComponent(link.href.split(',')[1])).catch(() => {});
}"""
# Brings the one table into view when work that its visitor began has ended.
SHOW_OVERVIEW = """() => {
  const shown = document.querySelector(".alloy-overview");
  if (shown?.getBoundingClientRect().top < 0) shown.scrollIntoView({block: "start"});
}"""
COMMIT, PULL_REQUEST = "commit", "pull-request"


def files_of(about: Findings, kinds: Sequence[str]) -> Markup:
    """Links that contain the chosen results themselves, so that no file stays on the server, and the text to read."""
    markdown = about.markdown(kinds)
    name = re.sub(r"[^\w.-]+", "-", about.name.rstrip("/").rpartition("/")[2])
    links = [
        tag.a(
            t(f"home.download.{kind}"), data_kind=kind, download=f"{name}.{ending}",
            href=f"data:{mime};charset=utf-8,{quote(content)}",
        )
        for kind, ending, mime, content in (
            ("markdown", "md", "text/markdown", markdown),
            ("json", "json", "application/json", about.json(kinds)),
        )
    ]  # fmt: skip
    shown = tag.pre(markdown, tabindex=0, role="region", aria_label=t("home.markdown"))
    return tag.div(tag.p(Markup(" · ").join(links)), shown, class_="alloy-home")


class ReportPanel:
    """Shows what was found so far, once there is something; made inside the page's Blocks."""

    def __init__(self, host: Host, panels: Sequence[Panel], found: gr.HTML) -> None:
        """`found` is where the one table of all that was found goes."""
        self.overview = found
        self.host, self.states = host, [panel.found for panel in panels]
        self.about = gr.State(None)
        with gr.Column(visible=False) as self.box:
            self.title = gr.HTML()
            self.kinds = gr.CheckboxGroup([], label=t("home.kinds"))
            self.way = gr.Radio(
                [(t("home.commit"), COMMIT), (t("home.pull_request"), PULL_REQUEST)], value=COMMIT,
                label=t("home.way"), info=t("home.way.info"),
            )  # fmt: skip
            write = gr.Button(t("home.write"))
            self.result = gr.HTML()
            with gr.Accordion(t("home.take"), open=False):
                with gr.Row():
                    for kind in ("markdown", "json"):
                        copy = gr.Button(t(f"home.copy.{kind}"), size="sm", min_width=120)
                        copy.click(None, None, None, js=COPY.replace("KIND", kind), **PRIVATE)
                self.files = gr.HTML()
        outputs = [self.overview, self.box, self.about, self.title, self.kinds, self.files, self.result]
        for panel in panels:
            after = self._after(panel), {*self.states}, outputs
            panel.ended.failure(*after, **QUIET)
            panel.ended.success(*after, **QUIET).then(None, None, None, js=SHOW_OVERVIEW, **PRIVATE)
        self.kinds.input(self._choose, [self.about, self.kinds], self.files, **QUIET)
        write.click(
            self._write, [self.about, self.kinds, self.way], self.result, show_progress="hidden", trigger_mode="once",
            **NETWORK,
        )  # fmt: skip

    def _after(self, panel: Panel) -> Callable[[Given], Updates]:
        """What happens when a panel has found something."""

        def show(given: Given) -> Updates:
            findings = [given[state] for state in self.states]
            about = Findings.about_the_newest(given[panel.found], findings)
            if about is None:
                return {self.overview: "", self.box: gr.Column(visible=False), self.about: None}
            kinds = list(about.parts)
            choices = [(t(f"home.kind.{kind}"), kind) for kind in kinds]
            return {
                self.overview: overview(about),
                self.box: gr.Column(visible=True),
                self.about: about,
                self.title: section(t("home.keep")),
                self.kinds: gr.update(choices=choices, value=kinds),
                self.files: files_of(about, kinds),
                self.result: "",
            }

        return show

    def _choose(self, about: Findings | None, kinds: list[str]) -> Any:
        return files_of(about, [kind for kind in kinds if kind in about.parts]) if about else gr.skip()

    def _write(self, about: Findings | None, kinds: list[str], way: str, oauth: gr.OAuthToken | None) -> str:
        """Write the chosen kinds into the model's card."""
        if about is None:
            return ""
        who = account(self.host, oauth)
        kept = [kind for kind in kinds if kind in about.parts]
        try:
            if who.source == "nobody" and not self.host.allow_folders:
                raise EvaluationError(Problem("card-without-login"))
            written = write_card(
                about.name, about.results(kept), markdown=about.markdown(kept) or None,
                pull_request=way == PULL_REQUEST, token=who.for_hub, allow_folders=self.host.allow_folders,
            )  # fmt: skip
        except EvaluationError as error:
            return card(tag.p(error_words(error), role="alert"), "bad")
        except Exception as error:
            line = t("unexpected", error=log_unexpected(error, who.token))
            return card(tag.p(line, role="alert"), "bad")
        key = "home.proposed" if written.pull_request else "home.written"
        return card([heading(t(key)), tag.p(link(written.url, written.url))], "good")
