"""Whether a large model answers on this machine: a Llama with random weights, written straight into a GGUF file.

python -m bench.large_chat [--size 7b|3b] [--type Q4_K_M] [--new-tokens 16] [--folder FOLDER]

The file is laid out as that of any model, with the demo's tokenizer; the rows of a tensor repeat a few that were
quantized. Printed are the peak of the memory that llama.cpp's process takes, the file's pages included, and speeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from checkpoints.formats.header import TensorHeader
from evaluation import reply
from evaluation.llama_model import load_gguf
from examples.models import BASE, model_folder
from merging.gguf.file import GgufFile, Placed
from merging.gguf.layout import READ, lay_out
from merging.gguf.quantization import quantize
from merging.gguf.types import FILE_TYPES

# Width, rows of the MLP, layers, heads; and heads of keys and values.
SIZES = {"7b": (4096, 11008, 32, 32, 32), "3b": (3200, 8640, 26, 32, 32)}
QUESTION = [{"role": "user", "content": "Tell me about a voyage across the sea."}]
# Rows that are quantized of each tensor.
ROWS = 8


def main() -> None:
    options = argparse.ArgumentParser("python -m bench.large_chat", description=__doc__)
    options.add_argument("--size", choices=SIZES, default="7b")
    options.add_argument("--type", choices=FILE_TYPES, default="Q4_K_M")
    options.add_argument("--new-tokens", type=int, default=16)
    options.add_argument("--folder", help="where the file is written, and removed again")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="alloy-bench-", dir=given.folder) as place:
        file = Path(place) / "model.gguf"
        weights = write(file, given.size, given.type)
        began = time.perf_counter()
        model = load_gguf(file, name=f"synthetic {given.size}")
        loaded = time.perf_counter() - began
        answer = reply(model, QUESTION, max_new_tokens=given.new_tokens, temperature=0, ends=False)
        list(answer)
        running = model.server._running
        assert running
        peak = peak_memory(running._process.pid)
        print(
            f"{weights / 1e9:.2f} B weights in {given.type}: a file of {file.stat().st_size / 1e9:.2f} GB, loaded in "
            f"{loaded:.1f} s; {answer.prompt_tokens} tokens read in {answer.seconds_to_first_token:.1f} s, "
            f"{answer.new_tokens} written at {answer.tokens_per_second:.2f} a second; peak memory {peak / 1e9:.2f} GB"
        )
        model.server.close()


def write(file: Path, size: str, kind: str) -> int:
    """Write a model; returns how many weights it has."""
    folder = model_folder(BASE)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name in READ}
    config = json.loads(files["config.json"])
    width, inner, layers, heads, kv_heads = SIZES[size]
    config |= {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": width // heads, "tie_word_embeddings": False,
    }  # fmt: skip
    files["config.json"] = json.dumps(config).encode()
    headers = list(tensors(config["vocab_size"], width, inner, layers))
    made = GgufFile(file.name, FILE_TYPES[kind], lay_out("synthetic", files, headers))
    numbers = np.random.default_rng(0)
    with file.open("wb") as written:
        written.write(made.header)
        for placed in made.places:
            written.write(rows(placed, numbers) + bytes(placed.padding))
    return sum(header.nbytes // 2 for header in headers)


def rows(placed: Placed, numbers: np.random.Generator) -> bytes:
    """The bytes of a tensor: norms are 1, and rows of matrices repeat."""
    width, count = placed.tensor.width, placed.tensor.rows
    if len(placed.tensor.shape) == 1:
        return bytes(quantize(np.ones((1, width), np.float32), placed.type))
    some = (numbers.standard_normal((ROWS, width)) / width**0.5).astype(np.float32)
    return bytes(quantize(some, placed.type)) * (count // ROWS)


def tensors(vocabulary: int, width: int, inner: int, layers: int) -> Iterator[TensorHeader]:
    """The headers of a Llama in bfloat16."""

    def header(name: str, *shape: int) -> TensorHeader:
        return TensorHeader(f"{name}.weight", "BF16", shape, "", 0, 2 * int(np.prod(shape)))

    yield header("model.embed_tokens", vocabulary, width)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield header(f"{prefix}.{norm}", width)
        for matrix in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield header(f"{prefix}.self_attn.{matrix}", width, width)
        for matrix in ("gate_proj", "up_proj"):
            yield header(f"{prefix}.mlp.{matrix}", inner, width)
        yield header(f"{prefix}.mlp.down_proj", width, inner)
    yield header("model.norm", width)
    yield header("lm_head", vocabulary, width)


def peak_memory(process: int) -> int:
    """The most bytes that a process had in memory."""
    status = Path(f"/proc/{process}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
