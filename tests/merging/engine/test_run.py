"""Runs: the same bits however they are cut up, all or nothing, and a way to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from checkpoints.problems import Place
from merging import (
    Cancelled,
    CheckpointError,
    DestinationError,
    MergeError,
    Plan,
    PlanError,
    Progress,
    make_plan,
    read_recipe,
    run_plan,
)
from merging.destinations import Stored
from merging.destinations.folder import FolderShard, FolderSink
from tests import ROOT
from tests.hub import Hub
from tests.merges import STALLED, Run, files, merged, ties, wait_for, weight_files, weights

# -- the result ----------------------------------------------------------------------------------------------


def test_same_bytes_for_any_number_of_workers(folder: Path, tmp_path: Path) -> None:
    for workers in (1, 2, 7):
        merged(ties(folder), tmp_path / str(workers) / "out", workers=workers)

    assert files(tmp_path / "1/out") == files(tmp_path / "2/out") == files(tmp_path / "7/out")


def test_same_tensors_for_any_shard_size(folder: Path, tmp_path: Path) -> None:
    for size in (1, 10**9):
        merged(ties(folder), tmp_path / str(size), shard_size=size)

    small = {k: v for file in (tmp_path / "1").glob("*.safetensors") for k, v in load_file(file).items()}
    large = load_file(tmp_path / str(10**9) / "model.safetensors")
    assert small.keys() == large.keys()
    assert all(torch.equal(small[name], large[name]) for name in large)


def test_same_bytes_in_fresh_processes_with_other_hash_seeds(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(ties(folder))
    results = []
    for seed in ("1", "2"):
        out = tmp_path / seed / "out"
        command = [sys.executable, "-m", "merging", "run", str(tmp_path / "recipe.yaml"), "--to", str(out)]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
        results.append(files(out))

    assert results[0] == results[1]


def test_shards_are_what_safetensors_would_write(folder: Path, tmp_path: Path) -> None:
    merged(ties(folder), tmp_path / "out")

    for shard in (tmp_path / "out").glob("*.safetensors"):
        save_file(load_file(shard), tmp_path / "again", metadata={"format": "pt"})
        assert shard.read_bytes() == (tmp_path / "again").read_bytes()


def test_the_result_is_complete_and_loads(folder: Path, tmp_path: Path) -> None:
    plan = merged(ties(folder), tmp_path / "out")

    names = files(tmp_path / "out").keys()
    assert {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "README.md",
        "mergekit_config.yml",
    } <= names
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
    assert sum(p.numel() for p in model.parameters()) == sum(t.elements for t in plan.tensors)


def test_buffers_that_are_no_floats_are_copied_if_they_agree(folder: Path, tmp_path: Path) -> None:
    for name, number in (("x", 1), ("y", 1), ("z", 2)):
        weights = {**load_file(folder / "a/model.safetensors"), "position_ids": torch.tensor([[0, number]])}
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text((folder / "a/config.json").read_text())
        save_file(weights, tmp_path / name / "model.safetensors")

    def recipe(other: str) -> str:
        models = [{"model": str(tmp_path / name), "parameters": {"weight": 1}} for name in ("x", other)]
        return yaml.safe_dump({"merge_method": "linear", "models": models})

    merged(recipe("y"), tmp_path / "out")
    assert load_file(file_with(tmp_path / "out", "position_ids"))["position_ids"].tolist() == [[0, 1]]
    with pytest.raises(CheckpointError, match=r"position_ids .* differs between the models"):
        merged(recipe("z"), tmp_path / "never")


def file_with(folder: Path, tensor: str) -> Path:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / str(index["weight_map"][tensor])


def test_progress_ends_with_everything_done(folder: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    plan = merged(ties(folder), tmp_path / "out", on_progress=seen.append)

    assert seen[0].phase == "read headers"
    assert seen[-1].phase == "finish"
    assert (seen[-1].bytes_done, seen[-1].tensors_done) == (plan.bytes_out, len(plan.tensors))
    assert all(a.bytes_done <= b.bytes_done for a, b in pairwise(seen))


# -- stopping, failing, refusing ------------------------------------------------------------------------------


def test_a_plan_with_problems_is_not_run(tmp_path: Path) -> None:
    plan = make_plan(read_recipe("merge_method: passthrough\nmodels: [{model: /nowhere at all}]"))

    with pytest.raises(PlanError, match="neither a folder here nor a model's id"):
        run_plan(plan, str(tmp_path / "out"))


def test_cancel_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(read_recipe(ties(folder)))
    cancel = threading.Event()

    def at_once(progress: Progress) -> None:
        if progress.phase == "merge":
            cancel.set()

    with pytest.raises(Cancelled):
        run_plan(plan, str(tmp_path / "out"), on_progress=at_once, cancel=cancel)

    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_callback_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    def fail(progress: Progress) -> None:
        if progress.phase == "upload":
            raise RuntimeError("the page is gone")

    with pytest.raises(RuntimeError, match="the page is gone"):
        merged(ties(folder), tmp_path / "out", on_progress=fail)

    assert list(tmp_path.iterdir()) == []


def test_a_model_that_changed_since_the_plan(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(read_recipe(ties(folder)))
    changed = replace(plan, models=tuple(replace(model, version="0" * 40) for model in plan.models))

    with pytest.raises(CheckpointError, match="has changed since the plan was made"):
        run_plan(changed, str(tmp_path / "out"))


def test_a_full_folder_is_not_replaced_unless_told(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    plan = make_plan(read_recipe(ties(folder)), str(out))

    assert [problem.code for problem in plan.problems] == ["folder-not-empty"]
    with pytest.raises(DestinationError):
        run_plan(replace(plan, problems=()), str(out))
    assert files(out) == {"thesis.txt": b"years of work"}

    merged_plan = make_plan(read_recipe(ties(folder)), str(out), overwrite=True)
    run_plan(merged_plan, str(out), overwrite=True)
    assert "thesis.txt" not in files(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_runs_to_one_folder_do_not_mix(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(read_recipe(ties(folder)))
    errors: list[Exception] = []

    def second(progress: Progress) -> None:
        if progress.phase == "upload" and not errors:
            try:
                run_plan(plan, str(tmp_path / "out"))
            except DestinationError as error:
                errors.append(error)

    run_plan(plan, str(tmp_path / "out"), on_progress=second)

    assert "Another merge is writing to" in str(errors[0])
    assert "config.json" in files(tmp_path / "out")


def test_no_room_on_the_disk_is_found_while_planning(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("merging.destinations.folder.shutil.disk_usage", lambda _: usage)

    [problem] = make_plan(read_recipe(ties(folder)), str(tmp_path / "out")).problems

    assert problem.code == "disk-too-small"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_no_half_folder(
    end: signal.Signals, folder: Path, tmp_path: Path, hub: Hub, alice: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(ties("alice"))
    stalled = hub.fault("GET", "^/lfs/", delay=STALLED, skip=12, times=None)
    place = tmp_path / "results"

    run = Run([str(tmp_path / "recipe.yaml"), "--to", str(place / "out")], alice)
    wait_for(lambda: stalled.hits > 0 and (place / ".out.merging").exists())
    run.send_signal(end)
    status, _ = run.end()

    assert status == (1 if end is signal.SIGTERM else -signal.SIGKILL)
    assert not (place / "out").exists()
    if end is signal.SIGTERM:
        assert list(place.iterdir()) == []
    hub.clear_faults()
    merged(ties(folder), place / "out")  # what was left is in nobody's way
    assert [path.name for path in place.iterdir()] == ["out"]


def test_a_shard_that_waits_for_room_does_not_keep_others_from_ending(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shard is open at a time; a worker asks for the next one while another is still on the last tensor."""
    room, asked = threading.Semaphore(1), threading.Event()
    open_shard, write, close = FolderSink.open_shard, FolderShard.write, FolderShard.close

    def wait_for_room(self: FolderSink, filename: str, size: int) -> FolderShard:
        if filename.startswith("model-00002"):
            asked.set()
        assert room.acquire(timeout=60), "the first shard never ended"
        return open_shard(self, filename, size)

    def write_late(self: FolderShard, offset: int, data: memoryview) -> None:
        # Not the header, which is written when the shard is opened.
        if offset and threading.current_thread().name.endswith("_0"):
            assert asked.wait(60)
        write(self, offset, data)

    def give_room(self: FolderShard) -> Stored:
        stored = close(self)
        room.release()
        return stored

    monkeypatch.setattr(FolderSink, "open_shard", wait_for_room)
    monkeypatch.setattr(FolderShard, "write", write_late)
    monkeypatch.setattr(FolderShard, "close", give_room)

    merged(ties(folder), tmp_path / "out", workers=2)


# -- the Hub -------------------------------------------------------------------------------------------------


def test_hub_to_hub_gives_the_bytes_of_the_folder_merge(
    folder: Path, tmp_path: Path, hub: Hub, alice: str
) -> None:
    merged(ties(folder), tmp_path / "out")

    merged(ties("alice"), "hf://alice/out", token=alice)

    repo = hub.repo("alice/out")
    assert repo.private
    assert len(repo.history()) == 2  # its birth, and one commit with everything
    for name, content in files(tmp_path / "out").items():
        if name.endswith(".safetensors") or name in ("config.json", "tokenizer.json"):
            assert hub.read("alice/out", name) == content, name
    assert {*repo.files()} == {*files(tmp_path / "out"), ".gitattributes"}


def test_hub_to_hub_writes_nothing_to_disk(tmp_path: Path, hub: Hub, alice: str) -> None:
    (tmp_path / "recipe.yaml").write_text(ties("alice"))
    code = """
import sys, psutil
from merging.__main__ import main
status = main(["run", sys.argv[1], "--to", "hf://alice/out"])
print(status, psutil.Process().io_counters().write_bytes)
"""
    work = tmp_path / "work"
    work.mkdir()
    env = {**os.environ, "HF_TOKEN": alice, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
    env |= {"HF_HOME": str(work / "hf"), "TMPDIR": str(work), "HOME": str(work)}

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "recipe.yaml")],
        cwd=work, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip

    status, written = done.stdout.splitlines()[-1].split()
    assert status == "0"
    # Python's tempfile tries its folder out, with a page or two; the model would be 80 of them.
    assert int(written) <= 10 * 4096
    assert list(work.rglob("*")) == []
    assert "model.safetensors" in hub.repo("alice/out").files()


def test_the_token_goes_to_the_hub_only(hub: Hub, alice: str) -> None:
    merged(ties("alice"), "hf://alice/out", token=alice)

    assert hub.log.find(host="localhost")
    assert not any(exchange.auth for exchange in hub.log.find(host="localhost"))


def test_a_model_on_the_hub_is_not_replaced_unless_told(folder: Path, hub: Hub, alice: str) -> None:
    hub.put(
        "alice/out", {"model-00001-of-00009.safetensors": b"old", "config.json": b"{}", "notes.md": b"keep"}
    )
    plan = make_plan(read_recipe(ties("alice")), "hf://alice/out", token=alice)

    assert [problem.code for problem in plan.problems] == ["destination-exists"]
    with pytest.raises(DestinationError):
        run_plan(replace(plan, problems=()), "hf://alice/out", token=alice)
    assert hub.read("alice/out", "config.json") == b"{}"

    overwriting = make_plan(read_recipe(ties("alice")), "hf://alice/out", token=alice, overwrite=True)
    run_plan(overwriting, "hf://alice/out", token=alice, overwrite=True)
    names = hub.repo("alice/out").files()
    assert "model-00001-of-00009.safetensors" not in names
    assert {"model.safetensors", "notes.md"} <= names.keys()
    assert not hub.repo("alice/out").private


@pytest.mark.parametrize("shard_size", [10**9, 30_000])
def test_a_pull_request_leaves_the_model_that_stands_there(
    hub: Hub, alice: str, folder: Path, tmp_path: Path, shard_size: int
) -> None:
    """In one file, and in several with a journal."""
    hub.put("alice/out", {"model.safetensors": b"old", "config.json": b"{}"})
    before = dict(hub.repo("alice/out").refs)
    ways = {"token": alice, "pull_request": True}

    plan = make_plan(read_recipe(ties("alice")), "hf://alice/out", shard_size=shard_size, **ways)
    result = run_plan(plan, "hf://alice/out", **ways)

    assert (result.location, result.verified) == ("hf://alice/out@refs/pr/1", True)
    assert result.url
    assert result.url.endswith("/alice/out/discussions/1")
    assert hub.repo("alice/out").refs == {**before, "refs/pr/1": result.commit}
    merged(ties(folder), tmp_path / "out", shard_size=shard_size)
    asked = {name for name in hub.repo("alice/out").files("refs/pr/1") if name.endswith(".safetensors")}
    assert asked == {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    for name in asked:
        assert hub.read("alice/out", name, "refs/pr/1") == (tmp_path / "out" / name).read_bytes()


def test_public_only_when_asked(hub: Hub, alice: str) -> None:
    merged(ties("alice"), "hf://alice/open", token=alice, private=False)

    assert not hub.repo("alice/open").private


@pytest.mark.parametrize(
    ("to", "who", "code"),
    [
        ("hf://bob/out", "alice", "not-yours"),
        ("hf://alice/out", None, "no-login"),
        ("hf://alice", "alice", "repository-id"),
        ("hf://alice/../x", "alice", "repository-id"),
    ],
)
def test_destinations_that_cannot_be_used(
    to: str, who: str | None, code: str, folder: Path, hub: Hub, alice: str
) -> None:
    plan = make_plan(read_recipe(ties(folder)), to, token=alice if who else False)

    assert [problem.code for problem in plan.problems] == [code]
    assert alice not in str(plan.problems)


def test_models_that_this_login_may_not_read(hub: Hub, alice: str, folder: Path) -> None:
    bob = hub.add_user("bob")
    hub.put("alice/gated", folder / "a", gated="auto")
    text = "merge_method: linear\nparameters: {weight: 1}\nmodels:\n- model: alice/a\n- model: alice/gated\n"
    text += "- model: alice/b@nowhere\n"

    plan = make_plan(read_recipe(text), token=bob)

    assert [(p.code, p.where) for p in plan.problems] == [
        ("model-not-found", Place(4, 10)),
        ("gated", Place(5, 10)),
        ("model-not-found", Place(6, 10)),
    ]
    [revision] = make_plan(read_recipe(text.replace("alice/gated", "alice/base")), token=alice).problems
    assert revision.code == "no-revision"


def test_a_push_during_the_merge_changes_nothing(folder: Path, tmp_path: Path, hub: Hub, alice: str) -> None:
    plan = make_plan(read_recipe(ties("alice")), token=alice)
    hub.put("alice/a", folder / "base")

    run_plan(plan, str(tmp_path / "pinned"), token=alice)
    merged(ties(folder), tmp_path / "out", shard_size=10**9)

    assert (tmp_path / "pinned/model.safetensors").read_bytes() == (
        tmp_path / "out/model.safetensors"
    ).read_bytes()


def test_a_gpu_that_is_not_there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    with pytest.raises(MergeError, match="no CUDA device"):
        merged(ties(folder), tmp_path / "out", device="cuda")


@pytest.fixture
def all_but_published(hub: Hub, alice: str) -> Plan:
    """A merge that failed when every file was in the journal."""
    plan = make_plan(read_recipe(ties("alice")), "hf://alice/out", token=alice, shard_size=60_000)
    hub.fault("POST", "/commit/main", status=403, times=None)
    with pytest.raises(DestinationError):
        run_plan(plan, "hf://alice/out", token=alice)
    hub.clear_faults()
    hub.log.clear()
    return plan


def test_with_everything_in_the_journal_no_model_is_opened(
    all_but_published: Plan,
    hub: Hub,
    alice: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> object:
        raise AssertionError("a model was opened")

    with monkeypatch.context() as patch:
        patch.setattr("merging.engine.models.open_models", never)
        result = run_plan(all_but_published, "hf://alice/out", token=alice)

    assert (result.verified, result.written_by) == (True, ("an earlier run",))
    assert not hub.log.find("GET", "^/lfs/alice/(base|a|b)/")
    merged(ties(folder), tmp_path / "right", 60_000)
    assert weights(hub, "alice/out") == weight_files(tmp_path / "right")
    assert hub.read("alice/out", "tokenizer.json") == b"{}"


def test_with_everything_in_the_journal_torch_is_not_imported(
    all_but_published: Plan, hub: Hub, alice: str, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(ties("alice"))
    code = "import sys, merging.__main__ as m; assert m.main(sys.argv[1:]) == 0; print(*sys.modules)"
    command = ["run", str(tmp_path / "recipe.yaml"), "--to", "hf://alice/out", "--shard-size", "60000"]

    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=ROOT, env={**os.environ, "HF_TOKEN": alice}, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert "an earlier run" in done.stdout
    assert "torch" not in done.stdout.split()
