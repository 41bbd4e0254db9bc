"""The model card of GGUF files: their types and sizes, and how to run them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from merging.gguf.file import GgufFile
from merging.result_card import base_models

# What the card of the model itself says of loading it with transformers, and its recipe.
_USE = re.compile(r"\n## Use\n.*", re.DOTALL)
_BASES = re.compile(r"base_model:\n(?:- .*\n)*base_model_relation: .*\n")


def gguf_card(card: str, location: str, files: Sequence[GgufFile], whole: str = "") -> str:
    """The README.md of a repository of GGUF files.

    Args:
        card: of the model that the files are made of
        location: `owner/name` of the repository, or the name of a folder
        files: in it
        whole: the repository of the model itself, which the Hub then shows these files with; empty if it has none
    """
    front, _, text = card.removeprefix("---\n").partition("\n---\n")
    if whole:
        front = "\n".join([*base_models([whole], "quantized"), _BASES.sub("", f"{front}\n").strip()])
    lines = [line for line in front.splitlines() if line != "library_name: transformers"]
    lines = ["library_name: gguf", *lines]
    if "tags:" in lines:
        lines.insert(lines.index("tags:") + 1, "- gguf")
    rows = [f"| `{file.filename}` | {file.kind.name} | {file.size / 1e9:.2f} GB |" for file in files]
    best = next((file for file in files if file.kind.name == "Q4_K_M"), files[0])
    run = [
        "```sh",
        f"llama-cli -hf {location}:{best.kind.name}",
        f"ollama run hf.co/{location}:{best.kind.name}",
        "```",
    ]
    local = ["```sh", f"llama-cli -m {best.filename}", "```"]
    made = [
        "## GGUF files",
        "",
        "| file | type | size |",
        "|---|---|---|",
        *rows,
        "",
        "Names, keys and vocabulary are by llama.cpp's converter, and the types by the rules of its quantizer, without",
        "an importance matrix. The chat template is in every file.",
        "",
        "## Use",
        "",
        *(run if "/" in location else local),
        "",
    ]
    body = _USE.sub("\n", text).rstrip()
    return "\n".join(["---", *lines, "---", body, "", *made])
