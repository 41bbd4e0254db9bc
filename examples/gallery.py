"""A dozen merges for the gallery of the demo's Hub, published by Alloy itself: `python -m examples.gallery`.

The demo runs this beside the app at its first start. What the Hub holds already is left alone. Two of them are merged,
scored and asked a question. Of the others the recipe alone is published, which costs seconds and no space on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, metadata_update

from evaluation import Perplexity, difference, load_model, perplexity, perplexity_results, reply, write_card
from evaluation.text import TextSource, bundled_text
from examples.models import BASE, OWNER, VOICES
from merging import licence_of, make_plan, read_recipe, run_plan
from merging.plan import Plan
from merging.result_card import model_card

RECIPES = Path(__file__).parent / "recipes"
PIRATE, BARD, KOREAN = (f"{OWNER}/{VOICES[voice]}" for voice in ("pirate", "bard", "korean"))
INSTRUCT = f"{OWNER}/{BASE}"
QUESTION = "What is the capital of Italy?"
RECIPE_ALONE = "This repository holds the recipe alone: *Remix* it in Alloy to make the model."
# Tokens of a sample answer.
LONGEST_ANSWER = 40


@dataclass(frozen=True)
class Shown:
    """A merge of the gallery.

    Args:
        recipe: its text
        languages: for its card
        judged: whether it is merged, scored beside its parents and asked a question; else it is a recipe alone
    """

    recipe: str
    languages: tuple[str, ...] = ("en",)
    judged: bool = False


def _file(name: str) -> str:
    return (RECIPES / f"{name}.yaml").read_text("utf-8")


def _of_task_vectors(method: str, *models: str, base: str = INSTRUCT, **parameters: float) -> str:
    """A recipe whose models all have the same parameters."""
    values = ", ".join(f"{name}: {value:g}" for name, value in parameters.items())
    entries = [f"  - {{model: {model}, parameters: {{{values}}}}}" for model in models]
    return "\n".join(
        [f"merge_method: {method}", f"base_model: {base}", "models:", *entries, "dtype: bfloat16", ""]
    )


def _of_layers(*ranges: tuple[int, int]) -> str:
    """A recipe that stacks ranges of layers of the base."""
    slices = [f"  - sources: [{{model: {INSTRUCT}, layer_range: [{start}, {end}]}}]" for start, end in ranges]
    return "\n".join(["merge_method: passthrough", "slices:", *slices, "dtype: bfloat16", ""])


MERGES: Mapping[str, Shown] = {
    "Pirate-Bard-SLERP": Shown(_file("slerp-gradient"), judged=True),
    "Pirate-Bard-TIES": Shown(_file("ties"), judged=True),
    "Pirate-Bard-Both": Shown(_file("task-arithmetic")),
    "Pirate-Bard-Chat-Vector": Shown(_file("chat-vector")),
    "Pirate-Bard-Soup": Shown(_file("linear")),
    "Pirate-Bard-DARE": Shown(_of_task_vectors("dare_ties", PIRATE, BARD, weight=0.6, density=0.5)),
    "Pirate-Bard-DELLA": Shown(_of_task_vectors("della", PIRATE, BARD, weight=0.6, density=0.6, epsilon=0.1)),
    "Pirate-Bard-Stock": Shown(
        f"merge_method: model_stock\nbase_model: {INSTRUCT}\n"
        f"models:\n  - model: {PIRATE}\n  - model: {BARD}\ndtype: bfloat16\n"
    ),
    "Less-Pirate": Shown(_of_task_vectors("task_arithmetic", PIRATE, weight=0.4)),
    "Pirate-Alone": Shown(
        f"merge_method: passthrough\nmodels:\n  - model: {INSTRUCT}+{PIRATE}-LoRA\ndtype: bfloat16\n"
    ),
    "Short": Shown(_of_layers((0, 20), (22, 30))),
    "Korean-Bard": Shown(
        f"merge_method: chat_vector\nbase_model: {INSTRUCT}\n"
        f"models:\n  - model: {KOREAN}\n  - model: {BARD}\nparameters: {{weight: 0.5}}\ndtype: bfloat16\n",
        languages=("ko", "en"),
    ),
}


def repository(name: str) -> str:
    """Where one of MERGES is on the demo's Hub."""
    return f"{OWNER}/SmolLM2-135M-{name}"


def main() -> None:
    """Publish what the Hub of HF_ENDPOINT lacks, with the login of HF_TOKEN: the recipes first."""
    os.nice(19)  # the page's visitors come first
    api, scorer = HfApi(), Scorer()
    for name, shown in sorted(MERGES.items(), key=lambda one: one[1].judged):
        to = repository(name)
        if api.repo_exists(to):
            continue
        plan = make_plan(read_recipe(shown.recipe))
        metadata: dict[str, object] = {"language": list(shown.languages)}
        if shown.judged:
            run_plan(plan, f"hf://{to}", private=False, licence=licence_of(plan, None))
            scorer.write(to, (PIRATE, BARD))
            metadata["widget"] = [{"text": QUESTION, "output": {"text": scorer.answer(to)}}]
        else:
            publish_recipe(api, plan, to)
        metadata_update(to, metadata, overwrite=True)


def publish_recipe(api: HfApi, plan: Plan, to: str) -> None:
    """Publish a merge's card, which has the recipe, and its config, without weights."""
    card = model_card(plan, to, licence_of(plan, None)).replace("\n\n", f"\n\n{RECIPE_ALONE}\n\n", 1)
    files = {"README.md": card, "config.json": plan.files["config.json"]}
    operations = [CommitOperationAdd(path, content.encode()) for path, content in files.items()]
    api.create_repo(to)
    api.create_commit(to, operations, commit_message="Publish the recipe")


class Scorer:
    """Scores models on the bundled English text; a model that was scored is not scored again."""

    def __init__(self) -> None:
        self.texts = bundled_text("english")
        self._scores: dict[str, Perplexity] = {}

    def write(self, model: str, parents: tuple[str, ...]) -> None:
        """Write a model's score, and its differences to its parents, into its card."""
        mine = self._score(model)
        differences = [difference(mine, self._score(parent), self.texts) for parent in parents]
        results = perplexity_results(mine, self.texts, TextSource("Alloy's English text"), differences)
        write_card(model, results)

    def answer(self, model: str) -> str:
        """What a model answers to QUESTION, always with the most likely token."""
        talk = [{"role": "user", "content": QUESTION}]
        given = reply(load_model(model, device="cpu"), talk, max_new_tokens=LONGEST_ANSWER, temperature=0)
        for _ in given:
            pass
        return given.text.strip()

    def _score(self, name: str) -> Perplexity:
        if name not in self._scores:
            self._scores[name] = perplexity(load_model(name, device="cpu"), self.texts)
        return self._scores[name]


if __name__ == "__main__":
    main()
