"""Jobs on rented hardware: the command of each really runs, in a process of this machine."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HARDWARE: list[dict[str, Any]] = [
    {"name": name, "prettyName": title, "cpu": f"{cpus} vCPU", "ram": f"{memory} GB", "ephemeralStorage": "50 GB",
     "accelerator": accelerator, "unitCostMicroUSD": cost, "unitCostUSD": cost / 1e6, "unitLabel": "minute"}
    for name, title, cpus, memory, cost, accelerator in (
        ("cpu-basic", "CPU Basic", 2, 16, 167, None),
        ("cpu-upgrade", "CPU Upgrade", 8, 32, 500, None),
        ("cpu-xl", "CPU XL", 16, 124, 16_667, None),
        ("t4-small", "Nvidia T4 - small", 4, 15, 6_667,
         {"type": "gpu", "model": "T4", "quantity": "1", "vram": "16 GB", "manufacturer": "Nvidia"}),
    )
]  # fmt: skip


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class RentedJob:
    """One job.

    Attributes:
        spec: as it was asked for, secrets among it
        stage: SCHEDULING, RUNNING, COMPLETED, CANCELED or ERROR
        lines: its output, each with the time
        runs: how often its command was begun
    """

    id: str
    owner: str
    spec: dict[str, Any]
    created: str = field(default_factory=now)
    stage: str = "SCHEDULING"
    message: str | None = None
    lines: list[tuple[str, str]] = field(default_factory=list)
    runs: int = 0
    process: subprocess.Popen[str] | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def info(self) -> dict[str, Any]:
        """As the Hub describes it; of secrets only the names."""
        return {
            "id": self.id,
            "createdAt": self.created,
            "dockerImage": self.spec.get("dockerImage"),
            "command": self.spec["command"],
            "arguments": self.spec.get("arguments", []),
            "environment": self.spec.get("environment", {}),
            "secrets": dict.fromkeys(self.spec.get("secrets", {}), ""),
            "flavor": self.spec["flavor"],
            "labels": self.spec.get("labels", {}),
            "status": {"stage": self.stage, "message": self.message},
            "owner": {"id": f"id-of-{self.owner}", "name": self.owner, "type": "user"},
            "retry": self.spec.get("attempts", 1) - 1,
        }


class RentedJobs:
    """All jobs.

    Attributes:
        environment: more variables of every process, such as a PATH on which programs are stood in for
        jobs: by id
        without_scope: tokens that may do everything but this
        hold: whether jobs that are made are left in their queue
    """

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.jobs: dict[str, RentedJob] = {}
        self.without_scope: set[str] = set()
        self.hold = False
        self._numbers = itertools.count(1)

    def run(self, owner: str, spec: dict[str, Any], endpoint: str) -> RentedJob:
        """Make a job, and begin it."""
        job = RentedJob(f"{next(self._numbers):024x}", owner, spec)
        self.jobs[job.id] = job
        if not self.hold:
            threading.Thread(target=self._run, args=(job, endpoint), name="rented", daemon=True).start()
        return job

    def cancel(self, job: RentedJob) -> None:
        if not job.ended.is_set():
            job.stage = "CANCELED"
            _kill(job)

    def lose(self, job: RentedJob) -> None:
        """Let its machine die; the job gets another one if it has attempts left."""
        _kill(job)

    def stop(self) -> None:
        """End all."""
        for job in self.jobs.values():
            self.cancel(job)
        self.jobs.clear()

    def _run(self, job: RentedJob, endpoint: str) -> None:
        attempts = job.spec.get("attempts", 1)
        while job.runs < attempts and job.stage != "CANCELED":
            job.runs += 1
            code = self._attempt(job, self._environment(job.spec, endpoint))
            if job.stage == "CANCELED":
                break
            if code == 0:
                job.stage = "COMPLETED"
                break
            if code is None:
                job.stage, job.message = "ERROR", "Job timeout"
                break
            if job.runs == attempts:
                job.stage, job.message = "ERROR", f"Job failed with exit code: {code}"
        job.ended.set()

    def _environment(self, spec: Mapping[str, Any], endpoint: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        kept |= {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return {**kept, **self.environment, **spec.get("environment", {}), **spec.get("secrets", {})}

    def _attempt(self, job: RentedJob, environment: Mapping[str, str]) -> int | None:
        """Run the command once: its exit status, or None if it took too long."""
        command = [*job.spec["command"], *job.spec.get("arguments", [])]
        job.process = subprocess.Popen(
            command, env=dict(environment), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, cwd=Path(environment.get("JOB_FOLDER", "/tmp")),
        )  # fmt: skip
        if job.stage == "CANCELED":
            _kill(job)
        else:
            job.stage = "RUNNING"
        late = threading.Event()

        def end() -> None:
            late.set()
            _kill(job)

        timer = threading.Timer(job.spec.get("timeoutSeconds", 1800), end)
        timer.daemon = True
        timer.start()
        assert job.process.stdout
        for line in job.process.stdout:
            job.lines.append((now(), line.rstrip("\n")))
        code = job.process.wait()
        timer.cancel()
        return None if late.is_set() else code


def _kill(job: RentedJob) -> None:
    if job.process:
        with suppress(ProcessLookupError):
            os.killpg(job.process.pid, signal.SIGKILL)
