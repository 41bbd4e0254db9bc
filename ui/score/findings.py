"""What the panels of the Score tab found out about one model, as Markdown, JSON and metadata of the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from huggingface_hub import EvalResult

from evaluation import benchmark_results, perplexity_results
from evaluation.as_json import as_json
from evaluation.benchmarked import Benchmarked
from evaluation.report import benchmark_markdown, chat_markdown, perplexity_markdown, weights_markdown
from ui.score.benchmarks import BenchmarkAnswers
from ui.score.chat_check import Talked
from ui.score.sizes import MeasuredModels
from ui.score.text import ScoredTexts
from ui.score.weights import Looked

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
