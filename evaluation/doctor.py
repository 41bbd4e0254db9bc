"""What is wrong with a model's weights at first sight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from checkpoints.architecture import LAYER_COUNT_KEYS, OUTPUT_HEAD, Layout, says_tied
from evaluation.remark import Remark
from evaluation.tensor_stats import TensorStats


def findings(
    tensors: Sequence[TensorStats], config: Mapping[str, Any], lacking: Mapping[str, Sequence[str]]
) -> list[Remark]:
    """A remark for each thing that is wrong; none if nothing is.

    Args:
        tensors: all of the model's.
        config: its config.json.
        lacking: by parent, tensors that are not comparable there.
    """
    layout = Layout([tensor.name for tensor in tensors], config)
    by_name = {tensor.name: tensor for tensor in tensors}
    return [
        *_spoilt(tensors),
        *_vocabulary(by_name, layout),
        *_layers(layout),
        *_zero_rows(tensors),
        *_unchanged(tensors, lacking),
    ]


def diagnosis(found: Sequence[Remark], tensors: Sequence[TensorStats], share: float) -> list[Remark]:
    """What was found, or that nothing was, and how much was read.

    Args:
        found: what is wrong.
        tensors: all of the model's.
        share: of the weights that was read.
    """
    said = list(found)
    if found and share < 1:
        said.append(Remark("weights-read", {"share": share}))
    if not found and share < 1:
        said.append(Remark("weights-sound-so-far", {"count": len(tensors), "share": share}))
    elif not found:
        said.append(Remark("weights-sound", {"count": len(tensors)}))
    unread = sorted({tensor.dtype for tensor in tensors if not tensor.share})
    return [*said, *([Remark("weights-unread", {"dtypes": unread})] if unread else [])]


def _spoilt(tensors: Sequence[TensorStats]) -> Iterator[Remark]:
    spoilt = [tensor for tensor in tensors if tensor.nan or tensor.inf]
    if spoilt:
        first = spoilt[0]
        values = {"count": len(spoilt), "first": first.name, "nan": first.nan, "inf": first.inf}
        yield Remark("weights-spoilt", values)


def _vocabulary(by_name: Mapping[str, TensorStats], layout: Layout) -> Iterator[Remark]:
    """Whether embedding and head are as the config says."""
    embedding = by_name.get(layout.embedding or "")
    if embedding is None:
        return
    module = layout.module_of(embedding.name)
    heads = [
        by_name[name]
        for name in layout.names_by_module[module.name]
        if OUTPUT_HEAD.search(name) and by_name[name].layer is None
    ]
    if heads and says_tied(layout.config) and _differ(heads[0], embedding):
        yield Remark("weights-untied-head", {"head": heads[0].name.removesuffix(".weight")})
    stated = _text_config(layout.config).get("vocab_size", embedding.shape[0])
    if stated != embedding.shape[0]:
        yield Remark("weights-vocabulary", {"stated": stated, "rows": embedding.shape[0]})


def _differ(one: TensorStats, two: TensorStats) -> bool:
    return one.shape != two.shape or bool(one.digest and two.digest and one.digest != two.digest)


def _layers(layout: Layout) -> Iterator[Remark]:
    """Whether the main stack has as many layers as the config says; layers that predict further tokens are extra."""
    stack = layout.main.stack
    config = _text_config(layout.config)
    if stack is None:
        return
    keys = [*_keys_of_part(stack.prefix), *LAYER_COUNT_KEYS]
    stated = next((config[key] for key in keys if type(config.get(key)) is int), None)
    if stated is None:
        return
    found = {
        int(number)
        for name in layout.names
        if name.startswith(stack.prefix) and (number := name[len(stack.prefix) :].partition(".")[0]).isdigit()
    }
    extra = sum(
        value
        for key, value in config.items()
        if type(value) is int and ("nextn" in key or ("mtp" in key and "layers" in key))
    )
    if not set(range(stated)) <= found or len(found) > stated + extra:
        yield Remark("weights-layers", {"stated": stated, "found": len(found)})


def _keys_of_part(prefix: str) -> tuple[str, ...]:
    """Where a config states the layers of an encoder or a decoder, if it has both."""
    part = next((part for part in ("encoder", "decoder") if part in prefix), None)
    return (f"num_{part}_layers", f"{part}_layers") if part else ()


def _zero_rows(tensors: Sequence[TensorStats]) -> Iterator[Remark]:
    count = sum(tensor.dead_rows for tensor in tensors)
    if count:
        worst = max(tensors, key=lambda tensor: tensor.dead_rows)
        yield Remark("weights-zero-rows", {"count": count, "most": worst.dead_rows, "tensor": worst.name})


def _unchanged(tensors: Sequence[TensorStats], lacking: Mapping[str, Sequence[str]]) -> Iterator[Remark]:
    is_whole = all(tensor.share == 1 for tensor in tensors)
    for parent in {parent: None for tensor in tensors for parent in tensor.against}:
        changes = [tensor.against[parent].change for tensor in tensors if parent in tensor.against]
        if not any(changes) and not lacking.get(parent):
            code = "weights-unchanged" if is_whole else "weights-unchanged-so-far"
            yield Remark(code, {"parent": parent})


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that speaks of the language model."""
    parts = (
        value for key, value in config.items() if isinstance(value, dict) and ("text" in key or "llm" in key)
    )
    return next((part for part in parts if "vocab_size" in part or "num_hidden_layers" in part), config)
