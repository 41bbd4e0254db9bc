"""One file of documents says merge, cut, heal and more; `alloy run` carries it out."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from alloy.__main__ import main
from alloy.pipeline import Pipeline, plan_pipeline, read_pipeline, run_pipeline
from checkpoints.problems import PlanError, RecipeError
from evaluation import Cancelled, load_model, perplexity
from evaluation.text import bundled_text
from merging import make_plan, merge_into_memory, read_recipe
from merging.command_line import CANNOT_BE_MERGED, DONE
from tests.evaluation.conftest import make_network, make_tokenizer, one_thread

__all__ = ["one_thread"]

ARGUMENTS = "{max_steps: 2, per_device_train_batch_size: 2, max_length: 32, lora_r: 4, learning_rate: 0.001}"


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    found = []
    for seed, name in enumerate(("one", "two")):
        make_network(seed=seed, num_hidden_layers=4).save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
        found.append(folder / name)
    return found


@pytest.fixture
def text(parents: list[Path], tmp_path: Path) -> str:
    """Merge, cut, and heal with the merge as the teacher."""
    (tmp_path / "text.txt").write_text("".join(f"Line {number} of a text.\n" for number in range(200)))
    return f"""name: both
merge_method: linear
parameters: {{weight: 0.5}}
models: [{{model: {parents[0]}}}, {{model: {parents[1]}}}]
---
merge_method: passthrough
slices:
  - sources: [{{model: both, layer_range: [0, 2]}}]
  - sources: [{{model: both, layer_range: [3, 4]}}]
---
name: healed
train: distillation
datasets: [{{path: text.txt}}]
arguments: {ARGUMENTS}
evaluate: {{texts: english}}
"""


def pipeline_of(text: str) -> Pipeline:
    found = read_pipeline(text)
    assert found
    return found


def test_recipes_alone_are_no_pipeline(text: str) -> None:
    assert read_pipeline(text.rpartition("---")[0]) is None
    assert [one.kind for one in pipeline_of(text).documents] == ["recipe", "recipe", "train"]


def test_a_merge_on_the_way_is_the_teacher_and_is_not_written(text: str, tmp_path: Path) -> None:
    plan = plan_pipeline(pipeline_of(text), folder=tmp_path)
    assert plan.ok, plan.problems
    to = tmp_path / "out"
    seen: list[str] = []

    done = run_pipeline(
        plan, str(to), keep=True, on_stage=lambda number, one: seen.append(f"{number} {one.kind}")
    )

    assert seen == ["1 train"]
    assert done.result
    whole = merge_into_memory(make_plan(read_recipe(text.partition("---")[0])))
    assert load_model(to).network.config.num_hidden_layers == whole.config.num_hidden_layers - 1
    card = (to / "README.md").read_text()
    assert text.strip() in card
    assert "## Training" in card
    assert str(tmp_path / "out.") not in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "text.txt"]


def test_what_follows_a_training_uses_its_result(
    text: str, parents: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soup = "merge_method: linear\nparameters: {weight: 0.5}\nmodels: [{model: healed}, {model: short}]\n"
    path = tmp_path / "all.yaml"
    path.write_text(text.replace("merge_method: pass", "name: short\nmerge_method: pass") + "---\n" + soup)
    to = tmp_path / "out"

    assert main(["plan", str(path), "--json"]) == DONE
    train, merge = json.loads(capsys.readouterr().out)
    assert (train["stage"], train["name"], merge["stage"]) == ("train", "healed", "recipe")
    assert main(["run", str(path), "--to", str(to), "--keep"]) == DONE

    card = (to / "README.md").read_text()
    assert path.read_text().strip() in card
    assert "## Training" in card
    assert "all.pipeline" not in card
    assert all(parent.name in card for parent in parents)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["all.yaml", "out", "text.txt"]
    score = perplexity(load_model(to, device="cpu"), bundled_text("english"))
    cut = make_plan(read_recipe(path.read_text().partition("---\nname: healed")[0]))
    assert cut.ok
    assert score.perplexity > 0


def test_a_pipeline_that_died_continues_with_the_stage_that_is_missing(text: str, tmp_path: Path) -> None:
    again = (
        "---\ntrain: sft\nweights: all\ndatasets: [{path: text.txt}]\n"
        f"arguments: {ARGUMENTS}\nevaluate: {{texts: english}}\n"
    )
    plan = plan_pipeline(pipeline_of(text + again), folder=tmp_path)
    assert plan.ok, plan.problems
    work = tmp_path / "work"

    def die(number: int, _: object) -> None:
        if number == 2:
            raise OSError("the machine died")

    with pytest.raises(OSError, match="died"):
        run_pipeline(plan, str(tmp_path / "out"), work=work, keep=True, on_stage=die)
    assert (work / "healed" / "config.json").exists()
    marked = (work / "healed" / "model.safetensors").stat().st_mtime_ns
    steps: list[int] = []
    done = run_pipeline(
        plan, str(tmp_path / "out"), work=work, keep=True, on_step=lambda step: steps.append(step.number),
        on_stage=lambda number, _: steps.append(
            0 if number == 1 or (work / "healed" / "model.safetensors").stat().st_mtime_ns == marked else -1
        ),
    )  # fmt: skip

    assert steps == [0, 0, 1, 2]
    assert done.found.count("## Training") == 2
    assert not work.exists()
    with pytest.raises(PlanError, match="another pipeline"):
        (tmp_path / "work").mkdir()
        (tmp_path / "work" / "mine").write_text("x")
        run_pipeline(plan, str(tmp_path / "again"), work=work)


def test_a_cancelled_pipeline_leaves_nothing(text: str, tmp_path: Path) -> None:
    cancel = threading.Event()
    plan = plan_pipeline(pipeline_of(text), folder=tmp_path)

    with pytest.raises(Cancelled):
        run_pipeline(plan, str(tmp_path / "out"), on_step=lambda _: cancel.set(), cancel=cancel)

    assert [one.name for one in tmp_path.iterdir()] == ["text.txt"]


RECIPE = "merge_method: passthrough\nmodels: [{model: org/one}]\n"
TRAINING = "train: sft\ndatasets: [{path: a.jsonl}]\n"


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        (TRAINING, "no-stage-before", 1),
        (f"{RECIPE}---\n{TRAINING}---\n{RECIPE}", "stage-name", 4),
        (f"{RECIPE}---\n{TRAINING}name: a\n---\n{RECIPE}", "stage-unused", 4),
        (f"name: a\n{RECIPE}---\n{TRAINING}name: a\n", "stage-name-repeated", 5),
        (f"{RECIPE}---\ngguf: [F16]\n---\n{TRAINING}", "last-stage-gguf", 4),
        (f"{RECIPE}---\ngguf: {{}}\n", "not-a-list", 4),
    ],
)
def test_what_is_wrong_with_documents_has_a_place(text: str, code: str, line: int) -> None:
    with pytest.raises(RecipeError) as refused:
        read_pipeline(text)

    problem = refused.value.problems[0]
    assert problem.code == code
    assert getattr(problem.where, "line", None) == line
    assert problem.message


def test_problems_of_all_stages_are_known_before_anything_runs(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(text.replace("lora_r: 4", "lora_r: 400"))

    assert main(["run", str(path), "--to", str(tmp_path / "out")]) == CANNOT_BE_MERGED
    assert "`lora_r` is 400" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_recipe_reader_says_once_that_it_reads_no_pipeline(text: str) -> None:
    with pytest.raises(RecipeError) as refused:
        read_recipe(text)

    assert [problem.code for problem in refused.value.problems] == ["not-only-recipes"]
