"""A merge on the real Hub, for anyone with an account: `make smoke`, or `python -m examples.smoke`.

It merges two small public models into private repositories of the login's own, by LFS and by Xet, scores the results,
deletes what it made, and prints a report. It needs a login with write access, and costs nothing.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec

from huggingface_hub import HfApi

PARENTS = ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct")
RECIPE = """\
merge_method: linear
models:
  - {{model: {0}, parameters: {{weight: 0.5}}}}
  - {{model: {1}, parameters: {{weight: 0.5}}}}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status is 0 if every step went well."""
    parser = argparse.ArgumentParser(description="Merge two small models on the real Hub, and clean up.")
    parser.add_argument("--models", nargs=2, default=PARENTS, metavar="MODEL", help="the parents")
    parser.add_argument(
        "--shard-size", default="100MB", help="of the results, so that they have several files"
    )
    given = parser.parse_args(arguments)
    api = HfApi()
    user = api.whoami()["name"]
    ways = {"LFS": "1", **({"Xet": "0"} if find_spec("hf_xet") else {})}
    report, made = [], []
    try:
        for way, is_off in ways.items():
            repo = f"{user}/alloy-smoke-{secrets.token_hex(4)}"
            made.append(repo)
            environment = {**os.environ, "HF_HUB_DISABLE_XET": is_off}
            merge = ["run", "-", "--to", f"hf://{repo}", "--shard-size", given.shard_size]
            report.append(_step(f"merge by {way}", merge, environment, RECIPE.format(*given.models)))
            report.append(
                _step(f"score what came by {way}", ["perplexity", repo, "--text", "english"], environment)
            )
    finally:
        for repo in made:
            api.delete_repo(repo, missing_ok=True)
    left = [repo for repo in made if api.repo_exists(repo)]
    print(*(line for line, _ in report), f"{'failed' if left else 'ok':8} everything deleted", sep="\n")
    return int(bool(left) or not all(is_ok for _, is_ok in report))


def _step(
    name: str, command: Sequence[str], environment: dict[str, str], given: str = ""
) -> tuple[str, bool]:
    """Run a command of Alloy: a line of the report, and whether it went well."""
    began = time.monotonic()
    run = [sys.executable, "-m", "alloy", *command]
    done = subprocess.run(run, env=environment, input=given, text=True, capture_output=True)
    is_ok = done.returncode == 0
    said = (done.stdout if is_ok else done.stderr).strip().splitlines() or [""]
    return f"{'ok' if is_ok else 'failed':8} {name}, {time.monotonic() - began:.0f} s: {said[-1]}", is_ok


if __name__ == "__main__":
    sys.exit(main())
