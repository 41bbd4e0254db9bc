"""lm-eval's rolling log-likelihood, by lm-eval itself, on the same model and text: when ours is equal, and when not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from evaluation import LanguageModel, perplexity
from tests.evaluation.conftest import TEXT, make_tokenizer

MakeModel = Callable[..., LanguageModel]
TEXTS = [TEXT * 2, TEXT[:100], "한국어 문서"]


def by_lm_eval(model: LanguageModel, texts: list[str], context: int, **options: Any) -> list[float]:
    theirs = HFLM(
        pretrained=model.network, tokenizer=model.tokenizer, max_length=context, batch_size=1, **options
    )
    asked = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    found: list[float] = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    return found


def by_alloy(model: LanguageModel, texts: list[str], context: int, **options: Any) -> list[float]:
    return [
        -one.nats for one in perplexity(model, texts, context=context, stride=context, **options).documents
    ]


@pytest.mark.parametrize("context", [16, 64])
def test_perplexity_is_the_rolling_log_likelihood(model: LanguageModel, context: int) -> None:
    """With BOS, for a tokenizer that does not add one."""
    assert by_alloy(model, TEXTS, context, bos=True) == pytest.approx(
        by_lm_eval(model, TEXTS, context), rel=1e-4
    )


def test_a_model_without_bos_starts_with_eos_in_both(make_model: MakeModel) -> None:
    tokenizer = make_tokenizer()
    tokenizer.bos_token = None
    model = make_model(tokenizer=tokenizer)

    assert by_alloy(model, TEXTS, 64, bos=True) == pytest.approx(by_lm_eval(model, TEXTS, 64), rel=1e-4)


def test_without_bos_the_first_token_is_given_here_and_scored_there(model: LanguageModel) -> None:
    ours = perplexity(model, TEXT[:100], context=64, stride=64)

    (theirs,) = by_lm_eval(model, [TEXT[:100]], 64)

    assert not ours.bos
    assert -ours.nll_nats > theirs + 1


@pytest.mark.parametrize("context", [16, 64])
def test_of_tokenizers_that_add_bos_lm_eval_scores_a_second_one(make_model: MakeModel, context: int) -> None:
    """Unless it is told not to. The second BOS is a token that no text holds, and costs nats for nothing."""
    model = make_model(tokenizer=make_tokenizer(adds_bos=True))
    ours = by_alloy(model, TEXTS, context)

    told = by_lm_eval(model, TEXTS, context, add_bos_token=False)
    by_default = by_lm_eval(model, TEXTS, context)

    assert ours == pytest.approx(told, rel=1e-4)
    assert all(abs(default - one) > 1 for default, one in zip(by_default, ours, strict=True))
    if context == 64:
        # The last text fits into a window. All of it: BOS as the prefix, and BOS as the first token that is scored.
        ids = [0, 0, *model.tokenizer(TEXTS[2], add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            logits = model.network(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
        twice = float(logits[torch.arange(len(ids) - 1), ids[1:]].sum())
        assert by_default[2] == pytest.approx(twice, rel=1e-4)
