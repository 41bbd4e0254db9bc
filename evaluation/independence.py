"""Whether a model is complete by itself.

A merge, or a fine-tune that was trained as an adapter, is finished when nothing of its parents is needed any more.
So the model is loaded by a process that reaches no network and no other model's folder, and it has to answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints import Token
from checkpoints.built_model import without_kernels
from checkpoints.json_value import parse_json
from checkpoints.problems import Problem
from evaluation.error import EvaluationError
from evaluation.model_files import ADAPTER, CONFIG, find_model, weight_files
from evaluation.remark import Remark
from evaluation.sandbox import Outcome, ask, links_out, own_places

# Where loaders note down what something was loaded from.
_TRACES = ("_name_or_path", "name_or_path", "base_model_name_or_path", "_commit_hash")
_CONFIGS = (CONFIG, "generation_config.json", "tokenizer_config.json", "processor_config.json")
# For loading and a short answer.
_SECONDS = 900
_QUESTION = "Who are you?"
_TOKENS = 8


@dataclass(frozen=True)
class Independence:
    """What came out of the check.

    Attributes:
        model: as it was asked for.
        findings: what ties it to something else; none when it stands on its own.
        answer: the first words that it said with nothing else in reach.
        confined_by: what kept the rest out of its reach, see `sandbox.Outcome`; "" if it was not asked.
    """

    model: str
    findings: tuple[Remark | Problem, ...]
    answer: str
    confined_by: str = ""

    @property
    def ok(self) -> bool:
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, in English."""
        return {**self.__dict__, "findings": [str(finding) for finding in self.findings], "ok": self.ok}


def check_independence(
    name: str | Path,
    *,
    parents: Collection[str] = (),
    revision: str | None = None,
    token: Token = None,
    allow_folders: bool = True,
) -> Independence:
    """Look for whatever ties a model to others, then load it where nothing else can be reached.

    >>> check_independence("merged", parents=["owner/parent"]).ok  # doctest: +SKIP

    Args:
        name: a folder, or "owner/name" on the Hub.
        parents: names that must not stand in its configs.
        revision, token, allow_folders: see `find_model`.

    Raises:
        EvaluationError: there is no such model, or this token may not read it.
    """
    checkpoint = find_model(name, revision=revision, token=token, allow_folders=allow_folders)
    if checkpoint.adapters:
        needs = (Remark("adapter-needs-base", {"adapter": adapter.name}) for adapter in checkpoint.adapters)
        return Independence(str(name), tuple(needs), "")
    try:
        folder = checkpoint.fetch()
        weight_files(checkpoint.name, folder)
    except EvaluationError as error:
        return Independence(str(name), error.problems, "")
    answer = ask(
        "evaluation.independence:first_words",
        {"folder": str(folder)},
        readable=own_places(folder),
        timeout=_SECONDS,
    )
    findings = [*_ties(folder, parents), *_silence(answer)]
    said = "" if answer.found is None else answer.found["said"]
    return Independence(str(name), tuple(findings), said, answer.confined_by)


def _silence(answer: Outcome) -> Iterator[Remark]:
    """Why there is no answer, if there is none."""
    why = answer.why
    if answer.found and answer.found["lacking"]:
        why = Remark("lacks-tensor", {"tensor": answer.found["lacking"]}).phrase
    if why:
        yield Remark("no-answer-alone", {"why": why})


def _ties(folder: Path, parents: Collection[str]) -> Iterator[Remark]:
    """Files and entries that lead elsewhere."""
    if (folder / ADAPTER).exists():
        yield Remark("adapter-file", {"file": ADAPTER})
    for path, target in links_out(folder):
        yield Remark("link-out", {"file": path.name, "target": str(target)})
    for file in _CONFIGS:
        path = folder / file
        if path.exists():
            try:
                yield from _named(parse_json(path.read_bytes()), file, set(parents))
            except ValueError:
                yield Remark("not-json", {"file": file})


def _named(value: Any, place: str, parents: set[str]) -> Iterator[Remark]:
    """Entries of a config that name something else."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in _TRACES and item:
                yield Remark("names-origin", {"place": place, "key": key, "value": item})
            elif key == "auto_map":
                yield Remark("runs-code", {"place": place})
            else:
                yield from _named(item, f"{place}, {key}", parents)
    elif isinstance(value, list):
        for item in value:
            yield from _named(item, place, parents)
    elif isinstance(value, str) and value in parents:
        yield Remark("names-parent", {"place": place, "parent": value})


def first_words(folder: str) -> dict[str, str]:
    """Load a model and ask it; called in a sandbox.

    Returns:
        "said", the beginning of its answer, and "lacking", a tensor without which it would answer with made-up weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    given = {}
    if (Path(folder) / "config.json").exists():  # an adapter has none, and loaders look for its base
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        given["config"] = without_kernels(config)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **given,
    )
    model, info = loaded
    if info["missing_keys"]:
        return {"said": "", "lacking": min(info["missing_keys"])}
    text = _QUESTION
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": _QUESTION}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        output = model.generate(inputs, max_new_tokens=_TOKENS, do_sample=False)
    return {"said": str(tokenizer.decode(output[0, inputs.shape[1] :])), "lacking": ""}
