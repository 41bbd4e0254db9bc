"""What a model is scored by: conversations, benchmarks, answers and Python functions, each document for itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from evaluation import EvaluationError, LanguageModel, load_model, perplexity
from evaluation.chat_check import ChatCheck, Checked
from searching import data as data_module
from searching import objective as objective_module
from searching.data import Data, as_document, read_data
from searching.figures import figure
from searching.goals import Goal, Limit, Settings, Shares
from searching.objective import Objective, load_function
from searching.split import Document, digest

JUDGE = """
def score(model, documents):
    return [float(len(document)) for document in documents]

def alone(model):
    return {"a": [1.0] * 40, "b": [3.0] * 40}

def number(model):
    return 7

def word(model, documents):
    return "good"

def wrong(model, documents):
    return [1.0]

def infinite(model, documents):
    return [1.0, float("inf")]

def leaves(model):
    raise SystemExit(3)
"""


@pytest.fixture(scope="module")
def model(family: Path) -> LanguageModel:
    return load_model(family / "base", device="cpu")


def made(*texts: str, part: Any = "search") -> tuple[Document, ...]:
    return tuple(Document(text, part, digest(text)) for text in texts)


def test_a_text_is_scored_document_by_document(model: LanguageModel) -> None:
    goal = Goal("text", "text", "text")
    texts = ["The river runs to the sea.", "A lamp stands in the garden.", "x"]
    objective = Objective((goal,), Data({"text": made(*texts)}))

    figures, whole = objective.score(model, "search")

    found = perplexity(model, texts[:2])
    assert whole and len(figures["text"]) == 2  # one token alone has nothing to be scored
    assert figure(figures["text"]) == pytest.approx(found.bits_per_byte)
    assert figures["text"][1] == (
        pytest.approx(found.documents[1].nats / math.log(2)),
        found.documents[1].bytes,
    )


def test_a_conversation_is_scored_in_the_models_own_form(model: LanguageModel) -> None:
    goal = Goal("text", "text", "text")
    talk = as_document([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Ahoy"}])
    objective = Objective((goal,), Data({"text": made(talk)}))

    figures, _ = objective.score(model, "search")

    plain = perplexity(model, ["Hello\nAhoy"])  # this model has no form of its own
    assert figure(figures["text"]) == pytest.approx(plain.bits_per_byte)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('No answers.') }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    ],
)
def test_a_template_that_does_not_write_a_conversation_fails_alone(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    talk = as_document([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    goal = Goal("talk", "text", "talk")

    with pytest.raises(EvaluationError) as refused:
        Objective((goal,), Data({"talk": made(talk)})).score(model, "search")
    assert refused.value.problems[0].code == "template-refuses"


def test_faulty_answers_are_counted_but_not_long_ones(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[Any] = [("empty",), ("cut",), (), ("cut", "repeated")]

    def check(model: LanguageModel, prompts: list[str], **_: object) -> ChatCheck:
        answers = tuple(Checked(p, "", one) for p, one in zip(prompts, faults, strict=True))
        return ChatCheck("m", None, answers)

    monkeypatch.setattr(objective_module, "check_chat", check)
    guard = Goal("chat", "chat", "", 0.0, Limit(0.0, of="base"))
    objective = Objective((guard,), Data({"chat": made("a", "b", "c", "d")}))

    assert objective.rows(model, guard, made("a", "b", "c", "d"), "search", None) == [
        (1.0, 1.0),
        (0.0, 1.0),
        (0.0, 1.0),
        (1.0, 1.0),
    ]


def test_questions_of_a_task_are_divided_and_asked_by_their_numbers(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    class Score:
        task = "sums"
        answers = dict.fromkeys(range(100), 0.25)

    class Found:
        scores = (Score,)

    def ask(model: LanguageModel, tasks: list[str], **settings: Any) -> type[Found]:
        asked.update(settings)
        return Found

    monkeypatch.setattr(data_module, "question_counts", lambda tasks: {"sums": 100})
    monkeypatch.setattr(objective_module, "benchmark", ask)
    goal = Goal("sums", "task", "sums", questions=60, few_shot=2, metric="acc,none")
    data = read_data(Settings((goal,)))
    objective = Objective((goal,), data)

    figures, _ = objective.score(model, "report")

    parts = data.counts()["sums"]
    assert sum(parts.values()) == 60 and min(parts.values()) > 4
    numbers = {int(document.text.rpartition("/")[2]) for document in data.of(goal, "report")}
    assert set(asked["samples"]["sums"]) == numbers
    assert (asked["metric"], asked["few_shot"]) == ("acc,none", 2)
    assert figures["sums"] == ((-0.25, 1.0),) * len(numbers)


def test_python_functions(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(JUDGE)

    def figures(name: str, text: str, part: Any = "search") -> tuple[tuple[float, float], ...]:
        goal = Goal("python", "python", f"judge.py:{name}", text=text)
        documents = Data({"python": made("four", "fifteen")} if text else {})
        return Objective((goal,), documents, tmp_path).score(model, part)[0]["python"]

    assert figures("score", "prompts.txt") == ((-4.0, 1.0), (-7.0, 1.0))
    by_part = {part: figures("alone", "", part) for part in ("search", "choice", "report")}
    assert sum(map(len, by_part.values())) == 80 and min(map(len, by_part.values())) > 5
    assert {row[0] for rows in by_part.values() for row in rows} == {-1.0, -3.0}
    assert figures("number", "") == figures("number", "", "report") == ((-7.0, 1.0),)
    with pytest.raises(EvaluationError, match=r"returned 1 number for 2 documents"):
        figures("wrong", "prompts.txt")
    with pytest.raises(EvaluationError, match=r"word returned 'good'\. Expected a finite number"):
        figures("word", "prompts.txt")
    with pytest.raises(EvaluationError, match=r"infinite returned \[1.0, inf\]\. Expected a finite number"):
        figures("infinite", "prompts.txt")
    with pytest.raises(EvaluationError, match=r"leaves failed\. Python says: SystemExit: 3"):
        figures("leaves", "")
    with pytest.raises(EvaluationError, match="cannot be loaded"):
        load_function("judge.py:nothing", tmp_path)


def test_a_broken_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def score(:\n")

    with pytest.raises(EvaluationError, match="SyntaxError"):
        load_function("judge.py:score", tmp_path)


def test_shares_of_numbers_without_documents_follow_the_split(model: LanguageModel) -> None:
    goal = Goal("python", "python", "judge.py:alone")

    def alone(model: LanguageModel) -> list[float]:
        return [1.0] * 200

    objective = Objective((goal,), Data({}), function=alone, shares=Shares(0.2, 0.2, 0.6))
    assert len(objective.score(model, "report")[0]["python"]) == pytest.approx(120, abs=25)
