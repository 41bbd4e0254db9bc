"""One file of documents says merge, cut, heal and more; `alloy run` carries it out."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import gguf
import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from alloy.__main__ import main
from alloy.pipeline import Done, Pipeline, plan_pipeline, read_pipeline, run_pipeline
from checkpoints.problems import PlanError, RecipeError
from evaluation import Cancelled, load_model, perplexity
from evaluation.text import bundled_text
from merging import make_plan, merge_into_memory, read_recipe
from merging.command_line import CANNOT_BE_MERGED, DONE
from tests import ROOT
from tests.evaluation.conftest import make_network, make_tokenizer, one_thread
from tests.merging.gguf.models import tiny

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
    return merged_cut_healed(*parents)


def merged_cut_healed(one: Path, two: Path) -> str:
    """A pipeline of three documents; the text to heal with stands beside it in `text.txt`."""
    return f"""name: both
merge_method: linear
parameters: {{weight: 0.5}}
models: [{{model: {one}}}, {{model: {two}}}]
---
name: short
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
    path.write_text(text + "---\n" + soup)
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


def with_noise(model: Path, to: Path) -> Path:
    """Another model of the same shapes and tokenizer."""
    shutil.copytree(model, to)
    tensors = load_file(to / "model.safetensors")
    torch.manual_seed(1)
    noisy = {
        name: (one + 0.02 * torch.randn_like(one.float())).to(one.dtype) for name, one in tensors.items()
    }
    save_file(noisy, to / "model.safetensors", {"format": "pt"})
    return to


@pytest.fixture
def story(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Merge, cut, heal, search and GGUF files."""
    models = tmp_path_factory.mktemp("models")
    one = tiny(models / "one", "llama", 192, layers=4)
    two = with_noise(one, models / "two")
    drawn = random.Random(0)
    words = ["river", "stone", "lamp", "garden", "winter", "ladder", "copper", "violin"]
    lines = [" ".join(drawn.choice(words) for _ in range(12)) + f" {number}." for number in range(50)]
    (tmp_path / "words.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    (tmp_path / "text.txt").write_text("".join(f"Line {number} of a text.\n" for number in range(200)))
    return f"""{merged_cut_healed(one, two)}---
name: found
merge_method: linear
models:
  - {{model: healed, parameters: {{weight: {{search: [0, 1], start: 0.5}}}}}}
  - {{model: short, parameters: {{weight: 0.5}}}}
search:
  objective: [{{text: words.jsonl}}]
  by: random
  budget: {{trials: 2}}
---
gguf: [F16]
"""


def test_a_pipeline_tells_its_story_and_a_dead_one_continues_at_each_stage(
    story: str, tmp_path: Path
) -> None:
    plan = plan_pipeline(pipeline_of(story), str(tmp_path / "out"), folder=tmp_path)
    assert plan.ok, plan.problems
    given = {path.name for path in tmp_path.iterdir()}
    work = tmp_path / "out.pipeline"
    steps: list[int] = []

    def run(dies_at: int) -> Done:
        def die(number: int, _: object) -> None:
            if number == dies_at:
                raise OSError("the machine died")

        return run_pipeline(
            plan,
            str(tmp_path / "out"),
            keep=True,
            on_stage=die,
            on_step=lambda step: steps.append(step.number),
        )

    left: list[set[str]] = []
    for stage in (2, 3):
        with pytest.raises(OSError, match="died"):
            run(stage)
        left.append({path.name for path in work.iterdir()})
    best = (work / "found.yaml").read_text()
    done = run(0)

    assert left == [
        {"pipeline.json", "healed"},
        {
            "pipeline.json",
            "healed",
            "short",
            "found.search",
            "found.yaml",
        },  # a search reads models, never `both`
    ]
    assert steps == [1, 2]
    assert {path.name for path in tmp_path.iterdir()} - given == {"out", "out-GGUF"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert story.strip() in card
    assert [line for line in card.splitlines() if line.startswith(("## Training", "## Search"))]
    assert all(said.splitlines()[0] in card for said in done.found.split("\n\n") if said.startswith("## "))
    assert "out.pipeline" not in card
    [file] = (tmp_path / "out-GGUF").glob("*.gguf")
    assert "out.pipeline" not in (tmp_path / "out-GGUF" / "README.md").read_text()
    weights = {float(number) for number in re.findall(r"weight: ([0-9.]+)", best)}
    assert weights
    whole = load_file(tmp_path / "out" / "model.safetensors")
    made = {one.name: one.data for one in gguf.GGUFReader(file).tensors}
    norm = whole["model.norm.weight"].float().numpy()
    assert numpy.array_equal(made["output_norm.weight"], norm)


def test_gguf_files_that_cannot_be_made_are_known_before_anything_runs(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all.yaml").write_text(f"{text}---\ngguf: [F16, Q9_X]\n")
    assert main(["run", str(tmp_path / "all.yaml"), "--to", str(tmp_path / "out")]) == CANNOT_BE_MERGED
    said = capsys.readouterr().err
    assert "Q9_X" in said
    assert f":{text.count(chr(10)) + 2}:" in said or f"line {text.count(chr(10)) + 2}" in said

    # The tokenizer is one of a test, which llama.cpp does not know.
    found = plan_pipeline(pipeline_of(f"{text}---\ngguf: F16\n"), folder=tmp_path)
    assert [problem.code for problem in found.problems] == ["gguf-unknown-pre-tokenizer"]


def test_a_folder_that_the_gguf_files_would_go_to_is_looked_at_first(story: str, tmp_path: Path) -> None:
    (tmp_path / "out-GGUF").mkdir()
    (tmp_path / "out-GGUF" / "mine.gguf").write_bytes(b"mine")

    found = plan_pipeline(pipeline_of(story), str(tmp_path / "out"), folder=tmp_path)

    assert [problem.code for problem in found.problems] == ["folder-not-empty"]


# Runs a pipeline, and dies before a stage or after a step, without a word.
KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from alloy.pipeline import plan_pipeline, read_pipeline, run_pipeline
text, folder, to, when, number = sys.argv[1:]
def die_at(found):
    if found == int(number): os.kill(os.getpid(), signal.SIGKILL)
plan = plan_pipeline(read_pipeline(Path(text).read_text()), to, folder=Path(folder))
stage = (lambda at, _: die_at(at)) if when == "stage" else None
step = (lambda one: die_at(one.number)) if when == "step" else None
run_pipeline(plan, to, keep=True, on_stage=stage, on_step=step)
"""


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_a_killed_pipeline_ends_with_the_same_bits(story: str, tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(story)
    assert main(["run", str(path), "--to", str(tmp_path / "whole"), "--keep"]) == DONE
    to = tmp_path / "out"
    for when, number in (("step", 1), ("stage", 2), ("stage", 3)):
        command = [sys.executable, "-c", KILLED, str(path), str(tmp_path), str(to), when, str(number)]
        died = subprocess.run(command, cwd=ROOT, check=False)
        assert died.returncode == -signal.SIGKILL
        assert not to.exists()

    assert main(["run", str(path), "--to", str(to), "--keep"]) == DONE

    for folder, other in (("out", "whole"), ("out-GGUF", "whole-GGUF")):
        for suffix in ("*.safetensors", "*.gguf"):
            files, others = (sorted((tmp_path / one).glob(suffix)) for one in (folder, other))
            # The name of a model is in the header of its GGUF file.
            assert [file.read_bytes()[-50_000:] for file in files] == [
                file.read_bytes()[-50_000:] for file in others
            ]
    left = {"all.yaml", "words.jsonl", "text.txt", "out", "out-GGUF", "whole", "whole-GGUF"}
    assert {one.name for one in tmp_path.iterdir()} == left


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
