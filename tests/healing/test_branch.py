"""The state of a training on a private branch of the Hub: killed runs continue from it, and nothing of it remains."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from checkpoints.problems import DestinationError
from evaluation import Cancelled
from healing import HealPlan, plan_training, run_training
from tests import ROOT
from tests.hub.hub import Hub

TO = "hf://alice/healed"
# Runs a chain, and dies after a step, without a word.
KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from healing import plan_training, run_training
text, folder, to, after = sys.argv[1:]
def on_step(step):
    if step.number == int(after): os.kill(os.getpid(), signal.SIGKILL)
plan = plan_training(Path(text).read_text(), folder=Path(folder))
run_training(plan, to, keep=True, on_step=on_step)
"""


@pytest.fixture
def alice(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    """The token of a user, which this machine is logged in with."""
    token = hub.add_user("alice")
    monkeypatch.setenv("HF_TOKEN", token)
    return token


@pytest.fixture
def plan(chain: str, tmp_path: Path) -> HealPlan:
    found = plan_training(chain, folder=tmp_path)
    assert found.ok
    return found


def branches(hub: Hub) -> list[str]:
    return [ref for ref in hub.repo("alice/healed").refs if ref.startswith("heal-")]


@pytest.mark.parametrize(
    "killed_after", [3, *(pytest.param(step, marks=pytest.mark.nightly) for step in (1, 2, 4, 5, 6))]
)
def test_another_machine_continues_a_killed_run_with_the_same_bits(
    killed_after: int,
    hub: Hub,
    alice: str,
    plan: HealPlan,
    chain: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_training(plan, "hf://alice/whole", keep=True)
    whole = hub.read("alice/whole", "model.safetensors")
    (tmp_path / "heal.yaml").write_text(chain)
    there = tmp_path / "temporary"
    there.mkdir()
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(tmp_path / "heal.yaml"),
        str(tmp_path),
        TO,
        str(killed_after),
    ]

    died = subprocess.run(
        command, cwd=ROOT, check=False, env={**os.environ, "TMPDIR": str(there), "HF_TOKEN": alice}
    )

    assert died.returncode == -signal.SIGKILL
    assert hub.repo("alice/healed").private
    assert branches(hub) == [f"heal-{plan.key[:16]}"]
    assert not any("safetensors" in name for name in hub.repo("alice/healed").files())
    shutil.rmtree(there)  # the machine is gone
    steps: list[int] = []
    run_training(plan, TO, keep=True, on_step=lambda step: steps.append(step.number))

    assert steps == list(range(killed_after + 1, 7))
    assert hub.read("alice/healed", "model.safetensors") == whole
    assert branches(hub) == []
    assert hub.repo("alice/healed").private


def test_a_cancelled_run_leaves_no_repository(hub: Hub, alice: str, plan: HealPlan) -> None:
    cancel = threading.Event()

    with pytest.raises(Cancelled):
        run_training(plan, TO, on_step=lambda _: cancel.set(), cancel=cancel)

    assert "alice/healed" not in hub.repos


def test_a_cancelled_run_leaves_a_repository_that_was_there(hub: Hub, alice: str, plan: HealPlan) -> None:
    hub.put("alice/healed", {"README.md": b"mine"}, private=True)
    cancel = threading.Event()

    with pytest.raises(Cancelled):
        run_training(plan, TO, on_step=lambda _: cancel.set(), cancel=cancel)

    assert branches(hub) == []
    assert hub.read("alice/healed", "README.md") == b"mine"


def test_a_state_is_never_public(hub: Hub, alice: str, plan: HealPlan) -> None:
    hub.put("alice/healed", {"README.md": b"mine"}, private=False)

    with pytest.raises(DestinationError, match="is public"):
        run_training(plan, TO)

    assert branches(hub) == []


def test_a_public_result_is_private_until_it_is_there(hub: Hub, alice: str, plan: HealPlan) -> None:
    seen: list[bool] = []

    run_training(
        plan, TO, keep=True, private=False, on_step=lambda _: seen.append(hub.repo("alice/healed").private)
    )

    assert all(seen)
    assert not hub.repo("alice/healed").private


def test_what_did_not_heal_leaves_no_repository(hub: Hub, alice: str, chain: str, tmp_path: Path) -> None:
    text = chain.replace("texts: english", "texts: english, stop_above: 0.0001")

    found = run_training(plan_training(text, folder=tmp_path), TO)

    assert found.result is None
    assert "alice/healed" not in hub.repos


def test_a_hub_that_refuses_the_state_is_named(hub: Hub, alice: str, plan: HealPlan) -> None:
    hub.fault("POST", "/commit/heal-", status=403, times=None)

    with pytest.raises(DestinationError, match="could not be kept in alice/healed"):
        run_training(plan, TO)
