"""English: the language that every sentence is written in first."""

from __future__ import annotations

from checkpoints.problem_texts import PROBLEMS
from evaluation.harness import BENCHMARKS
from evaluation.remark_texts import WORDING
from evaluation.report import LABELS
from merging import METHODS
from ui.languages.english.page import PAGE
from ui.languages.language import Language

ENGLISH = Language(
    tag="en",
    wording=WORDING,
    page=PAGE,
    problems=PROBLEMS,
    methods={
        **{method.name: method.summary for method in METHODS.values()},
        **{
            f"{m.name}.{parameter.name}": parameter.help
            for m in METHODS.values()
            for parameter in m.parameters
        },
    },
    labels={
        **{f"report.{code}": label for code, label in LABELS.items()},
        **{f"benchmark.{name}": asked for name, asked in BENCHMARKS.items()},
    },
)
