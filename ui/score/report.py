"""On the Score tab: results to download, as Markdown and JSON, and to write into the model's card."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

import gradio as gr
from huggingface_hub import EvalResult
from markupsafe import Markup

from checkpoints.problems import Problem
from evaluation import EvaluationError, benchmark_results, perplexity_results, write_card
from evaluation.as_json import as_json
from evaluation.benchmarked import Benchmarked
from evaluation.report import benchmark_markdown, chat_markdown, perplexity_markdown, weights_markdown
from ui.host import Host
from ui.hub.account import account
from ui.languages.translate import error_words, t
from ui.score.benchmarks import BenchmarkAnswers
from ui.score.chat_check import Talked
from ui.score.panel import Panel
from ui.score.sizes import MeasuredModels
from ui.score.text import ScoredTexts
from ui.score.weights import Looked
from ui.server.internal_error import log_unexpected
from ui.widgets.events import NETWORK, PRIVATE, QUIET, Given, Updates
from ui.widgets.html import card, heading, link, section, tag

# Copies what a link of `files_of` contains to the clipboard, if the browser allows it.
COPY = """() => {
  const link = document.querySelector('.alloy-home a[data-kind="KIND"]');
  if (link) navigator.clipboard?.writeText(decodeURIComponent(link.href.split(',')[1])).catch(() => {});
}"""
COMMIT, PULL_REQUEST = "commit", "pull-request"
Finding = ScoredTexts | BenchmarkAnswers | Talked | Looked | MeasuredModels


@dataclass(frozen=True)
class Findings:
    """Everything that was found out about one model.

    Args:
        name: of the model, as it was asked for
        parts: by kind: text, benchmarks, chat, weights, sizes
    """

    name: str
    parts: Mapping[str, Finding]

    @classmethod
    def about_the_newest(cls, newest: Finding | None, found: Sequence[Finding | None]) -> Findings | None:
        """What was found about the model of the newest finding; findings about other models are left out."""
        newest = newest or next((one for one in found if one), None)
        if newest is None:
            return None
        name = newest.names[0]
        return cls(name, {kind_of(one): one for one in found if one and one.names[0] == name})

    def markdown(self, kinds: Sequence[str]) -> str:
        """The chosen kinds, a table each with its sentences."""
        return "\n".join(f"### {_TITLES[kind]}\n\n{_markdown(self.parts[kind])}" for kind in kinds)

    def json(self, kinds: Sequence[str]) -> str:
        """The chosen kinds with every figure."""
        parts = {kind: _plain(self.parts[kind]) for kind in kinds}
        return as_json({"model": self.name, **parts}, indent=1)

    def results(self, kinds: Sequence[str]) -> list[EvalResult]:
        """Those of the chosen kinds that the Hub's metadata can hold.

        Raises:
            EvaluationError: a figure is not a finite number
        """
        found: list[EvalResult] = []
        for kind in kinds:
            match self.parts[kind]:
                case ScoredTexts() as one:
                    found += perplexity_results(one.scores[0], one.texts, one.source, one.differences)
                case BenchmarkAnswers() as one:
                    found += benchmark_results(one.found[0], one.pairs)
        return found


# For the card, which is in English throughout.
_TITLES = {
    "text": "Perplexity",
    "benchmarks": "Benchmarks",
    "chat": "Chat checks",
    "weights": "Weights",
    "sizes": "Size and speed",
}


def kind_of(finding: Finding) -> str:
    """The kind of a finding, as `Findings` names it."""
    return {
        ScoredTexts: "text",
        BenchmarkAnswers: "benchmarks",
        Talked: "chat",
        Looked: "weights",
        MeasuredModels: "sizes",
    }[type(finding)]


def _markdown(finding: Finding) -> str:
    match finding:
        case ScoredTexts():
            return perplexity_markdown(finding.scores, finding.source, finding.differences)
        case BenchmarkAnswers():
            return benchmark_markdown(finding.found, finding.pairs)
        case Talked():
            return chat_markdown(finding.checks)
        case Looked():
            return weights_markdown(finding.found, finding.alike)
        case MeasuredModels():
            return finding.report.to_markdown()


def _plain(finding: Finding) -> dict[str, Any]:
    match finding:
        case ScoredTexts():
            return {
                "source": asdict(finding.source),
                "models": [one.to_dict() for one in finding.scores],
                "differences": [one.to_dict() for one in finding.differences],
            }
        case BenchmarkAnswers():
            return {
                "models": [_without_answers(one) for one in finding.found],
                "paired": [pair.to_dict() for pair in finding.pairs],
            }
        case Talked():
            return {"models": [one.to_dict() for one in finding.checks]}
        case Looked():
            return {**finding.found.to_dict(), "activations": [one.to_dict() for one in finding.alike]}
        case MeasuredModels():
            return finding.report.to_dict()


def _without_answers(found: Benchmarked) -> dict[str, Any]:
    """Everything but the scores of single questions: KMMLU has 35,000 of them."""
    scores = [
        {key: value for key, value in asdict(score).items() if key not in ("answers", "parts")}
        | {"questions": score.questions}
        for score in found.scores
    ]
    return {**found.to_dict(), "scores": scores}


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

    def __init__(self, host: Host, panels: Sequence[Panel]) -> None:
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
        outputs = [self.box, self.about, self.title, self.kinds, self.files, self.result]
        for panel in panels:
            panel.ended.then(self._after(panel), {*self.states}, outputs, **QUIET)
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
                return {self.box: gr.Column(visible=False), self.about: None}
            kinds = list(about.parts)
            choices = [(t(f"home.kind.{kind}"), kind) for kind in kinds]
            return {
                self.box: gr.Column(visible=True),
                self.about: about,
                self.title: section(t("home.heading", model=about.name)),
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
