"""What a trial of a search costs, by us and by mergekit 0.1.5 with transformers: the same parents, text and numbers.

Each trial makes a merge with other weights and scores it. Ours rewrites a live model. Beside it mergekit's own planner
and executor make the tensors in memory, which are copied into a loaded model: mergekit-evolve's steps without a disk.
And a merge goes to disk and is loaded with `from_pretrained`. Then numbers are learned by exact derivatives, and chosen
by TPE, by CMA-ES and at random in the same CPU time; all are judged on texts that none of them saw.

python -m bench.search [--repeats 5] [--anchors 3] [--steps 6] [--seeds 1]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from evaluation import LanguageModel, load_model, perplexity
from evaluation.text import bundled_text
from examples.models import BASE, TEXTS, VOICES, model_folder
from merging import Recipe, read_recipe
from searching.goals import Way
from searching.gradient import Objective, score
from searching.learning import Pace, learn
from searching.live_merge import LiveMerge
from searching.optimiser import optimiser
from searching.space import Space
from searching.space_reader import read_space

HIGHEST = 1.2
WAYS: tuple[Way, ...] = ("tpe", "cmaes", "random")
# Tokens of the text that a trial is scored on, about.
TOKENS = 440


@dataclass(frozen=True)
class Weights:
    """The space: for each of the two voices a gradient of weights over the layers.

    Args:
        anchors: numbers of each gradient
    """

    anchors: int

    @property
    def low(self) -> Sequence[float]:
        return [0.0] * 2 * self.anchors

    @property
    def high(self) -> Sequence[float]:
        return [HIGHEST] * 2 * self.anchors

    @property
    def start(self) -> Sequence[float]:
        return [0.5] * 2 * self.anchors

    def settings(self, values: Sequence[float]) -> dict[str, Any]:
        """A recipe, as both programs read it."""
        models = [
            {"model": str(model_folder(VOICES[voice])), "parameters": {"weight": list(own)}}
            for voice, own in (("pirate", values[: self.anchors]), ("bard", values[self.anchors :]))
        ]
        base = str(model_folder(BASE))
        return {"merge_method": "task_arithmetic", "base_model": base, "models": models, "dtype": "bfloat16"}

    def recipe(self, values: Sequence[float]) -> Recipe:
        return read_recipe(yaml.safe_dump(self.settings([round(float(value), 6) for value in values])))

    def space(self, seed: int) -> Space:
        """The same for samplers: an axis for each number, in the same order."""
        settings = self.settings(self.start)
        for model in settings["models"]:
            one = {"search": [0, HIGHEST], "start": 0.5, "anchors": self.anchors}
            model["parameters"] = {"weight": one}
        settings["search"] = {"objective": [{"text": "english"}], "seed": seed}
        return read_space(yaml.safe_dump(settings))

    def drawn(self, source: random.Random) -> list[float]:
        return [source.uniform(0, HIGHEST) for _ in self.low]


def parts(tokenizer: Any) -> dict[str, list[Objective]]:
    """Chats of two voices and plain English, in three parts that share no text."""
    places = {"search": slice(0, 3), "choice": slice(3, 6), "report": slice(6, 18)}
    found: dict[str, list[Objective]] = {}
    for part, place in places.items():
        found[part] = [Objective(_chats(voice, place, tokenizer)) for voice in ("pirate", "bard")]
        found[part].append(Objective(tuple(bundled_text("english")[place])))
    return found


def _chats(voice: str, place: slice, tokenizer: Any) -> tuple[str, ...]:
    pairs = json.loads((TEXTS / f"{voice}.json").read_text("utf-8"))["pairs"][place]
    roles = ("user", "assistant")
    talks = [[{"role": r, "content": c} for r, c in zip(roles, pair, strict=True)] for pair in pairs]
    return tuple(tokenizer.apply_chat_template(talk, tokenize=False) for talk in talks)


@dataclass(frozen=True)
class Spent:
    """Seconds of one thing that was done."""

    wall: float
    cpu: float


def spent(work: Callable[[], object]) -> Spent:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def by_mergekit(settings: dict[str, Any]) -> LanguageModel:
    """A merge to disk by mergekit, loaded by transformers."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    with tempfile.TemporaryDirectory(prefix="alloy-bench-") as folder:
        options = MergeOptions(quiet=True, copy_tokenizer=True, write_model_card=False)
        run_merge(MergeConfiguration.model_validate(settings), str(Path(folder) / "merged"), options)
        return load_model(str(Path(folder) / "merged"), device="cpu")


class InMemory:
    """A loaded model into which mergekit's tensors are copied.

    Args:
        settings: a recipe, whose base is loaded
    """

    def __init__(self, settings: dict[str, Any]):
        from mergekit.io.tasks import LoaderCache
        from mergekit.options import MergeOptions

        self.options = MergeOptions(quiet=True)
        LoaderCache().setup(self.options)
        self.model = load_model(settings["base_model"], device="cpu")
        network = self.model.network
        self.weights = {**dict(network.named_parameters()), **dict(network.named_buffers())}

    @torch.no_grad()
    def make(self, settings: dict[str, Any]) -> None:
        """Merge by mergekit, and copy the result into the model."""
        from mergekit.architecture import get_architecture_info
        from mergekit.config import MergeConfiguration
        from mergekit.graph import Executor
        from mergekit.io.tasks import SaveTensor
        from mergekit.plan import MergePlanner

        config = MergeConfiguration.model_validate(settings)
        shape = get_architecture_info(config, self.options)
        planner = MergePlanner(config, shape, self.options, self.model.network.config)
        # Its tasks for a model in memory need an older pydantic; those that save to disk name the same tensors.
        saved = [task for task in planner.plan_to_disk("") if isinstance(task, SaveTensor)]
        names = {task.tensor_task: task.tensor_name for task in saved}
        for task, tensor in Executor(list(names), torch.device("cpu")).run(quiet=True):
            weights = self.weights.get(names[task])
            if weights is not None:
                weights.copy_(tensor)


IN_PLACE, IN_MEMORY, ON_DISK = "rewritten in place", "mergekit, in memory", "mergekit, from_pretrained"


def trials(space: Weights, repeats: int) -> dict[str, list[Spent]]:
    """What making and scoring took, ours and theirs in turn."""
    source = random.Random(0)
    points = [space.drawn(source) for _ in range(repeats + 1)]
    found: dict[str, list[Spent]] = {IN_PLACE: [], IN_MEMORY: [], ON_DISK: [], "scored": []}
    theirs = InMemory(space.settings(space.start))
    with LiveMerge(space.recipe(space.start)) as live:
        text = _tokens(live.model)
        for point in points:
            recipe, settings = space.recipe(point), space.settings(point)
            found[IN_PLACE].append(spent(lambda recipe=recipe: live.update(recipe)))
            found["scored"].append(spent(lambda: perplexity(live.model, text)))
            found[IN_MEMORY].append(spent(lambda settings=settings: theirs.make(settings)))
            found[ON_DISK].append(spent(lambda settings=settings: by_mergekit(settings)))
            check_alike(live.model, theirs.model)
    return {name: times[1:] for name, times in found.items()}  # the first imports


def check_alike(ours: LanguageModel, theirs: LanguageModel) -> None:
    """Raise where both made other models: their arithmetic rounds in other places."""
    for name, weights in ours.network.named_parameters():
        other = theirs.network.get_parameter(name)
        if not torch.allclose(weights.float(), other.float(), atol=2e-2, rtol=2e-2):
            raise AssertionError(f"{name}: {(weights - other).abs().max()}")


def _tokens(model: LanguageModel) -> list[str]:
    """Bundled paragraphs of about TOKENS tokens."""
    chosen, count = [], 0
    for paragraph in bundled_text("english"):
        if count >= TOKENS:
            break
        chosen.append(paragraph)
        count += len(model.tokenizer(paragraph)["input_ids"])
    return chosen


def found_by(space: Weights, steps: int, seeds: int) -> list[tuple[str, float, float, float]]:
    """For each way to choose numbers: CPU seconds, and bits per byte on the search texts and on the report texts."""
    with LiveMerge(space.recipe(space.start)) as live:
        texts = parts(live.model.tokenizer)

        def row(name: str, cpu: float, values: Sequence[float]) -> tuple[str, float, float, float]:
            live.update(space.recipe(values))
            return name, cpu, score(live, texts["search"]), score(live, texts["report"])

        rows = [row("plain average", 0.0, space.start)]
        began = time.process_time()
        learnt = learn(live, space, texts["search"], texts["choice"], Pace(steps=steps))
        budget = time.process_time() - began
        rows.append(row(f"derivatives, {len(learnt.steps)} steps", budget, learnt.values))
        for way in WAYS:
            for seed in range(seeds):
                rows.append(row(*_by_trials(live, texts["search"], space, way, seed, budget)))
        return rows


def _by_trials(
    live: LiveMerge, texts: Sequence[Objective], space: Weights, way: Way, seed: int, budget: float
) -> tuple[str, float, Sequence[float]]:
    """A sampler in this many CPU seconds: its name, what it took, and its best numbers; it begins at the start."""
    named = space.space(seed)
    sampler = optimiser(named, way, 1000)
    best, count = (float("inf"), tuple(space.start)), 0
    began = time.process_time()
    while time.process_time() - began < budget:
        point = sampler.ask(named.start if not count else None)
        assert point is not None
        values = [float(point[axis.name]) for axis in named.axes]
        live.update(space.recipe(values))
        found = score(live, texts)
        sampler.tell(count, [found])
        best = min(best, (found, tuple(values)))
        count += 1
    return f"{way}, {count} trials", time.process_time() - began, best[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="trials that are measured")
    parser.add_argument("--anchors", type=int, default=3, help="numbers of each voice")
    parser.add_argument("--steps", type=int, default=6, help="of learning")
    parser.add_argument("--seeds", type=int, default=1, help="of each sampler")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = Weights(arguments.anchors)
    times = trials(space, arguments.repeats)
    print(f"\n{'a trial':28} {'wall s':>8} {'CPU s':>8}")
    for name, each in times.items():
        wall, one_cpu = (statistics.median(getattr(one, kind) for one in each) for kind in ("wall", "cpu"))
        print(f"{name:28} {wall:8.3f} {one_cpu:8.3f}")
    cpu = {name: statistics.median(one.cpu for one in each) for name, each in times.items()}
    ours = cpu[IN_PLACE]
    print(
        f"CPU: {cpu[ON_DISK] / ours:.0f} times less than by disk, {cpu[IN_MEMORY] / ours:.0f} times less than in "
        f"memory; {100 * ours / cpu['scored']:.1f} % of scoring"
    )
    print(f"\n{2 * space.anchors} numbers {'CPU s':>20} {'search':>8} {'report':>8}   bits per byte")
    plain, *rows = found_by(space, arguments.steps, arguments.seeds)
    for name, seconds, search, report in (plain, *rows):
        gain = plain[3] - report
        print(f"{name:24} {seconds:6.1f} {search:8.4f} {report:8.4f}  gain {gain:+.4f}")


if __name__ == "__main__":
    main()
