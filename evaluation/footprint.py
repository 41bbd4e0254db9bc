"""What a model costs to keep and to run, measured in a process of its own that can reach no other model."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation.checkpoint import Token, find_checkpoint
from evaluation.error import Cancelled, EvaluationError
from evaluation.structure import Structure, read_structure, references

PROMPT = "Explain in a few sentences why the sky is blue."
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of repeated measurements.

    Attributes:
        mean: of all.
        deviation: of the sample; 0 for a single one.
        count: how many.
    """

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of these values."""
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), deviation, len(values))


@dataclass(frozen=True)
class Footprint:
    """A model's size, speed and independence.

    Attributes:
        name: how people call it.
        commit: its commit on the Hub, None for a folder.
        structure: its tensors.
        independent: whether it loaded and answered with every other model out of reach.
        dependence: if not, on what.
        device: "cpu" or "cuda".
        dtype: what it computed in.
        load_seconds: until it was ready, with its files in the page cache or not.
        host_bytes: most memory of the process while it answered.
        device_bytes: most memory on the GPU while it answered, None without one.
        first_token_seconds: from the question to the first token.
        tokens_per_second: of writing after the first token.
        new_tokens: tokens of each answer.
        offloaded: whether some weights lay on the disk and were read at each use.
    """

    name: str
    commit: str | None
    structure: Structure
    independent: bool
    dependence: str
    device: str = ""
    dtype: str = ""
    load_seconds: float = 0.0
    host_bytes: int = 0
    device_bytes: int | None = None
    first_token_seconds: Spread | None = None
    tokens_per_second: Spread | None = None
    new_tokens: int = 0
    offloaded: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; of the structure, the sums."""
        found = {key: value for key, value in self.__dict__.items() if key != "structure"}
        for key in ("first_token_seconds", "tokens_per_second"):
            found[key] = asdict(found[key]) if found[key] else None
        return {
            **found,
            "file_bytes": self.structure.file_bytes,
            "dtypes": self.structure.dtypes,
            "parameters": self.structure.parameters,
        }


def footprint(
    name: str | Path,
    *,
    token: Token = None,
    device: str = "auto",
    allow_folders: bool = True,
    out_of_reach: Sequence[str | Path] = (),
    repeats: int = 5,
    new_tokens: int = 32,
    offload: Path | None = None,
    cancel: threading.Event | None = None,
) -> Footprint:
    """Load a model in a fresh process, let it answer, and measure.

    The process sees links to this model's files in an empty folder, no cache and no Hub, and an open of any
    file in the folders that are out of reach fails: a model that needs its base does not load there. Every
    answer has the same number of tokens, whatever ends it otherwise; the first one warms up and is not
    counted.

    Args:
        name: a folder, or "owner/name" on the Hub, or base+adapter; of these the base's structure is told.
        token: a token or what gives one; None for the machine's own login, False for none at all.
        device: "cpu", "cuda" or "auto".
        allow_folders: whether `name` may be a folder of this machine.
        out_of_reach: folders of other models.
        repeats: answers that count.
        new_tokens: of each.
        offload: as for `load_model`.
        cancel: when set, the process is ended.

    Raises:
        EvaluationError: there is no such model.
        Cancelled: `cancel` was set.
    """
    if repeats < 1 or new_tokens < 2:
        raise EvaluationError(f"repeats={repeats}, new_tokens={new_tokens}: expected at least 1 and 2.")
    checkpoint = find_checkpoint(name, token=token, allow_folders=allow_folders)
    folder = checkpoint.fetch()
    adapters = [adapter.fetch() for adapter in checkpoint.adapters]
    structure = read_structure(checkpoint.name, folder)
    others = [Path(other).expanduser().resolve() for other in out_of_reach]
    closed = [str(other) for other in others if other not in (folder, *adapters)]
    with tempfile.TemporaryDirectory(prefix="alloy-footprint-") as place:
        copies = [_linked(part, Path(place, f"model{i}")) for i, part in enumerate([folder, *adapters])]
        alone = "+".join(copies)
        asked = {"folder": alone, "device": device, "repeats": repeats, "new_tokens": new_tokens}
        # The process is elsewhere.
        asked["offload"] = None if offload is None else str(offload.expanduser().resolve())
        measured, error = _measured({**asked, "closed": closed}, Path(place), cancel)
    found = [*references(folder), *([error.replace(alone, checkpoint.name)] if error else [])]
    found += [f"{adapter.name} is an adapter and needs its base" for adapter in checkpoint.adapters]
    for key in ("first_token_seconds", "tokens_per_second"):
        if key in measured:
            measured[key] = Spread.of(measured[key])
    return Footprint(checkpoint.name, checkpoint.commit, structure, not found, "; ".join(found), **measured)


def _linked(folder: Path, place: Path) -> str:
    """A new folder with links to the files of another one."""
    place.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (place / file.name).symlink_to(file.resolve())
    return str(place)


def _measured(
    asked: dict[str, Any], place: Path, cancel: threading.Event | None
) -> tuple[dict[str, Any], str]:
    """What the process measured, or why it could not."""
    allowed = {key: value for key, value in os.environ.items() if "TOKEN" not in key}
    environment = {
        **allowed,
        "HF_HOME": str(place / "home"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": str(_ROOT),
    }
    for key in ("HF_HUB_CACHE", "HF_TOKEN_PATH", "TRANSFORMERS_CACHE"):
        environment.pop(key, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "evaluation.footprint"],
        cwd=place,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    given: str | None = json.dumps(asked)
    try:
        while True:
            try:
                told, complaints = process.communicate(given, timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                given = None
                if cancel is not None and cancel.is_set():
                    raise Cancelled from None
    finally:
        process.kill()
        process.wait()
    try:
        answer: dict[str, Any] = json.loads(told.splitlines()[-1])
    except (ValueError, IndexError):
        lines = complaints.strip().splitlines()
        return {}, f"it ended with status {process.returncode}: {lines[-1] if lines else 'without a word'}"
    error = answer.pop("error", "")
    return answer, error


def _measure(
    folder: str, device: str, repeats: int, new_tokens: int, offload: str | None, closed: Sequence[str]
) -> dict[str, Any]:
    """In the process of its own."""
    sys.addaudithook(lambda event, arguments: _refuse(event, arguments, closed))
    import torch

    from evaluation.chat import reply
    from evaluation.model import load_model

    began = time.perf_counter()
    model = load_model(folder, device=device, offload=Path(offload) if offload else None)
    loaded = time.perf_counter() - began
    # So that all models write as many tokens. The model is this process's own.
    model.network.generation_config.eos_token_id = None
    on_gpu = model.device == "cuda"
    first, speed = [], []
    for number in range(repeats + 1):
        if number == 1:
            forget_peak()
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
        answer = reply(model, [{"role": "user", "content": PROMPT}], max_new_tokens=new_tokens, temperature=0)
        for _ in answer:
            pass
        if number:
            first.append(answer.seconds_to_first_token)
            speed.append(answer.tokens_per_second)
    return {
        "device": model.device,
        "dtype": model.dtype,
        "load_seconds": loaded,
        "host_bytes": peak(),
        "device_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "first_token_seconds": first,
        "tokens_per_second": speed,
        "new_tokens": answer.new_tokens,
        "offloaded": model.offloaded,
    }


def _refuse(event: str, arguments: Any, closed: Sequence[str]) -> None:
    if event not in ("open", "os.listdir", "os.scandir") or not arguments:
        return
    path = arguments[0]
    if isinstance(path, (str, bytes, os.PathLike)) and not isinstance(path, int):
        real = os.path.realpath(os.fsdecode(path))
        if any(real == place or real.startswith(place + os.sep) for place in closed):
            raise PermissionError(f"{real} is out of reach")


def forget_peak() -> None:
    """Let `peak` begin anew."""
    # Elsewhere than on Linux the peak is the whole process's, loading included.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    try:
        print(json.dumps(_measure(**json.load(sys.stdin))))
    except Exception as failure:  # told to the parent, which shows it as the reason
        print(json.dumps({"error": " ".join(str(failure).split())[:500] or type(failure).__name__}))
