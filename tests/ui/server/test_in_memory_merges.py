"""Merges in memory: of one page alone, few, freed."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import pytest
import torch

from evaluation import reply
from evaluation.answering_model import AnsweringModel
from evaluation.llama_model import LlamaModel
from merging import MergeError, Plan, Problem, make_plan, read_recipe, run_plan
from tests.ui.speaker import tiny_speaker
from ui.hub.account import Account
from ui.languages.translate import current_language, speaking
from ui.merge.try_first import try_first
from ui.server.in_memory_merges import MARK, SECONDS_KEPT, InMemoryMerges, TriedMerges, TryRequest

NOBODY = Account("nobody")
LINEAR = """
merge_method: linear
models:
  - {{model: {0}/a, parameters: {{weight: 1}}}}
  - {{model: {0}/b, parameters: {{weight: 2}}}}
"""
NEVER = threading.Event()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Of two tiny models with a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("trials")
    base = tiny_speaker(folder / "a", 1)
    tiny_speaker(folder / "b", 2, base)
    made = make_plan(read_recipe(LINEAR.format(folder)))
    assert made.ok, made.problems
    return made


def make(in_memory: InMemoryMerges | TriedMerges, page: str, plan: Plan) -> str:
    return in_memory.make(TryRequest(page, "mine", plan, NOBODY), lambda _: None, NEVER)


def test_a_trial_has_the_weights_of_the_merge_and_answers(plan: Plan, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    in_memory = InMemoryMerges(10**9)
    name = make(in_memory, "page", plan)
    run_plan(plan, str(tmp_path / "merged"))
    wanted = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).state_dict()

    model = in_memory.get("page", name)

    assert model
    found = model.network.state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert model.network.generation_config.eos_token_id
    answer = reply(model, [{"role": "user", "content": "Hi"}], max_new_tokens=3)
    list(answer)
    assert answer.new_tokens > 0


def test_a_page_sees_its_own_trial_alone(plan: Plan) -> None:
    in_memory = InMemoryMerges(10**9)
    name = make(in_memory, "mine", plan)

    assert in_memory.get("mine", name)
    assert in_memory.get("yours", name) is None
    assert in_memory.get("mine", MARK + "other") is None


def test_a_changed_number_rewrites_the_live_model(plan: Plan, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    in_memory = InMemoryMerges(10**9)
    name = make(in_memory, "page", plan)
    model = in_memory.get("page", name)
    recipe = plan.recipe.replace("weight: 2", "weight: 0.3")
    changed = make_plan(read_recipe(recipe))
    run_plan(changed, str(tmp_path / "merged"))
    wanted = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).state_dict()

    assert in_memory.update("page", name, recipe, NOBODY)

    assert in_memory.get("page", name) is model
    assert model and all(torch.equal(model.network.state_dict()[key], wanted[key]) for key in wanted)


def test_only_who_made_a_merge_changes_it(plan: Plan) -> None:
    in_memory = InMemoryMerges(10**9)
    name = make(in_memory, "page", plan)

    assert not in_memory.update("page", name, plan.recipe, Account("visitor", "hf_other"))
    assert not in_memory.update("other page", name, plan.recipe, NOBODY)
    assert not in_memory.update("page", MARK + "other", plan.recipe, NOBODY)
    with pytest.raises(MergeError, match="linear"):
        in_memory.update("page", name, plan.recipe.replace("linear", "linaer"), NOBODY)


def test_the_page_knows_the_recipe_of_its_merge(plan: Plan) -> None:
    tried = TriedMerges()
    name = make(tried, "page", plan)
    recipe = plan.recipe.replace("weight: 2", "weight: 0.3")

    assert tried.recipe("page", name) == plan.recipe
    assert tried.recipe("yours", name) == ""
    assert tried.update("page", name, recipe, NOBODY)
    assert not tried.update("page", name, recipe, Account("visitor", "hf_other"))
    assert tried.recipe("page", name) == recipe
    tried.forget("page")
    assert not tried.update("page", name, recipe, NOBODY)
    assert tried.get("page", name) is None


def test_memory_is_bounded_and_freed(plan: Plan) -> None:
    clock = [0.0]
    in_memory = InMemoryMerges(int(plan.bytes_out * 2.5), lambda: clock[0])
    first = make(in_memory, "1", plan)
    model = in_memory.get("1", first)
    assert model
    gone = weakref.ref(model.network)
    del model
    make(in_memory, "2", plan)
    make(in_memory, "3", plan)
    assert in_memory.get("1", first) is None  # the least recently used
    gc.collect()
    assert gone() is None

    in_memory.forget("3")
    assert in_memory.get("3", first) is None
    clock[0] = SECONDS_KEPT + 1
    make(in_memory, "4", plan)
    assert in_memory.get("2", first) is None  # idle


def test_what_does_not_fit_is_refused_with_the_number(plan: Plan) -> None:
    with pytest.raises(MergeError, match="at most 10 B"):
        make(InMemoryMerges(10), "page", plan)


def test_the_page_is_told_of_progress_and_of_the_end(plan: Plan) -> None:
    in_memory = TriedMerges()

    told = list(try_first(in_memory, TryRequest("page", "mine", plan, NOBODY)))

    assert "Merging: mine" in told[0][0]
    assert told[-1][1] and told[-1][1].location == MARK + "mine"


def test_the_merge_speaks_the_visitors_language(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory, spoken = TriedMerges(), []

    def make(*_: object) -> str:
        spoken.append(current_language())
        return "mine"

    monkeypatch.setattr(in_memory, "make", make)
    with speaking("ko"):
        list(try_first(in_memory, TryRequest("page", "mine", plan, NOBODY)))

    assert spoken == ["ko"]


def test_a_page_that_goes_stops_its_merge(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory, stopped = TriedMerges(), threading.Event()

    def make(asked: TryRequest, tell: object, cancel: threading.Event) -> str:
        assert cancel.wait(60)
        stopped.set()
        return ""

    monkeypatch.setattr(in_memory, "make", make)
    told = try_first(in_memory, TryRequest("page", "mine", plan, NOBODY))
    next(told)
    next(told)
    told.close()

    assert stopped.wait(60)


def test_llama_cpp_answers_with_the_merge_and_with_each_change(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    from tests.evaluation.tiny_gguf import write_gguf as write_tiny

    in_memory = InMemoryMerges(10**9)
    name = make(in_memory, "page", plan)
    recipes: list[str] = []

    def write(changed: Plan, kind: str, folder: Path, **_: object) -> Path:
        recipes.append(changed.recipe)
        live = in_memory.get("page", name)
        assert live and kind == "BF16"
        return write_tiny(folder / "merge.gguf", live.network, live.tokenizer)

    monkeypatch.setattr("ui.server.in_memory_merges.write_gguf", write)

    def said(model: AnsweringModel | None) -> str:
        assert model
        answer = reply(model, [{"role": "user", "content": "Hi"}], max_new_tokens=10, temperature=0)
        return "".join(answer).replace(" ", "")  # transformers puts spaces between this tokenizer's bytes

    quick = in_memory.to_answer("page", name, threading.Event())
    assert isinstance(quick, LlamaModel) and in_memory.to_answer("page", name, threading.Event()) is quick
    assert said(quick) == said(in_memory.get("page", name))

    in_memory.update("page", name, plan.recipe.replace("weight: 2", "weight: 5"), NOBODY)
    changed = in_memory.to_answer("page", name, threading.Event())
    assert isinstance(changed, LlamaModel) and changed is not quick
    assert "weight: 5" in recipes[1] and len(recipes) == 2
    assert said(changed) == said(in_memory.get("page", name))

    running = changed.server._running
    assert running
    del changed
    in_memory.forget("page")
    assert not running.is_alive
    assert in_memory.to_answer("page", name, threading.Event()) is None


def test_a_merge_that_llama_cpp_cannot_run_answers_in_transformers(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    in_memory = InMemoryMerges(10**9)
    name = make(in_memory, "page", plan)
    tried: list[str] = []

    def refuse(changed: Plan, kind: str, *_: object, **__: object) -> Path:
        tried.append(kind)
        raise MergeError(Problem("trial-gone"))

    monkeypatch.setattr("ui.server.in_memory_merges.write_gguf", refuse)

    assert in_memory.to_answer("page", name, threading.Event()) is in_memory.get("page", name)
    assert in_memory.to_answer("page", name, threading.Event()) is in_memory.get("page", name)
    assert tried == ["BF16"]
