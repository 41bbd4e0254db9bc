"""Searches of tiny real models: by gradient and by trials, and what the commands print."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from checkpoints.problems import RecipeError
from checkpoints.terminal import FAILED
from evaluation import load_model, perplexity
from merging import make_plan, read_recipe, run_plan
from searching import SearchError, measure, plan_search, read_space, run_search
from searching.command_line import CANNOT_BE_SEARCHED, DONE, main
from searching.figures import figure, score
from searching.records import Records
from searching.run import check_folder
from searching.starters import lm_cocktail
from searching.teachers import Teacher, divergence

WORDS = ["river", "stone", "lamp", "garden", "winter", "ladder", "copper", "violin", "harbour", "meadow"]


def texts(count: int = 50) -> list[str]:
    drawn = random.Random(0)
    return [" ".join(drawn.choice(WORDS) for _ in range(12)) + f" {number}." for number in range(count)]


def space(family: Path, by: str = "gradient", trials: int = 4, more: str = "") -> str:
    return f"""
merge_method: task_arithmetic
base_model: {family / "base"}
models:
  - {{model: {family / "a"}, parameters: {{weight: {{search: [0, 1.2], start: 0.5, anchors: 2}}}}}}
  - {{model: {family / "b"}, parameters: {{weight: {{search: [0, 1.2], start: 0.5}}}}}}
dtype: bfloat16
search:
  objective: [{{text: words.txt}}{more}]
  by: {by}
  budget: {{trials: {trials}}}
"""


GIVEN = {"words.txt": texts()}


def test_the_best_recipe_scores_on_disk_what_the_report_says(family: Path, tmp_path: Path) -> None:
    plan = plan_search(read_space(space(family)), texts=GIVEN)

    result = run_search(plan, tmp_path / "search")

    assert result.report.about["by"] == "gradient" and result.report.winner
    merge = make_plan(
        read_recipe((tmp_path / "search" / "best.yaml").read_text()), to=str(tmp_path / "merged")
    )
    run_plan(merge, str(tmp_path / "merged"))
    (goal,) = plan.space.settings.goals
    documents = [document.text for document in plan.data.of(goal, "report")]
    found = perplexity(load_model(tmp_path / "merged", device="cpu"), documents).bits_per_byte
    assert found == pytest.approx(
        result.report.figures["words.txt"][result.report.winner]["report"], abs=1e-6
    )


@pytest.mark.parametrize("by", ["gradient", "lbfgs"])
def test_a_descent_that_was_killed_continues_as_if_undisturbed(by: str, family: Path, tmp_path: Path) -> None:
    plan = plan_search(
        read_space(space(family, by, more=", {text: english, at_most: base + 0.02}")), texts=GIVEN
    )
    report = run_search(plan, tmp_path / "whole").report
    assert report.about["by"] == by
    asked = Records(tmp_path / "whole" / "trials.jsonl").asked
    lengths = {round(abs(asked[1].point[name] - asked[0].point[name]), 4) for name in asked[0].point}  # type: ignore[operator]
    assert (len(lengths) == 1) == (by == "gradient")  # Adam's first step is as long for each number
    rows = (tmp_path / "whole" / "trials.jsonl").read_bytes().splitlines(keepends=True)
    trials = [number for number, row in enumerate(rows) if b'"trial 2"' in row]

    for cut in (trials[0], len(rows) - 2):
        folder = tmp_path / str(cut)
        folder.mkdir()
        check_folder(plan, folder)
        (folder / "trials.jsonl").write_bytes(b"".join(rows[:cut]) + rows[cut][:17])
        run_search(plan, folder)
        found, whole = (Records(place / "trials.jsonl") for place in (folder, tmp_path / "whole"))
        assert found.asked == whole.asked
        assert {key: one.figures for key, one in found.scored.items()} == {
            key: one.figures for key, one in whole.scored.items()
        }


def taught(family: Path, **settings: Any) -> str:
    """A search for what predicts like either parent on words of its own."""
    goals = [f"{{name: like {n}, text: {n}.txt, teacher: {family / n}}}" for n in "ab"]
    return space(family, **settings).replace("{text: words.txt}", ", ".join(goals))


@pytest.mark.parametrize("by", ["gradient", "tpe"])
def test_parents_teach_a_merge_without_labels(family: Path, tmp_path: Path, by: str) -> None:
    given = {"a.txt": texts(30), "b.txt": texts(60)[30:]}
    plan = plan_search(read_space(taught(family, by=by, trials=6)), texts=given)

    result = run_search(plan, tmp_path / "search")

    figures = result.report.figures
    for name in "ab":
        own = figures[f"like {name}"]
        assert own[f"parent {family / name}"]["search"] == pytest.approx(0, abs=1e-3)
        assert own[f"parent {family / 'base'}"]["report"] > 0.001
    # The merge on disk diverges from the parents on the report part by what the report says.
    winner = result.report.winner or ""
    assert result.best
    run_plan(make_plan(result.best, to=str(tmp_path / "merged")), str(tmp_path / "merged"))
    merged = load_model(tmp_path / "merged", device="cpu")
    for goal in plan.space.settings.goals:
        parent = load_model(goal.teacher, device="cpu")
        read = [document.text for document in plan.data.of(goal, "report")]
        teacher = Teacher(parent)
        teacher.read(parent, read)
        found = figure(divergence(merged, teacher, read))
        assert found == pytest.approx(figures[goal.name][winner]["report"], rel=1e-3)


def test_a_descent_with_teachers_continues_after_a_kill(family: Path, tmp_path: Path) -> None:
    given = {"a.txt": texts(30), "b.txt": texts(60)[30:]}
    plan = plan_search(read_space(taught(family)), texts=given)
    run_search(plan, tmp_path / "whole")
    rows = (tmp_path / "whole" / "trials.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "killed").mkdir()
    check_folder(plan, tmp_path / "killed")
    cut = next(number for number, row in enumerate(rows) if b'"trial 1"' in row)
    (tmp_path / "killed" / "trials.jsonl").write_bytes(b"".join(rows[:cut]))

    # Another process has heard no teacher yet.
    run_search(plan_search(read_space(taught(family)), texts=given), tmp_path / "killed")

    found, whole = (Records(tmp_path / name / "trials.jsonl") for name in ("killed", "whole"))
    assert found.asked == whole.asked
    assert {key: one.figures for key, one in found.scored.items()} == {
        key: one.figures for key, one in whole.scored.items()
    }


def test_a_descent_begins_at_the_best_start(family: Path, tmp_path: Path) -> None:
    text = space(family, trials=2).replace("start: 0.5", "start: 0.1")
    text = text.replace("  by:", "  starts: [lm_cocktail, greedy_soup]\n  by:")
    plan = plan_search(read_space(text), texts=GIVEN)

    run_search(plan, tmp_path)

    records = Records(tmp_path / "trials.jsonl")
    goals = plan.space.settings.goals
    scores = {
        who: score(one.figures, goals)
        for (who, part), one in records.scored.items()
        if part == "search" and (who == "given" or who.startswith("start "))
    }
    assert set(scores) == {"given", "start lm_cocktail", "start greedy_soup"}
    # The weights of a cocktail: the softmax of minus both parents' losses, in nats of four bytes.
    parents = [str(family / name) for name in "ab"]
    losses = [score(records.scored[f"parent {name}", "search"].figures, goals) for name in parents]
    weights = lm_cocktail([4 * math.log(2) * loss for loss in losses])
    points = {
        "given": plan.space.start,
        "start lm_cocktail": plan.space.weighted(dict(zip(parents, weights, strict=True))),
        "start greedy_soup": plan.space.weighted(dict.fromkeys(parents, 0.5)),
    }
    best = min(scores, key=lambda who: scores[who])
    assert records.asked[0].point == pytest.approx(points[best], abs=1e-6)
    first = score(records.scored["trial 0", "search"].figures, goals)
    assert first == pytest.approx(scores[best], abs=1e-5)


def test_a_gradient_is_taken_only_where_there_is_one(family: Path, tmp_path: Path) -> None:
    for method, by in (("task_arithmetic", "gradient"), ("ties", "auto")):
        text = space(family, "auto", 3).replace("task_arithmetic", method)
        found = run_search(plan_search(read_space(text), texts=GIVEN), tmp_path / method)
        assert found.report.about["by"] == by


def test_cost_is_estimated_before_the_start(family: Path, tmp_path: Path) -> None:
    """Documents that are scored, not seconds: other work on the machine takes its time too."""
    plan = plan_search(read_space(space(family, "nsga2", 9)), texts=GIVEN)
    measured = measure(plan)
    run_search(plan, tmp_path)

    records = Records(tmp_path / "trials.jsonl")
    scored = sum(len(rows) for one in records.scored.values() if one.seconds for rows in one.figures.values())
    each = measured.seconds / len(plan.data.of(plan.space.settings.goals[0], "search"))
    assert 1 / 1.5 < measured.total / (scored * each) < 1.5
    assert measured.least and 0 < measured.making < measured.seconds


def test_models_that_do_not_fit_are_refused_with_both_numbers(family: Path) -> None:
    plan = plan_search(read_space(space(family)), texts=GIVEN, workers=3, memory=100_000_000)

    found = next(problem for problem in plan.problems if problem.code == "search-too-large")
    assert found.values["free"] == 0.1 and found.values["needed"] > 0.3
    assert "3 live models need" in found.message


@pytest.mark.parametrize(
    ("changes", "workers", "said"),
    [
        ({"task_arithmetic": "ties"}, 1, "no derivative by 'weight' of ties"),
        ({"task_arithmetic": "dare_linear", "weight: {search: [0, 1.2]": "weight: 1, density: {search: [0, 1]"}, 1,
         "no derivative by 'density' of dare_linear"),
        ({"{text: words.txt}": "{python: judge.py:score, text: words.txt}"}, 1, "every objective a text"),
        ({}, 2, "in one process, not in 2"),
        ({"by: gradient": "by: cmaes", ", anchors: 2": "", "{search: [0, 1.2], start: 0.5}}}\ndtype": "1}}\ndtype"}, 1,
         "needs two numbers or more; the space has 1"),
    ],
)  # fmt: skip
def test_a_way_that_does_not_suit_the_space_is_refused_before_anything_is_scored(
    family: Path, tmp_path: Path, changes: dict[str, str], workers: int, said: str
) -> None:
    text = space(family)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    plan = plan_search(read_space(text), texts=GIVEN, score=lambda model, documents: [], workers=workers)

    assert said in " ".join(problem.message for problem in plan.problems)
    with pytest.raises(SearchError, match=said):
        run_search(plan, tmp_path / "search")
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize(
    ("by", "lacks"),
    [("tpe", True), ("gradient", False), ("lbfgs", False), ("auto", False), ("grid", False)],
)
def test_optuna_is_missed_only_where_it_is_needed(
    family: Path, by: str, lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searching.optimiser.find_spec", lambda name: None)

    plan = plan_search(read_space(space(family, by)), texts=GIVEN)

    assert [problem.code for problem in plan.problems] == (["no-optuna"] if lacks else [])


def test_the_command_searches_and_reports(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "space.yaml").write_text(space(family, "tpe", 4))
    (tmp_path / "words.txt").write_text("\n\n".join(GIVEN["words.txt"]))
    at, to = str(tmp_path / "space.yaml"), str(tmp_path / "out")

    assert main(["plan", at]) == DONE
    said = capsys.readouterr().out
    assert "up to 4 trials by tpe" in said and "mostly shows differences of" in said
    assert main(["plan", at, "--quick", "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["documents"]["words.txt"]["report"] >= 5
    assert main(["run", at, "--to", to, "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert found["trials"]["ended"] == 4
    assert main(["best", to]) == DONE
    assert read_recipe(capsys.readouterr().out).merge_method == "task_arithmetic"
    assert main(["report", to]) == DONE
    assert found["verdict"] in capsys.readouterr().out
    assert main(["run", at, "--to", to, "--by", "random"]) == FAILED
    assert "the space changed" in capsys.readouterr().err


def test_what_the_command_refuses(family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = tmp_path / "space.yaml"
    (tmp_path / "words.txt").write_text("\n\n".join(texts(6)))
    for text, words in (
        (space(family).replace("[0, 1.2]", "[1, 0]"), "two numbers, the lower one first"),
        (space(family), "which needs"),
        (space(family).replace("words.txt", "other.txt"), "other.txt"),
        (space(family).replace("{text: words.txt}", "{python: judge.py:score}"), "cannot be loaded"),
    ):
        at.write_text(text)
        assert main(["run", str(at), "--to", str(tmp_path / "out")]) == CANNOT_BE_SEARCHED
        assert words in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == FAILED
    assert "holds no search" in capsys.readouterr().err


def test_a_recipe_without_ranges_is_no_space(family: Path) -> None:
    with pytest.raises(RecipeError, match="one `search:` block"):
        read_space(f"merge_method: linear\nmodels: [{{model: {family / 'a'}, parameters: {{weight: 1}}}}]")
