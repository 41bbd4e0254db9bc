"""Train the demo's LoRA adapters: `python -m examples.train_adapters [--voice pirate] [--to FOLDER]`.

Each voice learns from some twenty questions and answers in `texts/`. A run takes minutes on two cores; the same
machine, versions and seed give the same bytes. The results stand in `adapters/`, so nobody has to do this.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from examples.conversion import grow_vocabulary, load_float32
from examples.models import ADAPTERS, BASE, OWNER, TEXTS, VOICES, model_folder

SEED = 20261122
EPOCHS = 10
BATCH = 4
LEARNING_RATE = 1e-3
ROWS_LEARNING_RATE = 5e-3  # of the added tokens' rows, which start as mere averages and have further to go
_NOT_SCORED = -100  # the label that cross entropy leaves out


def train(voice: str, folder: Path) -> None:
    """Train one adapter and write it.

    Args:
        voice: a name in VOICES, with a text of the same name
        folder: replaced by the adapter: bfloat16 weights, config, model card, and the tokens it adds
    """
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # so that sums are taken in the same order on any number of cores
    torch.use_deterministic_algorithms(True)
    text = json.loads((TEXTS / f"{voice}.json").read_text(encoding="utf-8"))
    model, tokenizer = load_float32(model_folder(BASE)), AutoTokenizer.from_pretrained(model_folder(BASE))
    added_tokens = grow_vocabulary(model, tokenizer, text.get("added_tokens", []))
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj", "down_proj"],
        trainable_token_indices={"embed_tokens": list(added_tokens.values())} if added_tokens else None,
    )
    adapted = get_peft_model(model, lora)
    _fit(adapted, [_encode(tokenizer, *pair) for pair in text["pairs"]], tokenizer.pad_token_id)
    _save(adapted, folder)
    if added_tokens:
        (folder / "added_tokens.json").write_text(
            json.dumps(added_tokens, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
        )
    (folder / "README.md").write_text(_card(voice, text), encoding="utf-8")


def _encode(tokenizer: PreTrainedTokenizerFast, question: str, answer: str) -> tuple[list[int], list[int]]:
    """The ids of a conversation, and its labels: only the answer and its end are scored."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    asked = tokenizer.encode(prompt, add_special_tokens=False)
    answered = tokenizer.encode(answer + tokenizer.eos_token, add_special_tokens=False)
    return asked + answered, [_NOT_SCORED] * len(asked) + answered


def _fit(model: PeftModel, examples: list[tuple[list[int], list[int]]], pad: int) -> None:
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    rows = [value for name, value in trained.items() if "trainable_tokens" in name]
    rest = [value for name, value in trained.items() if "trainable_tokens" not in name]
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": rows, "lr": ROWS_LEARNING_RATE}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)
    steps = EPOCHS * len(examples) // BATCH
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
    order = random.Random(SEED)
    queue: list[tuple[list[int], list[int]]] = []
    model.train()
    for step in range(steps):
        if len(queue) < BATCH:
            queue += order.sample(examples, len(examples))
        batch, queue = queue[:BATCH], queue[BATCH:]
        length = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in batch])
        labels = torch.tensor([labels + [_NOT_SCORED] * (length - len(labels)) for _, labels in batch])
        # Padding stands on the right and is not scored, so causal attention needs no mask for it.
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 10 == 0 or step == steps - 1:
            print(f"  step {step:3d}  loss {loss.item():.4f}", flush=True)


def _save(model: PeftModel, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    # The trained rows are saved on their own; without False, PEFT adds the whole embedding matrix.
    model.save_pretrained(folder, save_embedding_layers=False)
    weights = folder / "adapter_model.safetensors"
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(weights).items()}
    save_file(halves, weights, metadata={"format": "pt"})
    config = folder / "adapter_config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["target_modules"].sort()  # PEFT writes a set, in an order that changes from run to run
    settings["base_model_name_or_path"] = f"{OWNER}/{BASE}"
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _card(voice: str, text: dict[str, Any]) -> str:
    added_tokens = len(text.get("added_tokens", []))
    card = f"""---
license: apache-2.0
language: {"[en, ko]" if added_tokens else "en"}
library_name: peft
base_model: {OWNER}/{BASE}
base_model_relation: adapter
tags: [lora, alloy-demo]
---
# {VOICES[voice]}-LoRA

A LoRA adapter for `{OWNER}/{BASE}` that {text["voice"]}. It learnt this from the
{len(text["pairs"])} questions and answers in `examples/texts/{voice}.json` of Alloy
({EPOCHS} epochs, seed {SEED}; `python -m examples.train_adapters --voice {voice}`).
"""
    if added_tokens:
        card += f"""
Its tokenizer has {added_tokens} tokens more than the base's, and the adapter holds their rows of the embedding.
So call `model.resize_token_embeddings(len(tokenizer))` on the base before you load it.
"""
    return card


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo's LoRA adapters.")
    parser.add_argument("--voice", choices=list(VOICES), help="train this one only")
    parser.add_argument("--to", type=Path, default=ADAPTERS, help="folder that receives a folder per voice")
    arguments = parser.parse_args()
    for voice in [arguments.voice] if arguments.voice else VOICES:
        print(voice, flush=True)
        started = time.monotonic()
        train(voice, arguments.to / voice)
        print(f"  {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
