"""What a model costs to keep and to run, measured in a sandbox that can read no other model."""

from __future__ import annotations

import contextlib
import re
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from checkpoints import Token
from checkpoints.problems import Problem
from evaluation.error import EvaluationError
from evaluation.model_files import find_model
from evaluation.remark import Remark
from evaluation.sandbox import Outcome, ask, links_out
from evaluation.structure import Structure, read_structure, references

PROMPT = "Explain in a few sentences why the sky is blue."


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
        dependence: what it depends on, if it does.
        confined_by: what kept the other models out of reach, see `sandbox.Outcome`.
        device: "cpu" or "cuda".
        dtype: what it computed in.
        load_seconds: until it was ready, with its files in the page cache or not; imports are not counted.
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
    dependence: tuple[Remark | Problem, ...]
    confined_by: str = ""
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
            "dependence": " ".join(map(str, self.dependence)),
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

    The process can read this model's files, Python and the system, but no cache, no Hub and no other model: one that
    needs its base does not load there. Every answer has the same number of tokens, whatever the model writes; the
    first one warms up and is not counted.

    Args:
        name: a folder, or "owner/name" on the Hub, or base+adapter, whose structure is that of the base.
        token: a token or what gives one; None for the machine's own login, False for none at all.
        device: "cpu", "cuda" or "auto".
        allow_folders: whether `name` may be a folder of this machine.
        out_of_reach: folders of other models; links that lead into them are not followed.
        repeats: answers that count.
        new_tokens: of each.
        offload: as for `load_model`.
        cancel: when set, the process is ended.

    Raises:
        EvaluationError: there is no such model.
        Cancelled: `cancel` was set.
    """
    if repeats < 1 or new_tokens < 2:
        raise EvaluationError(Problem("too-few-answers", {"repeats": repeats, "new_tokens": new_tokens}))
    checkpoint = find_model(name, token=token, allow_folders=allow_folders)
    folder = checkpoint.fetch()
    adapters = [adapter.fetch() for adapter in checkpoint.adapters]
    structure = read_structure(checkpoint.name, folder)
    parts = [folder, *adapters]
    others = [Path(other).expanduser().resolve() for other in out_of_reach]
    closed = [other for other in others if other not in (part.resolve() for part in parts)]
    files = [[file for file in sorted(part.iterdir()) if file.is_file()] for part in parts]
    readable = [file.resolve() for part in files for file in part]
    if offload is not None:
        offload = offload.expanduser().resolve()  # the process is elsewhere
        offload.mkdir(parents=True, exist_ok=True)
        readable.append(offload)
    answer = ask(
        "evaluation.footprint:measure",
        {
            "parts": [[str(file.absolute()) for file in part] for part in files],
            "device": device,
            "repeats": repeats,
            "new_tokens": new_tokens,
            "offload": None if offload is None else str(offload),
        },
        readable=readable,
        out_of_reach=closed,
        cancel=cancel,
    )
    found = [*references(folder, structure.tensors), *_silence(answer, len(parts), checkpoint.name)]
    found += [
        Remark("link-out", {"file": path.name, "target": str(target)})
        for part in parts
        for path, target in links_out(part)
    ]
    found += [Remark("adapter-needs-base", {"adapter": adapter.name}) for adapter in checkpoint.adapters]
    return Footprint(
        checkpoint.name,
        checkpoint.commit,
        structure,
        not found,
        tuple(found),
        answer.confined_by,
        **_with_spreads(answer.found or {}),
    )


def _with_spreads(measured: dict[str, Any]) -> dict[str, Any]:
    """What `measure` returned, with a mean and deviation for repeated measurements."""
    repeated = {"first_token_seconds", "tokens_per_second"} & measured.keys()
    return measured | {key: Spread.of(measured[key]) for key in repeated}


def _silence(answer: Outcome, parts: int, name: str) -> Iterator[Remark | Problem]:
    """Why there is no answer, if there is none, with the model's own name in place of that of its links."""

    def renamed(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return re.sub(r"\S*/model\d+/", "", value.replace(_linked_name(parts), name))

    for problem in answer.problems:
        yield replace(problem, values={key: renamed(value) for key, value in problem.values.items()})
    if answer.error and not answer.problems:
        yield Remark("no-answer-alone", {"why": renamed(answer.why)})


def _linked_name(parts: int) -> str:
    """The name in the sandbox of a model that has this number of parts: a base and its adapters."""
    return "+".join(f"./model{part}" for part in range(parts))


def measure(
    parts: Sequence[Sequence[str]], device: str, repeats: int, new_tokens: int, offload: str | None
) -> dict[str, Any]:
    """Load a model and let it answer; called in a sandbox, whose empty folder gets links to the model's files."""
    import torch

    from evaluation.chat import reply
    from evaluation.model import load_model

    for number, files in enumerate(parts):
        folder = Path(f"model{number}")
        folder.mkdir()
        for file in map(Path, files):
            (folder / file.name).symlink_to(file)
    _warm_up(is_adapted=len(parts) > 1)
    began = time.perf_counter()
    model = load_model(_linked_name(len(parts)), device=device, offload=Path(offload) if offload else None)
    loaded = time.perf_counter() - began
    on_gpu = model.device == "cuda"
    first, speed = [], []
    for number in range(repeats + 1):
        if number == 1:
            forget_peak()
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
        question = [{"role": "user", "content": PROMPT}]
        answer = reply(model, question, max_new_tokens=new_tokens, temperature=0, ends=False)
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


def _warm_up(*, is_adapted: bool) -> None:
    """Import the code of the model's architecture, and load another tiny model.

    What transformers does once a process takes longer than to load a small model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if is_adapted:
        import peft  # noqa: F401
    tiny = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    LlamaForCausalLM(tiny).save_pretrained("tiny")
    loaded: Any = AutoModelForCausalLM.from_pretrained("tiny", local_files_only=True, trust_remote_code=False)
    loaded(input_ids=torch.tensor([[0]]))
    # Whatever is wrong with the files is reported by `load_model`.
    with contextlib.suppress(Exception), torch.device("meta"):
        AutoTokenizer.from_pretrained("./model0", local_files_only=True, trust_remote_code=False)
        config = AutoConfig.from_pretrained("./model0", local_files_only=True, trust_remote_code=False)
        AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]


def forget_peak() -> None:
    """Let `peak` start again."""
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
