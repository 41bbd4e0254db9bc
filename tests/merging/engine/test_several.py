"""Several merges at a time: the same bytes, and what they have in common is read once."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from checkpoints import open_checkpoint
from merging import Cancelled, DestinationError, Plan, Progress, Result, make_plan, read_recipe, run_plans
from merging.__main__ import main
from tests.hub import Hub
from tests.merges import files, merged, ties, weight_files

SIZE = 60_000


def linear(place: Path | str, weight: float) -> str:
    return (
        f"merge_method: linear\nmodels:\n- {{model: {place}/a, parameters: {{weight: {weight}}}}}\n"
        f"- {{model: {place}/b, parameters: {{weight: 1}}}}\n"
    )


def planned(recipe: str, to: Path, token: str | None = None) -> Plan:
    plan = make_plan(read_recipe(recipe), str(to), token=token, shard_size=SIZE)
    assert plan.problems == ()
    return plan


def read(hub: Hub) -> int:
    """Bytes of weights that the Hub sent."""
    return sum(exchange.bytes_out for exchange in hub.log.find("GET", "^/lfs/"))


def test_what_is_read_is_read_once(hub: Hub, alice: str, folder: Path, tmp_path: Path) -> None:
    weights = [0.2, 0.5, 0.9]
    for weight in weights:
        merged(linear(folder, weight), tmp_path / f"right-{weight}", SIZE)
    plans = [(planned(linear("alice", w), tmp_path / f"{w}", alice), str(tmp_path / f"{w}")) for w in weights]
    hub.log.clear()
    alone = run_plans(plans[:1], token=alice, overwrite=True, workers=2)
    once = read(hub)
    plans = [
        (planned(linear("alice", w), tmp_path / f"all-{w}", alice), str(tmp_path / f"all-{w}"))
        for w in weights
    ]
    hub.log.clear()

    results = run_plans(plans, token=alice, workers=2)

    assert all(isinstance(result, Result) for result in [*alone, *results])
    for weight in weights:
        assert weight_files(tmp_path / f"all-{weight}") == weight_files(tmp_path / f"right-{weight}")
    in_all = read(hub)
    hub.log.clear()
    for name in ("a", "b"):
        open_checkpoint(f"alice/{name}", token=alice).close()
    headers = read(hub)  # which every plan reads anew; of models as small as these they are a third
    assert in_all == once + 2 * headers


def test_plans_of_other_models_and_methods_go_together(folder: Path, tmp_path: Path) -> None:
    merged(ties(folder), tmp_path / "right", SIZE)
    merged(linear(folder, 0.5), tmp_path / "other", 10**9)
    one = planned(ties(folder), tmp_path / "one")
    two = make_plan(read_recipe(linear(folder, 0.5)), str(tmp_path / "two"))
    seen: list[Progress] = []

    run_plans([(one, str(tmp_path / "one")), (two, str(tmp_path / "two"))], on_progress=seen.append)

    assert weight_files(tmp_path / "one") == weight_files(tmp_path / "right")
    assert files(tmp_path / "two").keys() == files(tmp_path / "other").keys()
    assert weight_files(tmp_path / "two") == weight_files(tmp_path / "other")
    assert seen[-1].bytes_done == seen[-1].bytes_total == one.bytes_out + two.bytes_out


def test_one_that_fails_does_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    bad, good = planned(ties(folder), tmp_path / "bad"), planned(ties(folder), tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "file").write_text("here already")

    failed, done = run_plans([(bad, str(tmp_path / "bad")), (good, str(tmp_path / "good"))])

    assert isinstance(failed, DestinationError)
    assert isinstance(done, Result)


def test_a_stop_ends_all(folder: Path, tmp_path: Path) -> None:
    cancel = threading.Event()
    merges = [(planned(ties(folder), tmp_path / name), str(tmp_path / name)) for name in ("one", "two")]

    results = run_plans(merges, cancel=cancel, on_progress=lambda progress: cancel.set())

    assert [type(result) for result in results] == [Cancelled, Cancelled]
    assert not any(tmp_path.iterdir())


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for weight in (1, 2):
        (tmp_path / f"w{weight}.yaml").write_text(linear(folder, weight))
    recipes = [str(tmp_path / f"w{weight}.yaml") for weight in (1, 2)]
    merged(linear(folder, 2), tmp_path / "right", 10**9)

    assert main(["run", *recipes, "--to", str(tmp_path / "out" / "{name}")]) == 0
    assert capsys.readouterr().out.count(" in ") == 2
    assert weight_files(tmp_path / "out" / "w2") == weight_files(tmp_path / "right")
    assert main(["run", *recipes, "--to", str(tmp_path / "out" / "{name}")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(": error: ")[0] for line in told] == recipes
    for wrong in ([*recipes, "--to", "x"], [recipes[0], recipes[0], "--to", "{name}"]):
        with pytest.raises(SystemExit):
            main(["run", *wrong])


def test_one_that_cannot_be_merged_is_named_and_nothing_begins(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = [tmp_path / name for name in ("good.yaml", "bad.yaml", "worse.yaml")]
    for recipe, text in zip(recipes, (linear(folder, 1), linear(tmp_path, 1), "models: 3"), strict=True):
        recipe.write_text(text)

    status = main(["run", *map(str, recipes), "--to", str(tmp_path / "{name}"), "--progress", "jsonl"])

    assert status == 2
    lines = capsys.readouterr().err.splitlines()
    assert {line.partition(": error: ")[0] for line in lines if ": error: " in line} == {
        *map(str, recipes[1:])
    }
    failed = [json.loads(line) for line in lines if line.startswith("{")]
    assert [(line["phase"], line["recipe"]) for line in failed] == [
        ("failed", str(recipe)) for recipe in recipes[1:]
    ]
    assert not (tmp_path / "good").exists()


def test_each_states_its_licence(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(folder / name, tmp_path / name)
        (tmp_path / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    recipes = [tmp_path / f"w{weight}.yaml" for weight in (1, 2)]
    for weight, recipe in enumerate(recipes, 1):
        recipe.write_text(linear(tmp_path, weight))

    assert main(["run", *map(str, recipes), "--to", str(tmp_path / "out" / "{name}")]) == 0

    for recipe in recipes:
        assert "license: apache-2.0" in (tmp_path / "out" / recipe.stem / "README.md").read_text()
