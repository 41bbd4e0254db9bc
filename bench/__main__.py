"""One table: every method by us and by mergekit 0.1.5, on the same models, in turn, in one run.

Beside Alloy stands what the merge took without the start, to be held against the floor. At the end stand the ratios
alone, as the README shows them.

python -m bench [--size small|1b|3b] [--repeats 3] [METHOD ...]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.measure import Cost, measured
from bench.models import SIZES, built
from merging.methods import METHODS

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.4}


def recipe(method: str, folder: Path, layers: int) -> dict[str, Any]:
    """A recipe of the ordinary kind for a method, on the models in a folder."""
    base = str(folder / "base")
    entries = [{"model": str(folder / n), "parameters": {"weight": w}} for n, w in WEIGHTS.items()]
    fine_tunes = {"merge_method": method, "dtype": "bfloat16", "models": entries}
    if method == "linear":
        return fine_tunes
    if method == "slerp":
        models = [{"model": str(folder / name)} for name in "ab"]
        return {**fine_tunes, "models": models, "base_model": str(folder / "a"), "parameters": {"t": 0.4}}
    if method == "passthrough":
        cut = layers // 4
        slices = [
            {"sources": [{"model": str(folder / "a"), "layer_range": layer_range}]}
            for layer_range in ([0, layers - cut], [cut, layers])
        ]
        return {"merge_method": method, "dtype": "bfloat16", "slices": slices}
    if method == "chat_vector":
        models = [{"model": str(folder / "a")}, {"model": str(folder / "b")}]
        return {**fine_tunes, "models": models, "base_model": base}
    if method in ("nuslerp", "multislerp"):
        return {**fine_tunes, "models": entries[:2] if method == "nuslerp" else entries}
    if method in WITHOUT_WEIGHTS:
        bare: dict[str, Any] = {**fine_tunes, "models": [{"model": entry["model"]} for entry in entries]}
        if method in ("nearswap", "arcee_fusion"):
            bare["models"] = bare["models"][:1]
        bare["parameters"] = OWN_PARAMETERS.get(method, {})
        return bare if method == "karcher" else {**bare, "base_model": base}
    sparse = method.endswith("ties") or method.startswith(("breadcrumbs", "della", "dare"))
    return {**fine_tunes, "base_model": base, "parameters": {"density": 0.5} if sparse else {}}


OWN_PARAMETERS = {"nearswap": {"t": 0.001}, "sce": {"select_topk": 0.5}, "consensus_ta": {"lambda": 0.3}}
WITHOUT_WEIGHTS = (
    *("karcher", "model_stock", "ram", "ramplus_tl", "sce", "nearswap", "arcee_fusion"),
    *("consensus_ta", "iso_c", "tsv_merge"),
)
# Those that mergekit has; any other is measured alone, when it is named.
DEFAULT = tuple(name for name, method in METHODS.items() if method.in_mergekit)


def phase(costs: Sequence[Cost]) -> float:
    """Seconds that the work itself took, without the start, as the processes told them; the median."""
    return statistics.median(json.loads(cost.said)["seconds"] for cost in costs)


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.wall for cost in costs),
        statistics.median(cost.cpu for cost in costs),
        (round(statistics.median(cost.anonymous for cost in costs)),),
    )


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("methods", nargs="*", metavar="METHOD", default=DEFAULT)
    options = parser.parse_args()
    folder = built(options.size)
    python = sys.executable
    with tempfile.TemporaryDirectory(prefix="alloy-bench-") as place:
        work = Path(place)

        def run(command: list[str]) -> Cost:
            shutil.rmtree(work / "out", ignore_errors=True)
            return measured(command, {"HF_HUB_OFFLINE": "1"})

        inputs = [str(folder / name) for name in WEIGHTS]
        floors = [
            run([python, "-m", "bench.floor", str(work / "out"), *inputs]) for _ in range(options.repeats)
        ]
        floor = median(floors)
        print(
            f"{options.size}, medians of {options.repeats}; floor {floor.wall:.1f} s wall, {floor.cpu:.1f} s CPU, "
            f"{phase(floors):.1f} s without its start"
        )
        columns = f"{'wall s':>8}{'CPU s':>8}{'GB':>8}"
        print(f"{'':18}{'Alloy':^24}  {'':8}{'mergekit 0.1.5':^24}  {'mergekit / Alloy':^16}")
        print(f"{'method':18}{columns}  {'merge s':>8}{columns}  {'wall':>8}{'CPU':>8}")
        ratios = []
        for method in options.methods:
            path = work / "recipe.yaml"
            path.write_text(yaml.safe_dump(recipe(method, folder, SIZES[options.size].num_hidden_layers)))
            out = str(work / "out")
            mergekit = Path(python).with_name("mergekit-yaml")
            alloy = [
                python,
                "-m",
                "merging",
                "run",
                str(path),
                "--to",
                out,
                "--shard-size",
                "500MB",
                "--json",
            ]
            other = [str(mergekit), str(path), out, "--out-shard-size", "500M", "--no-copy-tokenizer"]
            commands = [alloy, other] if METHODS[method].in_mergekit else [alloy]
            turns = [[run(command) for command in commands] for _ in range(options.repeats)]
            ours, *_ = by_command = list(zip(*turns, strict=True))
            costs = [median(of_one) for of_one in by_command]
            first, *second = [f"{cost.wall:8.1f}{cost.cpu:8.1f}{cost.anonymous / 1e9:8.2f}" for cost in costs]
            row = f"{method:18}{first}  {phase(ours):8.1f}{''.join(second)}"
            if len(costs) == 2:
                us, them = costs
                row += f"  {them.wall / us.wall:8.1f}{them.cpu / us.cpu:8.1f}"
                ratios.append(
                    f"| `{method}` | {them.wall / us.wall:.1f} | {them.cpu / us.cpu:.1f} "
                    f"| {them.anonymous / us.anonymous:.1f} |"
                )
            print(row, flush=True)
        print("\n| mergekit / Alloy | wall | CPU | memory |\n|---|--:|--:|--:|", *ratios, sep="\n")


if __name__ == "__main__":
    main()
