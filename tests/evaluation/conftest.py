"""Tiny models with a tokenizer, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evaluation import LanguageModel, load_model

TEXT = (
    "A merge of two language models is a model. The blog's author stopped because the disk was full, "
    "and so the weights are never stored on the way. 두 언어 모델을 합치면 모델이 됩니다. 안녕하세요, 반갑습니다. "
    "What can go wrong later is found here, in seconds, all problems at once, each with the fix.\n"
)
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(*, adds_bos: bool = False, template: str | None = TEMPLATE) -> Any:
    """A byte-level BPE with 400 tokens: a Korean character is up to three of them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT.replace("안녕", "")], trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=template
    )


def make_network(seed: int = 0, **changes: Any) -> Any:
    """A random Llama whose probabilities are far from even, so that mistakes show."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes}))


MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These models are so small that threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write a model, and its tokenizer if it has one, into a folder of its own."""

    def make(network: Any = None, tokenizer: Any = "its own", name: str = "model") -> Path:
        folder = tmp_path / name
        (make_network() if network is None else network).save_pretrained(folder)
        if tokenizer is not None:
            (make_tokenizer() if tokenizer == "its own" else tokenizer).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def make_model(make_folder: MakeFolder) -> Callable[..., LanguageModel]:
    """Load a model that was written into a folder."""

    def make(network: Any = None, tokenizer: Any = "its own", name: str = "model") -> LanguageModel:
        return load_model(make_folder(network, tokenizer, name), device="cpu")

    return make


@pytest.fixture
def model(make_model: Callable[..., LanguageModel]) -> LanguageModel:
    """A tiny Llama that knows a chat template and whose tokenizer adds no BOS."""
    return make_model()


@pytest.fixture
def kmmlu(tmp_path: Path) -> Path:
    """A folder with lm-eval's task `kmmlu_accounting`, its data in the folder `data` there."""
    for split, count in (("test", 12), ("dev", 5)):
        rows = [
            {
                "question": f"{i} 더하기 {i}는?",
                "A": "1",
                "B": str(2 * i),
                "C": "3",
                "D": "4",
                "answer": 1 + i % 4,
            }
            for i in range(count)
        ]
        path = tmp_path / "kmmlu" / "data" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(json.dumps(row) for row in rows))
    import lm_eval.tasks  # here: it takes seconds

    own = Path(lm_eval.tasks.__file__).parent / "kmmlu" / "default" / "kmmlu_accounting.yaml"
    changed = {"dataset_path": str(path.parent), "dataset_name": "default", "fewshot_split": "validation"}
    task = yaml.safe_dump({"include": str(own), "task": "kmmlu_here", **changed})
    (tmp_path / "kmmlu" / "kmmlu_here.yaml").write_text(task)
    return tmp_path / "kmmlu"
