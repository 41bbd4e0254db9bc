"""Models of one class whose files were written by different releases of transformers: merged as if by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
import yaml
from safetensors.torch import load_file, save_file

from checkpoints import renamed
from merging import Plan, make_plan, read_recipe, run_plan
from merging.engine.models import locate_models, open_models

TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 2,
}
SIGHT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}


def mixtral() -> hf.PreTrainedModel:
    return hf.MixtralForCausalLM(hf.MixtralConfig(**TEXT, num_local_experts=2))


def qwen3_moe() -> hf.PreTrainedModel:
    config = hf.Qwen3MoeConfig(
        **TEXT, num_experts=4, moe_intermediate_size=16, head_dim=8, num_experts_per_tok=2
    )
    return hf.Qwen3MoeForCausalLM(config)


def llava() -> hf.PreTrainedModel:
    text, sight = hf.LlamaConfig(**TEXT), hf.CLIPVisionConfig(**SIGHT)
    return hf.LlavaForConditionalGeneration(hf.LlavaConfig(text_config=text, vision_config=sight))


def gemma3() -> hf.PreTrainedModel:
    text = hf.Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=8)
    return hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(text_config=text, vision_config=hf.SiglipVisionConfig(**SIGHT), mm_tokens_per_image=4)
    )


MODELS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "packed experts": mixtral,
    "packed experts of another class": qwen3_moe,
    "prefixes": llava,
    "prefixes and a tied head": gemma3,
}


# The others are tried at night.
EVERY_RUN = ("packed experts", "prefixes and a tied head")


def save(
    make: Callable[[], hf.PreTrainedModel], seed: int, folder: Path, *, today: bool
) -> hf.PreTrainedModel:
    """A random model, in files as transformers writes them, or under the names and with the tensors of its modules."""
    torch.manual_seed(seed)
    model = make().float().eval()
    model.save_pretrained(folder)
    if today:
        tied = {*model.all_tied_weights_keys}
        state = {name: t.clone() for name, t in model.state_dict().items() if name not in tied}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return model


def average(folder: Path, first: str, second: str) -> Plan:
    models = [{"model": str(folder / name), "parameters": {"weight": 0.5}} for name in (first, second)]
    return make_plan(read_recipe(yaml.safe_dump({"merge_method": "linear", "models": models})))


@pytest.mark.parametrize("known", [True, False], ids=["by its class", "by a general rule"])
@pytest.mark.parametrize("first", ["old", "new"])
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind in EVERY_RUN else pytest.mark.nightly) for kind in MODELS],
)
def test_two_generations(
    kind: str, first: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not known:
        monkeypatch.setattr(renamed, "load", lambda *_: None)
    old = save(MODELS[kind], 0, tmp_path / "old", today=False)
    new = save(MODELS[kind], 1, tmp_path / "new", today=True)
    names = {name: {*load_file(tmp_path / name / "model.safetensors")} for name in ("old", "new")}
    assert names["old"] != names["new"]
    second = "new" if first == "old" else "old"

    plan = average(tmp_path, first, second)

    assert plan.problems == () and not plan.models[0].renamed and plan.models[1].renamed
    assert Plan.from_json(plan.to_json()) == plan
    run_plan(plan, str(tmp_path / "out"))
    assert {*load_file(tmp_path / "out" / "model.safetensors")} == names[first]
    merged, report = type(old).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    theirs = new.state_dict()
    for name, tensor in old.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], (tensor + theirs[name]) / 2, msg=name)


def test_layers_of_a_deeper_model_have_the_names_of_the_shallower_one(tmp_path: Path) -> None:
    def deep() -> hf.PreTrainedModel:
        return hf.MixtralForCausalLM(hf.MixtralConfig(**TEXT | {"num_hidden_layers": 5}, num_local_experts=2))

    save(mixtral, 0, tmp_path / "old", today=False)
    new = save(deep, 1, tmp_path / "new", today=True)
    parts = [("old", 0, 2), ("new", 3, 5)]
    slices = [
        {"sources": [{"model": str(tmp_path / name), "layer_range": [first, end]}]}
        for name, first, end in parts
    ]
    recipe = yaml.safe_dump({"merge_method": "passthrough", "slices": slices})

    plan = make_plan(read_recipe(recipe))
    run_plan(plan, str(tmp_path / "out"))

    merged = hf.MixtralForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.config.num_hidden_layers == 4
    for name, tensor in new.model.layers[4].state_dict().items():
        assert torch.equal(merged.model.layers[3].state_dict()[name], tensor)


def test_a_worker_elsewhere_opens_it_by_what_was_read(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new")):
        save(mixtral, number, tmp_path / name, today=name == "new")
    plan = average(tmp_path, "old", "new")
    models = open_models(plan, None, lambda: None)

    located = locate_models(plan, models, plan.tensors[:5])

    for tensor in plan.tensors[:5]:
        [_, part] = tensor.inputs
        found = []
        for opened in (models, open_models(plan, None, lambda: None, located)):
            data = bytearray(opened[part.model].tensors[part.tensor].nbytes)
            opened[part.model].read_into(part.tensor, 0, memoryview(data))
            found.append(data)
        assert found[0] == found[1]


def test_experts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def more() -> hf.PreTrainedModel:
        return hf.MixtralForCausalLM(hf.MixtralConfig(**TEXT, num_local_experts=3))

    save(mixtral, 0, tmp_path / "old", today=False)
    save(more, 1, tmp_path / "new", today=True)

    assert {problem.code for problem in average(tmp_path, "old", "new").problems} <= {"missing-keys", "shape"}
    assert average(tmp_path, "old", "new").problems
