"""Perplexity by us, by lm-eval and by the sliding window of the transformers documentation: one model, one run.

python -m bench.perplexity [--tokens 3000] [--repeats 3] [MODEL]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers.utils import logging

from evaluation import LanguageModel, load_model, perplexity
from evaluation.text import BUNDLED, bundled_text
from examples.models import BASE, model_folder

Run = Callable[[], float]  # returns nats a token


def ours(model: LanguageModel, texts: Sequence[str], context: int, stride: int, bos: bool) -> Run:
    def run() -> float:
        score = perplexity(model, texts, context=context, stride=stride, bos=bos)
        return score.nll_nats / score.tokens

    return run


def rolling(model: LanguageModel, texts: Sequence[str], context: int) -> Run:
    """lm-eval's rolling log-likelihood, on the same weights in memory."""
    theirs = HFLM(pretrained=model.network, tokenizer=model.tokenizer, max_length=context, batch_size=1)
    asked = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    tokens = sum(len(model.tokenizer(text)["input_ids"]) for text in texts)
    return lambda: -math.fsum(theirs.loglikelihood_rolling(asked, disable_tqdm=True)) / tokens


def as_documented(model: LanguageModel, text: str, context: int, stride: int) -> Run:
    """The method of https://huggingface.co/docs/transformers/perplexity: each window through the whole model,
    the tokens that only give context masked by label -100, the loss by the model."""

    @torch.no_grad()
    def run() -> float:
        tokens = model.tokenizer(text, return_tensors="pt")["input_ids"]
        nats, scored, before = 0.0, 0, 0
        for start in range(0, tokens.shape[1], stride):
            end = min(start + context, tokens.shape[1])
            window = tokens[:, start:end]
            labels = window.clone()
            labels[:, : before - start] = -100
            valid = int((labels[:, 1:] != -100).sum())
            nats += float(model.network(window, labels=labels).loss) * valid
            scored, before = scored + valid, end
            if end == tokens.shape[1]:
                break
        return nats / scored

    return run


def rows(model: LanguageModel, text: str) -> list[tuple[str, int, list[tuple[str, Run]]]]:
    """What is measured: a title, the tokens, and who does it."""
    documents = [document for name in BUNDLED for document in bundled_text(name)]

    def count(texts: Sequence[str]) -> int:
        return sum(len(model.tokenizer(one)["input_ids"]) for one in texts)

    return [
        (
            "sliding window, 1024/512",
            count([text]),
            [
                ("Alloy", ours(model, [text], 1024, 512, False)),
                ("transformers' recipe", as_documented(model, text, 1024, 512)),
            ],
        ),
        (
            "rolling, 2048",
            count([text]),
            [
                ("Alloy", ours(model, [text], 2048, 2048, True)),
                ("lm-eval", rolling(model, [text], 2048)),
            ],
        ),
        (
            f"rolling, {len(documents)} short documents",
            count(documents),
            [
                ("Alloy", ours(model, documents, 2048, 2048, True)),
                ("lm-eval", rolling(model, documents, 2048)),
            ],
        ),
    ]


def measured(runs: Sequence[Run], repeats: int) -> list[tuple[float, float, float]]:
    """For each run the medians of wall and CPU seconds, and what it returned. They take turns, after a warm-up."""
    spent: list[list[tuple[float, float]]] = [[] for _ in runs]
    found = [run() for run in runs]
    for _ in range(repeats):
        for run, seconds in zip(runs, spent, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
    medians = [[statistics.median(one) for one in zip(*seconds, strict=True)] for seconds in spent]
    return [(wall, cpu, nats) for (wall, cpu), nats in zip(medians, found, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.perplexity", description=__doc__)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("model", nargs="?", metavar="MODEL")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = load_model(options.model or model_folder(BASE), device="cpu")
    tokenizer: Any = model.tokenizer
    long = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    text = tokenizer.decode(tokenizer(long)["input_ids"][: options.tokens])
    print(f"{model.name}, {model.dtype}, {torch.get_num_threads()} threads, medians of {options.repeats}")
    print("| | | tokens/s | tokens per CPU second | nats a token |\n|---|---|--:|--:|--:|")
    for title, tokens, runs in rows(model, text):
        times = measured([run for _, run in runs], options.repeats)
        for (who, _), (wall, cpu, nats) in zip(runs, times, strict=True):
            print(f"| {title} | {who} | {tokens / wall:.0f} | {tokens / cpu:.0f} | {nats:.5f} |", flush=True)


if __name__ == "__main__":
    main()
