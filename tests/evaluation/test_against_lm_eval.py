"""lm-eval's rolling log-likelihood, by lm-eval itself, on the same model and text."""

from __future__ import annotations

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from evaluation import LanguageModel, perplexity
from tests.evaluation.conftest import TEXT


@pytest.mark.parametrize("context", [16, 64])
def test_perplexity_is_the_rolling_log_likelihood(model: LanguageModel, context: int) -> None:
    texts = [TEXT * 2, TEXT[:100], "한국어 문서"]
    theirs = HFLM(pretrained=model.network, tokenizer=model.tokenizer, max_length=context, batch_size=1)
    asked = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]

    found = perplexity(model, texts, context=context, stride=context, bos=True)

    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert [-document.nats for document in found.documents] == pytest.approx(expected, rel=1e-4)
