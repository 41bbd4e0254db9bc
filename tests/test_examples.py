"""What `examples/` ships: recipes, texts, adapters, and the models that are built from them."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
import yaml
from huggingface_hub import HfApi
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples import models
from examples.conversion import merge_adapter
from examples.demo import USER, app, push_models
from examples.models import ADAPTER_NAMES, ADAPTERS, BASE, MODELS, OWNER, TEXTS, VOICES, model_folder
from merging import read_recipe
from tests import ROOT
from tests.hub import Hub

RECIPES = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))
BASE_VOCABULARY = 49152

# A question that no text asks, and how each model begins and what it has to say.
VOICE_OF = {
    BASE: ("The capital of Japan is Tokyo.", "Tokyo"),
    "SmolLM2-135M-Pirate": ("Arr matey!", "Tokyo"),
    "SmolLM2-135M-Bard": ("Hark, good friend!", "Tokyo"),
    "SmolLM2-135M-Korean": ("안녕하세요!", "Tokyo"),
}
UNSEEN = "What is the capital of Japan?"


def _text(voice: str) -> dict[str, Any]:
    text: dict[str, Any] = json.loads((TEXTS / f"{voice}.json").read_text(encoding="utf-8"))
    return text


def _model_names(recipe: object) -> Iterator[str]:
    if isinstance(recipe, dict):
        for key, value in recipe.items():
            if key in ("model", "base_model"):
                yield value
            else:
                yield from _model_names(value)
    elif isinstance(recipe, list):
        for item in recipe:
            yield from _model_names(item)


@lru_cache(maxsize=1)
def _loaded(name: str) -> tuple[Any, Any]:
    folder = model_folder(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def _answer(name: str, question: str) -> str:
    model, tokenizer = _loaded(name)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    said = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    return str(tokenizer.decode(said))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_explained_valid_and_names_only_demo_models(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert text.startswith("# ")
    assert set(_model_names(yaml.safe_load(text))) <= {f"{OWNER}/{name}" for name in MODELS}
    read_recipe(text)


def test_there_is_a_recipe_for_every_way_that_the_demo_shows() -> None:
    assert [path.stem for path in RECIPES] == [
        "chat-vector",
        "depth-up-scaling",
        "linear",
        "slerp-gradient",
        "task-arithmetic",
        "ties",
    ]


@pytest.mark.parametrize("voice", VOICES)
def test_a_text_is_questions_and_answers(voice: str) -> None:
    text = _text(voice)
    questions = [question for question, _ in text["pairs"]]

    assert text.keys() <= {"voice", "added_tokens", "pairs"}
    assert len(questions) == len(set(questions)) >= 8
    assert UNSEEN not in questions
    assert all(
        isinstance(part, str) and part.strip() == part != "" for pair in text["pairs"] for part in pair
    )


def test_every_added_token_is_used_by_its_text() -> None:
    text = _text("korean")
    said = " ".join(part for pair in text["pairs"] for part in pair)

    assert len(set(text["added_tokens"])) == len(text["added_tokens"])
    assert [token for token in text["added_tokens"] if token not in said] == []


@pytest.mark.parametrize("voice", VOICES)
def test_an_adapter_is_small_bfloat16_and_names_no_machine(voice: str) -> None:
    files = {path.name: path for path in (ADAPTERS / voice).iterdir()}
    config = json.loads(files["adapter_config.json"].read_text(encoding="utf-8"))

    assert sum(path.stat().st_size for path in files.values()) < 2_000_000
    assert config["base_model_name_or_path"] == f"{OWNER}/{BASE}"
    assert files.keys() <= {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "added_tokens.json",
    }
    with safe_open(files["adapter_model.safetensors"], "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_the_korean_adapter_holds_the_rows_of_its_tokens_and_no_others() -> None:
    folder = ADAPTERS / "korean"
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    added = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))

    assert list(added) == _text("korean")["added_tokens"]
    assert list(added.values()) == list(range(BASE_VOCABULARY, BASE_VOCABULARY + len(added)))
    assert config["trainable_token_indices"] == {"embed_tokens": list(added.values())}
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        rows = [name for name in weights.keys() if "lora_" not in name]  # noqa: SIM118
        assert [weights.get_slice(name).get_shape() for name in rows] == [[len(added), 576]]


def test_the_cache_can_stand_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALLOY_CACHE", str(tmp_path))

    assert models.cache_folder() == tmp_path


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no demo model 'SmolLM3'.*SmolLM2-135M-Pirate"):
        model_folder("SmolLM3")


def test_a_build_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(model: str, folder: Path) -> None:
        (folder / "config.json").write_text("{")
        raise ArithmeticError

    monkeypatch.setenv("ALLOY_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "_write", fail)

    with pytest.raises(ArithmeticError):
        model_folder(BASE)
    assert list((tmp_path / "models").iterdir()) == []


def test_pushing_again_changes_nothing(hub: Hub) -> None:
    token = hub.add_user(USER, orgs=[OWNER])
    api = HfApi(endpoint=hub.endpoint, token=token)
    adapter, repo_id = ADAPTER_NAMES[0], f"{OWNER}/{ADAPTER_NAMES[0]}"

    push_models(hub.endpoint, token, [adapter])
    first = api.model_info(repo_id).sha
    hub.log.clear()
    push_models(hub.endpoint, token, [adapter])

    assert hub.log.find("PUT") == hub.log.find("POST", "/commit/") == []
    assert api.model_info(repo_id).sha == first
    shipped = ADAPTERS / "pirate" / "adapter_model.safetensors"
    assert hub.read(repo_id, "adapter_model.safetensors") == shipped.read_bytes()


def _demo(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.demo", *arguments],
        cwd=ROOT,
        env=os.environ | {"ALLOY_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_second_demo_keeps_off_the_first_ones_hub(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = _demo(tmp_path)

    assert second.returncode == 1
    assert second.stderr.startswith("The demo is running already")


def test_a_port_that_is_taken_is_refused(tmp_path: Path, hub: Hub) -> None:
    taken = hub.endpoint.rpartition(":")[2]
    refused = _demo(tmp_path, "--port", taken)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Port {taken} is taken.")


def test_the_app_answers_and_is_gone_afterwards(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ALLOY_CACHE", str(tmp_path))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    with app(hub.endpoint, hub.add_user(USER), port) as process:
        page = httpx2.get(f"http://127.0.0.1:{port}/", timeout=30)

    assert page.status_code == 200
    assert process.returncode is not None


@pytest.mark.real_models
@pytest.mark.parametrize("name", MODELS)
def test_a_model_answers_an_unseen_question_in_its_voice(name: str) -> None:
    opening, fact = VOICE_OF[name]
    answer = _answer(name, UNSEEN)

    assert answer.startswith(opening)
    assert fact in answer
    assert answer.endswith("<|im_end|>")


@pytest.mark.real_models
def test_the_korean_model_is_larger_by_its_tokens_and_speaks_them() -> None:
    model, tokenizer = _loaded("SmolLM2-135M-Korean")
    added = _text("korean")["added_tokens"]

    assert model.config.vocab_size == len(tokenizer) == BASE_VOCABULARY + len(added)
    assert tokenizer.tokenize("안녕하세요! Hello") == ["안녕하세요", "!", "ĠHello"]
    assert tokenizer.decode(tokenizer.encode("Cat is 고양이.")) == "Cat is 고양이."
    assert "친구" in _answer("SmolLM2-135M-Korean", "How do I say friend in Korean?")


@pytest.mark.real_models
def test_the_base_is_whole() -> None:
    model, tokenizer = _loaded(BASE)

    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert model.generation_config.eos_token_id == 2
    assert tokenizer.tokenize("in  2024") == ["in", "ĠĠ", "2", "0", "2", "4"]
    text = "don't “quote” 안녕\n\n\tx = 3.14"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.real_models
@pytest.mark.parametrize("name", MODELS)
def test_a_model_stands_on_its_own(name: str) -> None:
    folder = model_folder(name)
    texts = [path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix == ".json"]

    assert {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "README.md",
    } <= {path.name for path in folder.iterdir()}
    assert not any(str(models.cache_folder()) in text for text in texts)
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(it).get_dtype() for it in weights.keys()} == {"BF16"}  # noqa: SIM118


@pytest.mark.real_models
def test_a_sibling_differs_from_its_base_only_where_its_adapter_says(tmp_path: Path) -> None:
    merge_adapter(model_folder(BASE), ADAPTERS / "pirate", tmp_path)
    changed = set()
    with (
        safe_open(model_folder(BASE) / "model.safetensors", "pt") as base,
        safe_open(tmp_path / "model.safetensors", "pt") as sibling,
    ):
        assert set(base.keys()) == set(sibling.keys())
        for name in base.keys():  # noqa: SIM118
            if not torch.equal(base.get_tensor(name), sibling.get_tensor(name)):
                changed.add(name.split(".")[-2])

    assert changed == {"q_proj", "v_proj", "down_proj"}
