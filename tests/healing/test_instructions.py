"""Instructions made of instructions: prompts in both languages, and the four conditions under which one has failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from healing import Dataset, instructions
from healing.command_line import DONE, main
from healing.data import read_rows
from healing.instructions import BREADTH, DEEPER, Failure, Language, _prompt, evolve, failed
from healing.settings import KINDS

SOURCE = "Name three rivers of Europe."
HARDER = "Name three rivers of Europe that flow into the Black Sea, with their lengths."
ANSWER = "The Danube with 2,850 km, the Dnieper with 2,201 km, and the Dniester with 1,362 km."


def never(_: str) -> str:
    raise AssertionError("asked for nothing")


@pytest.mark.parametrize(
    ("made", "answer", "why"),
    [
        ("The rewritten prompt: name four rivers.", ANSWER, "copied"),
        ("#Rewritten Prompt# Name four rivers.", ANSWER, "copied"),
        (HARDER, "Sorry, I do not know these rivers.", "refusal"),
        (HARDER, "죄송하지만 답할 수 없습니다.", "refusal"),
        (HARDER, "... the, and? 은 는 !", "no-words"),
        (HARDER, "", "no-words"),
        ("name THREE rivers, of the Europe!", ANSWER, "no-gain"),
    ],
)
def test_a_failure_is_seen_without_asking(made: str, answer: str, why: Failure) -> None:
    assert failed(SOURCE, made, answer, never) == why


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("Equal", "no-gain"),
        (" equal.", "no-gain"),
        ("같음", "no-gain"),
        ("Not equal", None),
        ("다름", None),
        ("같지 않음", None),
    ],
)
def test_whether_something_was_gained_is_asked(said: str, why: Failure | None) -> None:
    assert failed(SOURCE, HARDER, ANSWER, lambda _: said) == why


def test_a_long_answer_with_sorry_in_it_is_none_that_refuses() -> None:
    answer = "She said sorry. " + "Then they went on along the river. " * 20

    assert failed(SOURCE, HARDER, answer, lambda _: "Not equal") is None


@pytest.mark.parametrize("language", ["english", "korean"])
def test_each_way_has_a_prompt_of_its_own(language: Language) -> None:
    prompts = [_prompt(SOURCE, way, language) for way in (*DEEPER, BREADTH)]

    assert len({*prompts}) == 6
    assert all(prompt.endswith(SOURCE) for prompt in prompts)


def test_what_failed_goes_on_as_it_was_and_what_did_not_is_evolved_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(message: str) -> str:
        asked.append(message)
        if message.startswith(("Do these", "두 지시문")):
            return "Not equal"
        if message.startswith(("Rewrite", "Write")):
            before = message.rpartition("\n")[2]
            return before if "stubborn" in before else f"{before} And the lakes, too."
        return ANSWER

    failures: list[tuple[str, str]] = []
    found = list(
        evolve([SOURCE, "A stubborn one."], ask, rounds=2, on_failure=lambda *what: failures.append(what))
    )

    assert [one.source for one in found] == [SOURCE, f"{SOURCE} And the lakes, too."]
    assert [one.round for one in found] == [1, 2]
    assert failures == [("A stubborn one.", "no-gain")] * 2
    assert list(evolve([SOURCE, "A stubborn one."], ask, rounds=2)) == found
    line = found[0].to_line("org/model", "apache-2.0")
    made = json.loads(line)["made"]
    assert (made["generator"], made["licence"], made["source"]) == ("org/model", "apache-2.0", SOURCE)
    (tmp_path / "made.jsonl").write_text(line)
    [row] = read_rows([Dataset("made.jsonl")], KINDS["sft"], tmp_path)
    assert row["messages"][1]["content"] == ANSWER


def test_the_command_writes_lines_that_say_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(message: str) -> str:
        return (
            "Not equal" if message.startswith("Do these") else f"{message.rpartition(chr(10))[2]} And why so?"
        )

    monkeypatch.setattr(instructions, "ask_loaded", lambda *_, **__: ask)
    (tmp_path / "seeds.txt").write_text(f"{SOURCE}\n\nWhat is a lake?\n")
    model, to = tmp_path / "model", tmp_path / "made.jsonl"
    model.mkdir()
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\nA model.\n")
    command = ["evolve", str(tmp_path / "seeds.txt"), "--model", str(model), "--to", str(to), "--rounds", "1"]

    assert main(command) == DONE

    made = [json.loads(line) for line in to.read_text().splitlines()]
    assert [one["made"]["licence"] for one in made] == ["apache-2.0"] * 2
    assert {one["made"]["generator"] for one in made} == {str(model)}
    assert f"2 instructions by {model} (licence: apache-2.0); 0 failed" in capsys.readouterr().out
    (tmp_path / "seeds.txt").write_text("\n \n")
    assert main(command) != DONE
    assert "has no instructions" in capsys.readouterr().err
