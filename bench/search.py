"""What a trial of a search costs, by us and by mergekit 0.1.5 with transformers: the same parents, text and numbers.

Each trial makes a merge with other weights and scores it. Ours rewrites a live model. Beside it mergekit's own planner
and executor make the tensors in memory, which are copied into a loaded model: mergekit-evolve's steps without a disk.
And a merge goes to disk and is loaded with `from_pretrained`. Then weights are learned by exact derivatives, and chosen
by TPE, by CMA-ES and at random in the same CPU time: a few for each voice, and one for each layer. All of them are
judged on texts that neither they nor the models' training used.

python -m bench.search [--repeats 5] [--anchors 3 30] [--steps 6] [--seeds 1]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from evaluation import LanguageModel, load_model, perplexity
from evaluation.text import bundled_text
from examples.models import BASE, VOICES, model_folder
from merging import Recipe, read_recipe
from searching.data import as_document
from searching.figures import Compared, Figures, compare
from searching.goals import Goal, Part, Way
from searching.gradient import TextObjective, score
from searching.learning import Pace, learn
from searching.live_merge import LiveMerge
from searching.objective import as_read
from searching.optimiser import optimiser
from searching.plan import FINALISTS
from searching.space import Space
from searching.space_reader import read_space

HIGHEST = 1.2
WAYS: tuple[Way, ...] = ("tpe", "cmaes", "random")
SPOKEN = ("pirate", "bard")
GOALS = tuple(Goal(name, "text", name) for name in (*SPOKEN, "english"))
# Documents of each part: conversations in each voice, and paragraphs of English.
TALKS: dict[Part, slice] = {"search": slice(0, 4), "choice": slice(4, 8), "report": slice(8, 24)}
PARAGRAPHS: dict[Part, slice] = {"search": slice(0, 3), "choice": slice(3, 5), "report": slice(5, 12)}
_CONVERSATIONS = Path(__file__).parents[1] / "ui/search/voices"
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
        halves = values[: self.anchors], values[self.anchors :]
        models = [
            {"model": str(model_folder(VOICES[voice])), "parameters": {"weight": list(own)}}
            for voice, own in zip(SPOKEN, halves, strict=True)
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


def parts(model: LanguageModel) -> dict[Part, list[TextObjective]]:
    """Conversations in two voices and plain English, which no voice was trained on, in parts that share no text."""
    found: dict[Part, list[TextObjective]] = {}
    for part, place in TALKS.items():
        found[part] = [TextObjective(_conversations(voice, place, model)) for voice in SPOKEN]
        found[part].append(TextObjective(tuple(bundled_text("english")[PARAGRAPHS[part]])))
    return found


def _conversations(voice: str, place: slice, model: LanguageModel) -> tuple[str, ...]:
    pairs = json.loads((_CONVERSATIONS / f"{voice}.json").read_text("utf-8"))[place]
    roles = ("user", "assistant")
    talks = [[{"role": r, "content": c} for r, c in zip(roles, pair, strict=True)] for pair in pairs]
    return tuple(as_read(model, as_document(talk)) for talk in talks)


def figures(model: LanguageModel, objectives: Sequence[TextObjective]) -> Figures:
    """Bits and bytes of each document."""
    return {
        goal.name: tuple(
            (one.nats / math.log(2), float(one.bytes)) for one in perplexity(model, own.texts).documents
        )
        for goal, own in zip(GOALS, objectives, strict=True)
    }


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


@dataclass(frozen=True)
class Found:
    """What one way found.

    Attributes:
        name: the way, and what it had time for
        cpu: seconds
        search: bits per byte on the search texts
        report: on the report texts
        beside: compared with the plain average, on the report texts
    """

    name: str
    cpu: float
    search: float
    report: float
    beside: Compared


def found_by(space: Weights, steps: int, seeds: int) -> Iterator[Found]:
    """What each way to choose numbers finds; the first is the plain average."""
    with LiveMerge(space.recipe(space.start)) as live:
        texts = parts(live.model)
        plain = figures(live.model, texts["report"])

        def judged(name: str, cpu: float, values: Sequence[float]) -> Found:
            live.update(space.recipe(values))
            beside = compare(figures(live.model, texts["report"]), plain, GOALS)
            return Found(name, cpu, score(live, texts["search"]), score(live, texts["report"]), beside)

        yield judged("plain average", 0.0, space.start)
        began = time.process_time()
        learnt = learn(live, space, texts["search"], texts["choice"], Pace(steps=steps))
        budget = time.process_time() - began
        yield judged(f"derivatives, {len(learnt.steps)} steps", budget, learnt.values)
        for way in WAYS:
            for seed in range(seeds):
                yield judged(*_by_trials(live, texts, space, way, seed, budget))


def _by_trials(
    live: LiveMerge,
    texts: Mapping[Part, Sequence[TextObjective]],
    space: Weights,
    way: Way,
    seed: int,
    budget: float,
) -> tuple[str, float, Sequence[float]]:
    """A sampler in this many CPU seconds: its name, what it took, and its numbers.

    It begins at the start. Of the best on the search texts it takes the best on the choice texts, which is not counted.
    """
    named = space.space(seed)
    sampler = optimiser(named, way, 1000)
    scored: list[tuple[float, Sequence[float]]] = []
    began = time.process_time()
    while time.process_time() - began < budget:
        point = sampler.ask(None if scored else named.start)
        assert point is not None
        values = [float(point[axis.name]) for axis in named.axes]
        live.update(space.recipe(values))
        scored.append((score(live, texts["search"]), values))
        sampler.tell(len(scored) - 1, [scored[-1][0]])
    spent = time.process_time() - began

    def on_choice(values: Sequence[float]) -> float:
        live.update(space.recipe(values))
        return score(live, texts["choice"])

    finalists = [values for _, values in sorted(scored)[:FINALISTS]]
    return f"{way}, {len(scored)} trials", spent, min(finalists, key=on_choice)


def print_trials(space: Weights, repeats: int) -> None:
    times = trials(space, repeats)
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


def print_found(space: Weights, steps: int, seeds: int) -> None:
    print(
        f"\n{f'{2 * space.anchors} weights':24} {'CPU s':>6} {'search':>8} {'report':>8}  bits per byte",
        flush=True,
    )
    for one in found_by(space, steps, seeds):
        print(f"{one.name:24} {one.cpu:6.1f} {one.search:8.4f} {one.report:8.4f}", end="")
        if one.cpu and (interval := one.beside.interval):
            print(
                f"  gain {-one.beside.difference:+.4f} ({-interval[1]:+.4f} to {-interval[0]:+.4f})", end=""
            )
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="trials that are measured; 0 for none")
    parser.add_argument("--anchors", type=int, nargs="*", default=[3, 30], help="weights of each voice")
    parser.add_argument("--steps", type=int, default=6, help="of learning")
    parser.add_argument("--seeds", type=int, default=1, help="of each sampler")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.repeats:
        print_trials(Weights(3), arguments.repeats)
    for anchors in arguments.anchors:
        print_found(Weights(anchors), arguments.steps, arguments.seeds)


if __name__ == "__main__":
    main()
