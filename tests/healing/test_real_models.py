"""Each kind of training on the demo's model: what is held out is predicted, or preferred, better than before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.models import BASE, VOICES, model_folder
from healing import Healed, plan_training, run_training
from merging import cut_recipe, stack_recipe
from tests import ROOT

pytestmark = [pytest.mark.real_models, pytest.mark.nightly, pytest.mark.timeout(3600)]

STEPS = (
    "arguments: {max_steps: 20, learning_rate: 1.0e-3, per_device_train_batch_size: 1, max_length: 128, "
    "warmup_steps: 5}"
)
ON_TOPICS = f"datasets: [{{path: python-topics}}]\n{STEPS}\nevaluate: {{texts: english}}\n"


def pairs() -> list[tuple[str, str, str]]:
    """Questions with a pirate's and a bard's answer."""
    pirate, bard = (
        dict(json.loads((ROOT / "examples" / "texts" / f"{voice}.json").read_text())["pairs"])
        for voice in ("pirate", "bard")
    )
    return [(asked, answer, bard[asked]) for asked, answer in pirate.items() if asked in bard]


def trained(recipe: str, training: str, tmp_path: Path) -> Healed:
    plan = plan_training(f"{recipe}---\n{training}", folder=tmp_path)
    assert plan.ok, plan.problems
    return run_training(plan, str(tmp_path / "out"), keep=True)


@pytest.mark.parametrize("more", ["", "top_k: 64\n", "hidden_states: 1.0\n"])
def test_a_cut_heals(more: str, tmp_path: Path) -> None:
    cut = cut_recipe(str(model_folder(BASE)), [15, 16, 17, 18])

    found = trained(cut, f"train: distillation\n{more}{ON_TOPICS}", tmp_path)

    assert found.judgement.healed
    assert found.judgement.before.perplexity == pytest.approx(60.13, abs=0.1)
    assert found.judgement.after.perplexity < 57


def test_a_cut_is_tuned_on_text(tmp_path: Path) -> None:
    found = trained(
        cut_recipe(str(model_folder(BASE)), [15, 16, 17, 18]), f"train: sft\n{ON_TOPICS}", tmp_path
    )

    assert found.judgement.after.perplexity < found.judgement.before.perplexity


def test_silent_copies_are_trained_from_the_parents_perplexity(tmp_path: Path) -> None:
    stack = stack_recipe(str(model_folder(BASE)), [7, 15, 23])

    found = trained(stack, f"train: sft\n{ON_TOPICS.replace('1.0e-3', '1.0e-4')}", tmp_path)

    assert found.judgement.teacher
    assert found.judgement.before.nll_nats == pytest.approx(found.judgement.teacher.nll_nats)
    assert found.losses[-1] < found.losses[0]


@pytest.mark.parametrize("kind", ["dpo", "orpo"])
def test_preferences_change_what_is_preferred(kind: str, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": asked}],
            "chosen": [{"role": "assistant", "content": better}],
            "rejected": [{"role": "assistant", "content": worse}],
        }
        for asked, better, worse in pairs()
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    voices = ", ".join(f"{{model: {model_folder(voice)}}}" for voice in (VOICES["pirate"], VOICES["bard"]))
    soup = f"merge_method: linear\nparameters: {{weight: 0.5}}\nmodels: [{voices}]\n"
    training = f"train: {kind}\ndatasets: [{{path: pairs.jsonl}}]\n{STEPS.replace('1.0e-3', '5.0e-4')}\n"

    found = trained(soup, training, tmp_path).judgement.preferred

    assert found
    assert found.gain > 0


def test_gold_learns_from_a_voice(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer, _ in pairs()
    ]
    (tmp_path / "talk.jsonl").write_text("\n".join(map(json.dumps, rows)))
    base, voice = model_folder(BASE), model_folder(VOICES["pirate"])
    rest = f"datasets: [{{path: talk.jsonl}}]\nevaluate: {{texts: english}}\n{STEPS}\n"

    found = trained(
        f"merge_method: passthrough\nmodels: [{{model: {base}}}]\n",
        f"train: gold\nteacher: {voice}\n{rest}",
        tmp_path,
    )

    assert min(found.losses[-5:]) < found.losses[0]
