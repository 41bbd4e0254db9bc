"""What is wrong with a model's weights at first sight, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from checkpoints.architecture import LAYER_COUNT_KEYS, OUTPUT_HEAD, Layout, is_tied

if TYPE_CHECKING:
    from evaluation.weights import TensorStats, WeightsReport


def findings(report: WeightsReport) -> list[str]:
    """A sentence for each thing that is wrong; none if nothing is."""
    layout = Layout([tensor.name for tensor in report.tensors], report.config)
    by_name = {tensor.name: tensor for tensor in report.tensors}
    return [
        *_spoilt(report.tensors),
        *_vocabulary(by_name, layout),
        *_layers(layout),
        *_dead_rows(report.tensors),
        *_unchanged(report),
    ]


def _spoilt(tensors: tuple[TensorStats, ...]) -> Iterator[str]:
    spoilt = [tensor for tensor in tensors if tensor.nan or tensor.inf]
    if spoilt:
        yield (
            f"{len(spoilt)} tensor(s) hold NaN or Inf, such as {spoilt[0].name} ({spoilt[0].nan} NaN,"
            f" {spoilt[0].inf} Inf): the model cannot answer."
        )


def _vocabulary(by_name: Mapping[str, TensorStats], layout: Layout) -> Iterator[str]:
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
    if heads and is_tied(layout.config) and _differ(heads[0], embedding):
        yield (
            f"{heads[0].name.removesuffix('.weight')} is untied in the weights but tied in config.json: loaders drop"
            ' the head that is stored. Set "tie_word_embeddings" to false.'
        )
    stated = _text_config(layout.config).get("vocab_size", embedding.shape[0])
    if stated != embedding.shape[0]:
        yield f"config.json says vocab_size {stated}, and the embedding has {embedding.shape[0]} rows."


def _differ(one: TensorStats, two: TensorStats) -> bool:
    return one.shape != two.shape or bool(one.digest and two.digest and one.digest != two.digest)


def _layers(layout: Layout) -> Iterator[str]:
    """Whether the main stack has as many layers as the config says; layers that predict further tokens are extra."""
    stack = layout.main.stack
    config = _text_config(layout.config)
    stated = next((config[key] for key in LAYER_COUNT_KEYS if type(config.get(key)) is int), None)
    if stack is None or stated is None:
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
        yield f"config.json says {stated} layers, and the weights have {len(found)}."


def _dead_rows(tensors: tuple[TensorStats, ...]) -> Iterator[str]:
    dead = sum(tensor.dead_rows for tensor in tensors)
    if dead:
        worst = max(tensors, key=lambda tensor: tensor.dead_rows)
        yield f"{dead} row(s) are all zero, {worst.dead_rows} of them in {worst.name}."


def _unchanged(report: WeightsReport) -> Iterator[str]:
    for parent in {parent: None for tensor in report.tensors for parent in tensor.against}:
        changes = [tensor.against[parent].change for tensor in report.tensors if parent in tensor.against]
        if not any(changes) and not report.lacking.get(parent):
            part = "" if report.share_read == 1 else ", as far as it was read"
            yield f"Every tensor equals that of {parent}{part}: nothing was merged."


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that speaks of the language model."""
    parts = (
        value for key, value in config.items() if isinstance(value, dict) and ("text" in key or "llm" in key)
    )
    return next((part for part in parts if "vocab_size" in part or "num_hidden_layers" in part), config)
