"""What the Hub says about a model: the fields of ``/api/models``."""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from math import prod
from typing import Any

from tests.hub.blobs import Blobs
from tests.hub.card import as_list, parse_card
from tests.hub.repo import Commit, Entry, Repo

IN_A_LIST = ["createdAt", "downloads", "library_name", "likes", "pipeline_tag", "private", "tags"]
IN_FULL = [*IN_A_LIST, "author", "gated", "lastModified", "sha", "siblings"]
IN_DETAIL = [*IN_FULL, "cardData", "config", "disabled", "safetensors", "usedStorage"]
WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")


def describe(blobs: Blobs, repo: Repo, commit: Commit, *, sizes: bool = False) -> dict[str, Any]:
    """Every field of a model at a commit; ``sizes`` adds each file's size and hashes."""
    files = commit.files
    card = read_card(blobs, files.get("README.md"))
    config = read_config(blobs, files.get("config.json"))
    architecture = (config.get("architectures") or [""])[0]
    guess = "peft" if "adapter_config.json" in files else "transformers" if config else None
    library = card.get("library_name", guess)
    task = card.get("pipeline_tag", "text-generation" if "CausalLM" in architecture else None)
    counts = sum(
        (count(blobs, entry) for path, entry in files.items() if WEIGHTS.fullmatch(path)), Counter[str]()
    )
    bases, relation = as_list(card.get("base_model")), card.get("base_model_relation")
    tags = [
        library,
        task,
        *as_list(card.get("tags")),
        *as_list(card.get("language")),
        config.get("model_type"),
    ]
    kinds = {"safetensors": ".safetensors", "gguf": ".gguf", "pytorch": ".bin"}
    tags += [kind for kind, ending in kinds.items() if any(path.endswith(ending) for path in files)]
    tags += [f"license:{name}" for name in as_list(card.get("license"))]
    tags += [f"base_model:{base}" for base in bases]
    tags += [f"base_model:{relation}:{base}" for base in bases if relation]
    kept = ("architectures", "model_type", "quantization_config")  # the Hub repeats no more than these
    return {
        "author": repo.owner,
        "cardData": card or None,
        "config": {key: config[key] for key in kept if key in config} or None,
        "createdAt": repo.created,
        "disabled": False,
        "downloads": repo.downloads,
        "gated": repo.gated,
        "lastModified": commit.date,
        "library_name": library,
        "likes": repo.likes,
        "model-index": card.get("model-index"),
        "pipeline_tag": task,
        "private": repo.private,
        "safetensors": {"parameters": dict(counts), "total": counts.total()} if counts else None,
        "sha": commit.id,
        "siblings": [
            {"rfilename": path} | (sizes_of(files[path]) if sizes else {}) for path in sorted(files)
        ],
        "tags": list(dict.fromkeys(tag for tag in tags if tag)),
        "trendingScore": 0,
        "usedStorage": sum(entry.size for entry in files.values()),
    }


def sizes_of(entry: Entry) -> dict[str, Any]:
    size: dict[str, Any] = {"size": entry.size, "blobId": entry.git_oid}
    return size | {"lfs": entry.lfs_info("sha256")} if entry.lfs else size


def read_card(blobs: Blobs, entry: Entry | None) -> dict[str, Any]:
    """The card's metadata, {} where there is none that can be read."""
    try:
        return parse_card(blobs.read(entry.sha256).decode()) if entry else {}
    except ValueError:
        return {}


def read_config(blobs: Blobs, entry: Entry | None) -> dict[str, Any]:
    """config.json, {} where there is none that can be read."""
    try:
        config = json.loads(blobs.read(entry.sha256)) if entry else {}
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}


def count(blobs: Blobs, entry: Entry) -> Counter[str]:
    """Parameters by dtype, from a safetensors file's header; none if it is not such a file."""
    counts: Counter[str] = Counter()
    with blobs.open(entry.sha256) as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length < entry.size else {}
        except (struct.error, ValueError):
            return counts
    for name, tensor in header.items():
        if name != "__metadata__":
            counts[tensor["dtype"]] += prod(tensor["shape"])
    return counts
