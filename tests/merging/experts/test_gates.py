"""Rows of routers: worked by hand, and from the states that transformers itself computes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from checkpoints import open_checkpoint
from checkpoints.problems import CheckpointError, PlanError
from merging import Cancelled, make_plan, read_recipe, route_prompts
from merging.experts import gates
from merging.experts.gates import LayerStates, prompts_of, rows_of, states
from merging.experts.generated import LocatedRows
from merging.plan import Gates, Prompt, PromptedExpert
from merging.prompt_routing import read_prompts, read_prompts_apart
from tests.merges import weight_files
from tests.merging.engine.elsewhere import Elsewhere
from tests.merging.experts.dense import LAYERS, dense, loaded, made, recipe

A, B, C, D = (Prompt(name, tuple(range(4, 7 + number))) for number, name in enumerate("abcd"))


def experts(*own: tuple[Prompt, ...], **shared: tuple[Prompt, ...]) -> tuple[PromptedExpert, ...]:
    routed = [PromptedExpert(str(number), prompts) for number, prompts in enumerate(own)]
    return (*routed, *(PromptedExpert(name, prompts, is_shared=True) for name, prompts in shared.items()))


def by_hand(found: tuple[PromptedExpert, ...], mode: str, *tokens: list[list[float]]) -> gates.LayerRows:
    """The rows of a layer in which prompts have these states, entering and (ten times as large) before the MLP."""
    prompts = prompts_of(found)
    entering = [torch.tensor(states) for states in tokens]
    given = LayerStates(0, entering, [10 * states for states in entering])
    return rows_of(Gates(mode, 0, 1, found), prompts, given)


def test_hidden_takes_the_last_token_of_each_prompt() -> None:
    # Expert 0: the mean of (3, 0) and (1, 4) is (2, 2), of length 8 ** 0.5; expert 1: (0, -5).
    rows = by_hand(experts((A, B), (C,)), "hidden", [[9.0, 9], [3, 0]], [[1.0, 4]], [[7.0, 7], [0, -5]])

    torch.testing.assert_close(rows.rows, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1]]))
    torch.testing.assert_close(rows.means, torch.tensor([[2.0, 2], [0, -5]]))


def test_hidden_avg_takes_all_tokens_of_each_prompt() -> None:
    # Each prompt counts the same, whatever its length: ((2 + 4) / 2, 0), and (0, 1).
    rows = by_hand(experts((A,), (B,)), "hidden_avg", [[2.0, 0], [4, 0]], [[0.0, 1], [0, 1], [0, 1]])

    torch.testing.assert_close(rows.means, torch.tensor([[3.0, 0], [0, 1]]))


def test_negative_prompts_are_taken_off() -> None:
    found = (PromptedExpert("0", (A,), (B, C)), PromptedExpert("1", (D,)))

    rows = by_hand(found, "hidden_last", [[5.0, 1]], [[1.0, 1]], [[3.0, 1]], [[0.0, 2]])

    torch.testing.assert_close(rows.means, torch.tensor([[3.0, 0], [0, 2]]))
    torch.testing.assert_close(rows.rows, torch.tensor([[1.0, 0], [0, 1]]))


def test_router_takes_what_the_mlp_is_given_without_the_first_token_and_the_mean() -> None:
    # The MLP is given (10, 20) and (10, -20) after the first tokens; their mean (10, 0) says nothing.
    rows = by_hand(experts((A,), (B,)), "router", [[99.0, 99], [1, 2]], [[99.0, 99], [1, -2]])

    torch.testing.assert_close(rows.means, torch.tensor([[10.0, 20], [10, -20]]))
    torch.testing.assert_close(rows.rows, torch.tensor([[0.0, 1], [0, -1]]))


def test_the_gate_of_a_shared_expert_is_not_compared_with_the_others() -> None:
    rows = by_hand(experts((A,), (B,), shared=(C,)), "router", [[1.0, 2]], [[1.0, -2]], [[3.0, 4]])

    assert rows.shared is not None
    torch.testing.assert_close(rows.shared, torch.tensor([[0.6, 0.8]]))
    assert rows.rows.shape == (2, 2)


def test_prompts_that_say_the_same_give_rows_of_zeros() -> None:
    """The mean of seven equal numbers is not always that number."""
    prompts = [Prompt(str(number), (4, 5)) for number in range(7)]
    same = [[1.0, 2], [1.23, 1.23]]

    rows = by_hand(experts(*((prompt,) for prompt in prompts)), "router", *[same] * 7)

    assert (rows.means - rows.means.mean(0)).any()
    assert not rows.rows.any()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    for kind in ("llama", "mistral", "qwen2", "qwen3"):
        dense(folder / kind, kind, 1)
    dense(folder / "other", "llama", 2)
    return folder


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_states_are_those_of_transformers(kind: str, models: Path) -> None:
    prompts = [Prompt("", (5, 6, 7, 8, 9)), Prompt("", (200, 1)), Prompt("", tuple(range(30, 47)))]
    network = loaded(models / kind)
    inputs: list[torch.Tensor] = []
    for layer in network.model.layers:
        layer.mlp.register_forward_pre_hook(lambda _, given: inputs.append(given[0][0]))

    with open_checkpoint_of(models / kind) as base:
        found = list(states(base, prompts, lambda: None))

    assert [one.layer for one in found] == [*range(LAYERS)]
    for index, prompt in enumerate(prompts):
        inputs.clear()
        with torch.inference_mode():
            hidden = network(torch.tensor([prompt.tokens]), output_hidden_states=True).hidden_states
        for layer in range(LAYERS):
            torch.testing.assert_close(found[layer].entering[index], hidden[layer][0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found[layer].inputs[index], inputs[layer], atol=1e-5, rtol=1e-4)


class open_checkpoint_of:  # noqa: N801 (a context manager)
    """A model, closed in the end."""

    def __init__(self, path: Path):
        self._opened = open_checkpoint(str(path))

    def __enter__(self):  # type: ignore[no-untyped-def]
        return self._opened

    def __exit__(self, *_: object) -> None:
        self._opened.close()


def test_one_layer_is_in_memory_at_a_time(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = []
    original = gates._weights

    def watch(base, prefix, layer):  # type: ignore[no-untyped-def]
        networks.append(layer)
        return original(base, prefix, layer)

    monkeypatch.setattr(gates, "_weights", watch)
    with open_checkpoint_of(models / "llama") as base:
        for found in states(base, [A], lambda: None):
            assert all(p.is_meta for layer in networks for p in layer.parameters()), found.layer
    assert len(networks) == LAYERS


@pytest.mark.parametrize("mode", ["router", "hidden", "hidden_avg", "cheap_embed"])
def test_rows_arrive_in_the_result(mode: str, models: Path, tmp_path: Path) -> None:
    text = recipe(models / "llama", [models / "llama", models / "other"], gate_mode=mode, dtype="float32")

    plan = made(text, tmp_path / "out")

    assert plan.gates
    found = load_file(tmp_path / "out/model.safetensors")
    with open_checkpoint_of(models / "llama") as base:
        wanted = gates.compute(plan.gates, base, lambda: None)
    rows = [found[f"model.layers.{n}.block_sparse_moe.gate.weight"] for n in range(LAYERS)]
    for layer in range(LAYERS):
        torch.testing.assert_close(rows[layer], wanted[layer].rows)
        torch.testing.assert_close(rows[layer].norm(dim=1), torch.ones(2))
    assert torch.equal(rows[0], rows[1]) == (mode == "cheap_embed")
    loaded(tmp_path / "out")


def test_cheap_rows_are_sums_of_embeddings(models: Path, tmp_path: Path) -> None:
    text = recipe(models / "llama", [models / "llama"] * 2, gate_mode="cheap_embed", dtype="float32")

    plan = made(text, tmp_path / "out")

    assert plan.gates
    table = load_file(models / "llama/model.safetensors")["model.embed_tokens.weight"].float()
    sums = [
        torch.stack([table[list(prompt.tokens)].sum(0) for prompt in expert.positive]).mean(0)
        for expert in plan.gates.experts
    ]
    wanted = torch.stack([row / row.norm() for row in sums])
    found = load_file(tmp_path / "out/model.safetensors")["model.layers.1.block_sparse_moe.gate.weight"]
    torch.testing.assert_close(found, wanted)


def test_prompts_are_split_as_the_base_splits_them(models: Path) -> None:
    plan = make_plan(read_recipe(recipe(models / "llama", [models / "llama"] * 2, gate_mode="hidden")))

    tokenizer = hf.AutoTokenizer.from_pretrained(models / "llama")
    assert plan.gates
    for expert in plan.gates.experts:
        for prompt in expert.positive:
            assert list(prompt.tokens) == tokenizer(prompt.text).input_ids


def test_a_shared_expert_has_a_computed_gate(models: Path, tmp_path: Path) -> None:
    base = models / "qwen2"

    plan = made(recipe(base, [base, base], shared=base, gate_mode="router"), tmp_path / "out")

    assert plan.gates
    assert [expert.is_shared for expert in plan.gates.experts] == [False, False, True]
    gate = load_file(tmp_path / "out/model.safetensors")["model.layers.1.mlp.shared_expert_gate.weight"]
    assert gate.shape[0] == 1
    assert gate.float().norm().item() == pytest.approx(1, rel=0.01)


def test_workers_elsewhere_compute_no_routers_again(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe(models / "llama", [models / "llama", models / "other"], gate_mode="router")
    made(text, tmp_path / "right")
    calls = []
    original = gates.compute
    monkeypatch.setattr(gates, "compute", lambda *given: calls.append(1) or original(*given))

    made(text, tmp_path / "out", on=Elsewhere())

    assert weight_files(tmp_path / "out") == weight_files(tmp_path / "right")
    assert len(calls) == 1


def test_rows_travel_as_they_are() -> None:
    rows = np.array([[1.5, -0.25]], dtype=np.float32)

    found = LocatedRows({"gate": base64.b64encode(rows.tobytes()).decode()}).arrays()

    assert (found["gate"] == rows.ravel()).all()


def test_computing_can_be_stopped(models: Path) -> None:
    def stop() -> None:
        raise Cancelled

    with open_checkpoint_of(models / "llama") as base, pytest.raises(Cancelled):
        list(states(base, [A], stop))


def test_what_is_wrong_with_prompts_is_a_sentence(models: Path, tmp_path: Path) -> None:
    base = dense(tmp_path / "bare", "llama", 1)
    text = recipe(base, [base, base], gate_mode="hidden")
    cases = [
        ("prompt-length", lambda: None, text.replace("number 0", "x" * 3000)),
        ("unreadable-tokenizer", lambda: (base / "tokenizer.json").write_text('{"model": 3}'), text),
        ("prompts-without-tokenizer", lambda: (base / "tokenizer.json").unlink(), text),
    ]
    for code, change, changed in cases:
        change()
        [problem] = make_plan(read_recipe(changed)).problems
        assert problem.code == code
        assert problem.message


def test_a_table_shows_where_prompts_go(models: Path) -> None:
    text = recipe(models / "llama", [models / "llama", models / "other"], gate_mode="router")

    routing = route_prompts(read_recipe(text), ["something else"])

    assert routing.experts == (str(models / "llama"), str(models / "other"))
    assert [prompt.expert for prompt in routing.prompts] == [0, 0, 1, 1, None]
    for prompt in routing.prompts:
        assert sum(prompt.weights) == pytest.approx(1)
        assert sum(prompt.first) == pytest.approx(1)
    # The rows were made of these very prompts.
    assert routing.right_weight > 0.5
    [pair] = routing.pairs
    assert -1 <= pair.cosine <= 1


def test_what_experts_get_is_what_the_result_gives_them(models: Path, tmp_path: Path) -> None:
    """Of a mixture of equal experts, whose states are the base's: its own routers answer the same."""
    text = recipe(models / "qwen3", [models / "qwen3"] * 3, gate_mode="router", dtype="float32")
    plan = made(text, tmp_path / "out")
    network = loaded(tmp_path / "out")
    seen: list[torch.Tensor] = []
    for layer in network.model.layers:
        gate = layer.mlp.gate
        layer.mlp.register_forward_pre_hook(
            lambda _, given, gate=gate: seen.append((given[0][0] @ gate.weight.T).softmax(-1))
        )

    routing = route_prompts(read_recipe(text))

    assert plan.gates
    prompts = [prompt for expert in plan.gates.experts for prompt in expert.positive]
    for prompt, routed in zip(prompts, routing.prompts, strict=True):
        seen.clear()
        with torch.inference_mode():
            network(torch.tensor([prompt.tokens]))
        wanted = torch.cat([weights[1:] for weights in seen]).mean(0)
        torch.testing.assert_close(torch.tensor(routed.weights), wanted, atol=1e-3, rtol=1e-3)


def test_experts_that_are_alike_are_warned_of_with_numbers(models: Path) -> None:
    same = {"source_model": models / "llama", "positive_prompts": ["the same text"]}
    text = recipe(
        models / "llama", [same, {**same, "positive_prompts": ["the same text "]}], gate_mode="hidden_avg"
    )

    warnings = {warning.code: warning for warning in route_prompts(read_recipe(text)).warnings}

    assert "gates-weak" in warnings
    assert warnings["gates-weak"].values["chance"] == 0.5
    same_twice = recipe(models / "llama", [same, same], gate_mode="router")
    routing = route_prompts(read_recipe(same_twice))
    alike = {warning.code: warning for warning in routing.warnings}["gates-alike"]
    assert alike.values["cosine"] == pytest.approx(1)
    assert alike.values["layers"] == alike.values["total"] == LAYERS


def test_random_routers_send_nothing_anywhere(models: Path) -> None:
    with pytest.raises(Exception, match="computed from prompts"):
        route_prompts(read_recipe(recipe(models / "llama", [models / "llama"] * 2)))


def test_a_base_that_cannot_be_read_is_a_problem(models: Path, tmp_path: Path) -> None:
    base = dense(tmp_path / "base", "llama", 1)
    text = recipe(base, [base, base], gate_mode="router")
    plan = make_plan(read_recipe(text))
    (base / "config.json").write_text((base / "config.json").read_text() + " ")

    from merging import run_plan

    with pytest.raises(CheckpointError):
        run_plan(plan, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_tried_prompts_are_the_same_in_a_process_of_their_own(models: Path, tmp_path: Path) -> None:
    base = dense(tmp_path / "base", "llama", 1)
    plan = make_plan(read_recipe(recipe(base, [base, base], gate_mode="router")))

    assert read_prompts_apart(plan, ["one", "two"], False) == read_prompts(plan, ["one", "two"])
    with pytest.raises(PlanError, match="tokens"):
        read_prompts_apart(plan, ["x" * 3000], False)


def test_a_config_cannot_take_memory_that_the_weights_do_not_justify(models: Path, tmp_path: Path) -> None:
    base = dense(tmp_path / "base", "llama", 1)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"head_dim": 8 * 10**11}))

    with (
        open_checkpoint_of(base) as opened,
        pytest.raises(CheckpointError, match="400000000000 rotary frequencies"),
    ):
        list(states(opened, [A], lambda: None))
