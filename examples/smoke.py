"""A merge on the real Hub, for anyone with an account: `make smoke`, or `python -m examples.smoke`.

It merges two small public models into private repositories of the login's own, by LFS and by Xet, scores the results,
deletes what it made, and prints a report. It needs a login with write access, and costs nothing. With `--job` it also
merges on a machine of HF Jobs, as the page does; that costs a few cents at most.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from merging import make_plan, read_recipe
from merging.rented_machines import Needs, machines, offers
from ui.hub.account import Account
from ui.rented.code import REPOSITORY
from ui.rented.merge import follow, rent_for
from ui.server.jobs import MergeRequest

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
    parser.add_argument(
        "--job", nargs="?", const="", metavar="MACHINE",
        help="merge on a machine of HF Jobs as well, for a few cents: its name, or else the cheapest one",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    api = HfApi(token=get_token())
    user = api.whoami()["name"]
    recipe = RECIPE.format(*given.models)
    ways = {"LFS": "1", **({"Xet": "0"} if find_spec("hf_xet") else {})}
    report, made = [], []

    def new_repo() -> str:
        made.append(f"{user}/alloy-smoke-{secrets.token_hex(4)}")
        return made[-1]

    try:
        for way, is_off in ways.items():
            repo = new_repo()
            environment = {**os.environ, "HF_HUB_DISABLE_XET": is_off}
            merge = ["run", "-", "--to", f"hf://{repo}", "--shard-size", given.shard_size]
            report.append(_step(f"merge by {way}", merge, environment, recipe))
            score = ["perplexity", repo, "--text", "english"]
            report.append(_step(f"score what came by {way}", score, environment))
        if given.job is not None:
            if not api.repo_exists(f"{user}/{REPOSITORY}"):
                made.append(f"{user}/{REPOSITORY}")
            report.append(_merge_on_job(api, recipe, f"hf://{new_repo()}", given.job))
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
    return _line(name, began, said[-1], is_ok), is_ok


def _merge_on_job(api: HfApi, recipe: str, to: str, machine: str) -> tuple[str, bool]:
    """Merge on a rented machine, by the page's own code; see `_step`.

    Args:
        machine: the Hub's name of the kind; empty: the cheapest that it fits on
    """
    began, name = time.monotonic(), "merge on a rented machine"
    who = Account("machine", str(api.token))
    try:
        plan = make_plan(read_recipe(recipe), to, token=who.token)
        offer = next(it for it in offers(Needs.of(plan), machines(api)) if machine in ("", it.machine.name))
        request = MergeRequest(plan.recipe, to)
        rented = rent_for(plan, request, offer.machine.name, offer.seconds, who)
        print(f"Rented {rented.flavor}: {rented.url}", file=sys.stderr)
        try:
            result = follow(replace(request, rented=rented), who)(lambda _: None, threading.Event())
        except BaseException:
            with suppress(HfHubHTTPError):  # it has ended
                api.cancel_job(job_id=rented.id, namespace=rented.namespace)
            raise
    except Exception as error:
        return _line(name, began, str(error) or type(error).__name__, is_ok=False), False
    said = f"{result.location} by {rented.flavor}, {'verified' if result.verified else 'not verified'}"
    return _line(name, began, said, is_ok=result.verified), result.verified


def _line(name: str, began: float, said: str, is_ok: bool) -> str:
    return f"{'ok' if is_ok else 'failed':8} {name}, {time.monotonic() - began:.0f} s: {said}"


if __name__ == "__main__":
    sys.exit(main())
