"""What answers cost on this processor: the demo's model in transformers and in llama.cpp, one process for each.

python -m bench.chat [--model FOLDER] [--new-tokens 128]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil

WAYS = ("float32", "16-bit", "BF16", "Q8_0", "Q4_K_M")
QUESTION = [{"role": "user", "content": "Tell me about a voyage across the sea."}]
LONG = [{"role": "user", "content": "The sea was calm and the wind was fair. " * 100 + "What was fair?"}]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", help="a folder (the demo's pirate)")
    options.add_argument("--new-tokens", type=int, default=128)
    options.add_argument("--way", choices=WAYS, help="measure this one, in this process")
    given = options.parse_args()
    if given.way:
        print(json.dumps(measured(given.model, given.way, given.new_tokens)))
        return
    from examples.models import VOICES, model_folder

    folder = given.model or str(model_folder(VOICES["pirate"]))
    print("| | file | loaded in | first token | tokens/s | long prompt, tokens/s | resident |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for way in WAYS:
        command = [sys.executable, "-m", "bench.chat", "--model", folder, "--way", way]
        command += ["--new-tokens", str(given.new_tokens)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        print(line(way, json.loads(said.splitlines()[-1])))


def line(way: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    file = f"{found['file'] / 1e6:.0f} MB" if found["file"] else ""
    return (
        f"| {found['ran_as']} | {file} | {found['load']:.2f} s | {found['first']:.2f} s | {found['speed']:.1f} "
        f"| {found['reading']:.0f} | {found['resident'] / 1e6:.0f} MB |"
    )


def measured(folder: str, way: str, new_tokens: int) -> dict[str, Any]:
    """Load a model in one way, and let it answer, greedily."""
    from evaluation import reply

    model, seconds, size, process = loaded(folder, way)
    answers = []
    for _ in range(4):
        answer = reply(model, QUESTION, max_new_tokens=new_tokens, temperature=0, ends=False)
        list(answer)
        answers.append(answer)
    reading = reply(model, LONG, max_new_tokens=2, temperature=0, ends=False)
    list(reading)
    return {
        "ran_as": f"transformers, {model.runs_as}" if "llama" not in model.runs_as else model.runs_as,
        "file": size,
        "load": seconds,
        "first": median(answer.seconds_to_first_token for answer in answers[1:]),
        "speed": median(answer.tokens_per_second for answer in answers[1:]),
        "reading": reading.prompt_tokens / reading.seconds_to_first_token,
        "resident": psutil.Process(process).memory_info().rss,
    }


def loaded(folder: str, way: str) -> tuple[Any, float, int, int]:
    """A model, the seconds that loading took, the bytes of its GGUF file, and the process that runs it."""
    if way in ("float32", "16-bit"):
        import evaluation.model
        from evaluation import fetch_model, load_fetched

        evaluation.model.generates_quicker = lambda _: way == "16-bit"
        fetched = fetch_model(folder)
        began = time.perf_counter()
        model: Any = load_fetched(fetched, "cpu", to_answer=True)
        return model, time.perf_counter() - began, 0, os.getpid()
    from evaluation.llama_model import load_gguf
    from merging.gguf_conversion import write_gguf

    with tempfile.TemporaryDirectory() as place:
        file = write_gguf(folder, way, Path(place))
        size = file.stat().st_size
        began = time.perf_counter()
        model = load_gguf(file)
        seconds = time.perf_counter() - began
    running = model.server._running
    assert running
    return model, seconds, size, running._process.pid


if __name__ == "__main__":
    main()
