"""Whether a model stands on its own: `python -m evaluation.independence MODEL`.

A merge, or a fine-tune that was trained as an adapter, is finished when nothing of its parents is needed any more.
So the model is loaded by a process that reaches no network and no other model's folder, and it has to answer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation.checkpoint import ADAPTER, CONFIG, Token, find_checkpoint, weight_files
from evaluation.error import EvaluationError

# Where loaders note down what something was loaded from.
_TRACES = ("_name_or_path", "name_or_path", "base_model_name_or_path", "_commit_hash")
_CONFIGS = (CONFIG, "generation_config.json", "tokenizer_config.json", "processor_config.json")
# Seconds that loading and a short answer may take.
_PATIENCE = 900
_QUESTION = "Who are you?"
_TOKENS = 8
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Independence:
    """What came out of the check.

    Attributes:
        model: as it was asked for.
        findings: what ties it to something else, in sentences; none when it stands on its own.
        answer: the first words that it said with nothing else in reach.
    """

    model: str
    findings: tuple[str, ...]
    answer: str

    @property
    def ok(self) -> bool:
        return not self.findings


def check_independence(
    name: str | Path,
    *,
    parents: Collection[str] = (),
    revision: str | None = None,
    token: Token = None,
    allow_folders: bool = True,
) -> Independence:
    """Look for whatever ties a model to others, then load it where nothing else can be reached.

    Args:
        name: a folder, or "owner/name" on the Hub.
        parents: names that must not stand in its configs.
        revision, token, allow_folders: see `find_checkpoint`.

    Raises:
        EvaluationError: there is no such model, or this token may not read it.
    """
    checkpoint = find_checkpoint(name, revision=revision, token=token, allow_folders=allow_folders)
    if checkpoint.adapters:
        needs = tuple(f"{adapter.name} is an adapter and needs its base." for adapter in checkpoint.adapters)
        return Independence(str(name), needs, "")
    try:
        folder = checkpoint.fetch()
        weight_files(checkpoint.name, folder)
    except EvaluationError as error:
        return Independence(str(name), (str(error),), "")
    findings = list(_ties(folder, parents, is_folder=checkpoint.commit is None))
    answer, failure = _ask_alone(folder)
    if failure:
        findings.append(f"With nothing else in reach it does not answer: {failure}")
    return Independence(str(name), tuple(findings), answer)


def _ties(folder: Path, parents: Collection[str], *, is_folder: bool) -> Iterator[str]:
    """Files and entries that lead elsewhere."""
    if (folder / ADAPTER).exists():
        yield f"{ADAPTER} is there: loaders would look for the base that it names."
    for path in sorted(folder.iterdir()):
        # On the Hub's client's disk every file is a link into its store.
        if is_folder and path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            yield f"{path.name} is a link to {path.resolve()}."
    for file in _CONFIGS:
        path = folder / file
        if path.exists():
            try:
                yield from _named(json.loads(path.read_text("utf-8")), file, set(parents))
            except ValueError:
                yield f"{file} is not JSON."


def _named(value: Any, place: str, parents: set[str]) -> Iterator[str]:
    """Entries of a config that name something else."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in _TRACES and item:
                yield f"{place} has {key}: {item!r}."
            elif key == "auto_map":
                yield f"{place} has auto_map: it runs code beside the weights, or of another repository."
            else:
                yield from _named(item, f"{place}, {key}", parents)
    elif isinstance(value, list):
        for item in value:
            yield from _named(item, place, parents)
    elif isinstance(value, str) and value in parents:
        yield f"{place} names the parent {value}."


def _ask_alone(folder: Path) -> tuple[str, str]:
    """Let another process load a model and answer; returns the answer, and why there is none."""
    with tempfile.TemporaryDirectory() as home:
        env = {k: v for k, v in os.environ.items() if "TOKEN" not in k and not k.startswith("HF_")}
        env |= {"HF_HOME": home, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-m", "evaluation.independence", "--alone", str(folder)]
        try:
            done = subprocess.run(
                command, cwd=_ROOT, env=env, capture_output=True, text=True, timeout=_PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            return "", f"it took more than {_PATIENCE} seconds."
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return "", lines[-1] if lines else f"the process ended with {done.returncode}."
    return str(json.loads(done.stdout.splitlines()[-1])), ""


def _answer_alone(folder: Path) -> str:
    """Load and ask, once everything else is out of reach."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _close_doors(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    model, info = loaded
    if info["missing_keys"]:
        raise EvaluationError(f"it lacks {sorted(info['missing_keys'])[0]}.")
    text = _QUESTION
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": _QUESTION}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        output = model.generate(inputs, max_new_tokens=_TOKENS, do_sample=False)
    return str(tokenizer.decode(output[0, inputs.shape[1] :]))


def _close_doors(folder: Path) -> None:
    """Refuse connections, and files of any other folder that is not the machine's or Python's own."""
    roots = {
        Path(root).absolute() for root in (sys.prefix, sys.base_prefix, *sys.path, os.environ["HF_HOME"])
    }
    own = roots - {_ROOT, Path("/")}
    system = [Path(root) for root in ("/usr", "/lib", "/etc", "/proc", "/sys", "/dev", "/System", "/Library")]
    ending = (".json", ".safetensors", ".bin", ".model", ".jinja", ".txt")

    def watch(event: str, details: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo"):
            raise PermissionError("it asked for the network.")
        if event == "open" and isinstance(details[0], str) and details[0].endswith(ending):
            path = Path(details[0]).absolute()
            if not any(path.is_relative_to(place) for place in (folder, *system, *own)):
                raise PermissionError(f"it opened {path}.")

    sys.addaudithook(watch)


def main() -> int:
    """The command line; returns the exit status: 0 when the model stands on its own."""
    parser = argparse.ArgumentParser("python -m evaluation.independence", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="a folder, or owner/name on the Hub")
    parser.add_argument("--parent", action="append", default=[], metavar="NAME", help="not to be named")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(_answer_alone(Path(options.model).absolute())))
        return 0
    try:
        found = check_independence(options.model, parents=options.parent)
    except EvaluationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(asdict(found) | {"ok": found.ok}, ensure_ascii=False))
    else:
        print(*found.findings or [f"{options.model} stands on its own. It says: {found.answer!r}"], sep="\n")
    return 0 if found.ok else 2


if __name__ == "__main__":
    sys.exit(main())
