"""An adapter names modules, a file names tensors: the same numbers as PEFT's merge wherever the two differ."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from checkpoints import Checkpoint, open_adapter, open_checkpoint
from checkpoints.adapters import fitting
from checkpoints.problems import CheckpointError

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
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
WHISPER = {
    "vocab_size": 96,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_mel_bins": 8,
    "max_source_positions": 8,
    "max_target_positions": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
QUERIES = r".*language_model.*\.(q_proj|v_proj)"


def llama() -> hf.PreTrainedModel:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT))


def mixtral() -> hf.PreTrainedModel:
    return hf.MixtralForCausalLM(hf.MixtralConfig(**TEXT, num_local_experts=2))


def t5() -> hf.PreTrainedModel:
    config = hf.T5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_heads=4, num_layers=1)
    return hf.T5ForConditionalGeneration(config)


def whisper() -> hf.PreTrainedModel:
    return hf.WhisperForConditionalGeneration(hf.WhisperConfig(**WHISPER))


def bert() -> hf.PreTrainedModel:
    return hf.BertForMaskedLM(
        hf.BertConfig(
            vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4
        )
    )


def gemma3() -> hf.PreTrainedModel:
    text = hf.Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=8)
    return hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(text_config=text, vision_config=hf.SiglipVisionConfig(**SIGHT), mm_tokens_per_image=4)
    )


def llava() -> hf.PreTrainedModel:
    text, sight = hf.LlamaConfig(**TEXT), hf.CLIPVisionConfig(**SIGHT)
    return hf.LlavaForConditionalGeneration(hf.LlavaConfig(text_config=text, vision_config=sight))


def qwen2_vl() -> hf.PreTrainedModel:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**TEXT, "rope_parameters": rope, "bos_token_id": 0, "eos_token_id": 1}
    sight = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 8}
    return hf.Qwen2VLForConditionalGeneration(hf.Qwen2VLConfig(text_config=text, vision_config=sight))


def gpt2() -> hf.PreTrainedModel:
    sizes = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, tie_word_embeddings=False))


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(r=2, **options)


CASES: dict[str, tuple[Callable[[], hf.PreTrainedModel], type, Any]] = {
    "a renamed router": (mixtral, hf.MixtralForCausalLM, lora(target_modules="all-linear")),
    "T5's tied head": (
        t5,
        hf.T5ForConditionalGeneration,
        lora(target_modules=["q"], modules_to_save=["lm_head"]),
    ),
    "Whisper's tied head": (
        whisper,
        hf.WhisperForConditionalGeneration,
        lora(target_modules=["q_proj"], modules_to_save=["proj_out"]),
    ),
    "BERT's tied head": (
        bert,
        hf.BertForMaskedLM,
        lora(target_modules=["query"], modules_to_save=["cls.predictions.decoder"]),
    ),
    "Gemma 3": (gemma3, hf.Gemma3ForConditionalGeneration, lora(target_modules=QUERIES)),
    "LLaVA": (llava, hf.LlavaForConditionalGeneration, lora(target_modules=QUERIES)),
    "Qwen2-VL": (qwen2_vl, hf.Qwen2VLForConditionalGeneration, lora(target_modules=["q_proj", "qkv"])),
    "a reward model": (
        llama,
        hf.LlamaForSequenceClassification,
        lora(target_modules=["q_proj"], task_type="SEQ_CLS"),
    ),
    "a square Conv1D and a head": (gpt2, hf.GPT2LMHeadModel, lora(target_modules=["attn.c_proj", "lm_head"])),
    "the same with DoRA": (
        gpt2,
        hf.GPT2LMHeadModel,
        lora(target_modules=["attn.c_proj", "lm_head"], use_dora=True),
    ),
    "the same with IA3": (
        gpt2,
        hf.GPT2LMHeadModel,
        IA3Config(target_modules=["attn.c_proj", "lm_head"], feedforward_modules=[]),
    ),
    "IA3 of inputs": (
        gpt2,
        hf.GPT2LMHeadModel,
        IA3Config(
            target_modules=["attn.c_proj", "mlp.c_fc"], feedforward_modules=["attn.c_proj", "mlp.c_fc"]
        ),
    ),
}


@pytest.fixture(autouse=True)
def quiet() -> None:
    warnings.simplefilter("ignore")
    hf.logging.set_verbosity_error()


def trained(model: hf.PreTrainedModel, config: Any, folder: Path) -> PeftModel:
    """An adapter with random numbers, as PEFT saves it."""
    adapted = get_peft_model(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return adapted


def write(checkpoint: Checkpoint, folder: Path) -> Path:
    """The tensors and the config of a checkpoint as files."""
    found = {}
    for name, header in checkpoint.tensors.items():
        data = bytearray(header.nbytes)
        checkpoint.read_into(name, 0, memoryview(data))
        found[name] = torch.frombuffer(data, dtype=torch.float32).view(header.shape)
    folder.mkdir()
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(checkpoint.config))
    return folder


def assert_same(found: Path, model_class: type, wanted: torch.nn.Module) -> None:
    """Whether a folder loads, with nothing made up, as this model."""
    model, report = model_class.from_pretrained(found, output_loading_info=True)  # type: ignore[attr-defined]
    assert not report["missing_keys"] and {*report["unexpected_keys"]} <= {"lm_head.weight"}
    expected = dict(wanted.state_dict())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_of_modules_under_other_names(case: str, tmp_path: Path) -> None:
    make, model_class, config = CASES[case]
    torch.manual_seed(0)
    make().float().save_pretrained(tmp_path / "base")
    base = model_class.from_pretrained(tmp_path / "base")  # type: ignore[attr-defined]
    trained(base, config, tmp_path / "adapter")
    fresh = model_class.from_pretrained(tmp_path / "base")  # type: ignore[attr-defined]
    wanted = PeftModel.from_pretrained(fresh, tmp_path / "adapter").merge_and_unload()

    with open_adapter_of(tmp_path / "base", tmp_path / "adapter") as adapted:
        assert_same(write(adapted, tmp_path / "out"), model_class, wanted)


class open_adapter_of:  # noqa: N801 (used as a function)
    """A base under an adapter, closed at the end."""

    def __init__(self, base: Path, adapter: Path):
        self.opened = open_adapter(open_checkpoint(str(base)), str(adapter))

    def __enter__(self) -> Checkpoint:
        return self.opened

    def __exit__(self, *_: object) -> None:
        self.opened.close()


def renamed(folder: Path, file: str, names: Callable[[str], str]) -> None:
    path = folder / file
    save_file({names(name): t for name, t in load_file(path).items()}, path, metadata={"format": "pt"})


def as_today(name: str) -> str:
    return (
        name.replace("language_model.model.", "model.language_model.")
        .replace("language_model.lm_head", "lm_head")
        .replace("vision_tower.", "model.vision_tower.", 1)
        .replace("multi_modal_projector", "model.multi_modal_projector")
    )


def as_before(name: str) -> str:
    return name.replace("model.language_model.", "language_model.model.")


@pytest.mark.parametrize("known", [True, False], ids=["by its class", "by a general rule"])
@pytest.mark.parametrize("base_today", [True, False])
@pytest.mark.parametrize("adapter_today", [True, False])
def test_names_of_two_generations(
    adapter_today: bool, base_today: bool, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stacks have layers of the same names and shapes, so that only the words before them tell them apart."""
    if not known:
        monkeypatch.setattr(fitting, "load", lambda *_: None)
    torch.manual_seed(0)
    llava().save_pretrained(tmp_path / "base")
    trained(
        hf.LlavaForConditionalGeneration.from_pretrained(tmp_path / "base"),
        CASES["LLaVA"][2],
        tmp_path / "adapter",
    )
    fresh = hf.LlavaForConditionalGeneration.from_pretrained(tmp_path / "base")
    wanted = PeftModel.from_pretrained(fresh, tmp_path / "adapter").merge_and_unload()
    if base_today:
        renamed(tmp_path / "base", "model.safetensors", as_today)
    if not adapter_today:
        renamed(tmp_path / "adapter", "adapter_model.safetensors", as_before)

    with open_adapter_of(tmp_path / "base", tmp_path / "adapter") as adapted:
        assert ("model.language_model.norm.weight" in adapted.tensors) == base_today
        assert_same(write(adapted, tmp_path / "out"), hf.LlavaForConditionalGeneration, wanted)


def test_a_reward_model_is_named_as_one(tmp_path: Path) -> None:
    make, model_class, config = CASES["a reward model"]
    make().save_pretrained(tmp_path / "base")
    trained(model_class.from_pretrained(tmp_path / "base", num_labels=3), config, tmp_path / "adapter")  # type: ignore[attr-defined]

    with open_adapter_of(tmp_path / "base", tmp_path / "adapter") as adapted:
        [warning] = adapted.warnings
        assert warning.code == "adapter-brings-head" and warning.values["kind"] == model_class.__name__
        assert adapted.config["architectures"] == [model_class.__name__]
        assert adapted.tensors["score.weight"].shape == (3, 32)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "config.json").write_text(json.dumps(adapted.config))
        assert hf.AutoConfig.from_pretrained(tmp_path / "out").num_labels == 3


@pytest.mark.parametrize("module", ["embed_out", "model.layers.9.mlp.up_proj", "other_norm"])
def test_what_is_no_head_for_another_task_has_to_be_in_the_base(module: str, tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    trained(
        hf.LlamaForCausalLM.from_pretrained(tmp_path / "base"),
        lora(target_modules=["q_proj"]),
        tmp_path / "a",
    )
    path = tmp_path / "a" / "adapter_model.safetensors"
    save_file({**load_file(path), f"base_model.model.{module}.weight": torch.ones(96, 32)}, path)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    config["modules_to_save"] = [module.rpartition(".")[2]]
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))

    with pytest.raises(CheckpointError, match="does not have"):
        open_adapter(open_checkpoint(str(tmp_path / "base")), str(tmp_path / "a"))
