"""Perplexity against computations that are too slow to be wrong."""

from __future__ import annotations

import json
import math
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from evaluation import Cancelled, EvaluationError, LanguageModel, perplexity
from evaluation.footprint import forget_peak, peak
from evaluation.perplexity import _LOGIT_BYTES, Unfinished, perplexity_slice
from tests.evaluation.conftest import TEXT, make_network, make_tokenizer

MakeModel = Callable[..., LanguageModel]
DOCUMENTS = [TEXT, "Short.", "한국어 문서입니다.", TEXT[:90]]


@torch.no_grad()
def one_by_one(model: LanguageModel, tokens: list[int], context: int, given: int = 1) -> float:
    """Nats of all tokens behind those given, each from a run of its own on the `context` tokens before it."""
    nats = 0.0
    for at in range(given, len(tokens)):
        seen = torch.tensor([tokens[max(0, at - context) : at]])
        nats -= float(model.network(seen).logits[0, -1].double().log_softmax(-1)[tokens[at]])
    return nats


@torch.no_grad()
def rolling(model: LanguageModel, tokens: list[int], prefix: int, longest: int, keep: int) -> float:
    """The rolling log-likelihood of lm-eval, by its definition.

    Every token is predicted once, the first from the prefix. A window predicts as many tokens as fit behind
    `keep` tokens that were predicted before; the last window is filled up with more of these.
    """
    nats, predicted, sequence = 0.0, 0, [prefix, *tokens]
    while predicted < len(tokens):
        new = min(longest if predicted == 0 else longest - keep + 1, len(tokens) - predicted)
        predicted += new
        inputs = sequence[max(0, predicted - longest) : predicted]
        logits = model.network(torch.tensor([inputs])).logits[0, -new:].double().log_softmax(-1)
        targets = sequence[predicted + 1 - new : predicted + 1]
        nats -= sum(float(logits[row, target]) for row, target in enumerate(targets))
    return nats


def first_characters(model: LanguageModel, tokens: list[int]) -> int:
    """How many tokens it takes to begin a text with whole characters."""
    return next(n for n in range(1, len(tokens) + 1) if "\ufffd" not in model.tokenizer.decode(tokens[:n]))


def token_ids(model: LanguageModel, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("context", [7, 64])
def test_equals_one_token_at_a_time(model: LanguageModel, context: int) -> None:
    """With a stride of one every token sees the full context, which needs no windows to compute."""
    ids = [token_ids(model, text) for text in DOCUMENTS]

    found = perplexity(model, DOCUMENTS, context=context, stride=1)

    given = [first_characters(model, document) for document in ids]
    nats = [one_by_one(model, document, context, n) for document, n in zip(ids, given, strict=True)]
    tokens = sum(map(len, ids)) - sum(given)
    assert given == [1, 1, 2, 1]
    assert [document.nats for document in found.documents] == pytest.approx(nats, rel=1e-5)
    assert found.tokens == tokens
    assert found.perplexity == pytest.approx(math.exp(sum(nats) / tokens), rel=1e-4)


@pytest.mark.parametrize(("context", "stride"), [(16, 16), (16, 5), (10, 2), (64, 32)])
def test_equals_the_rolling_log_likelihood_of_lm_eval(
    model: LanguageModel, context: int, stride: int
) -> None:
    found = perplexity(model, TEXT * 3, context=context, stride=stride, bos=True)

    ids = token_ids(model, TEXT * 3)
    expected = rolling(model, ids, model.tokenizer.bos_token_id, context, context - stride + 1)
    assert found.nll_nats == pytest.approx(expected, rel=1e-5)
    assert (found.tokens, found.context, found.stride, found.bos) == (len(ids), context, stride, True)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(make_model: MakeModel) -> None:
    network = make_network(tie_word_embeddings=False)
    network.lm_head.weight.data.zero_()

    found = perplexity(make_model(network), TEXT)

    assert found.perplexity == pytest.approx(400, rel=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 50, 100_000])
def test_batches_and_their_padding_change_nothing(model: LanguageModel, batch_tokens: int) -> None:
    alone = [perplexity(model, text, context=16, stride=6).nll_nats for text in DOCUMENTS]

    found = perplexity(model, DOCUMENTS, context=16, stride=6, batch_tokens=batch_tokens)

    assert [document.nats for document in found.documents] == pytest.approx(alone, rel=1e-5)


def test_batches_that_memory_cannot_hold_are_halved(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = perplexity(model, DOCUMENTS, context=16, stride=6)
    run, sizes = model.network.model.forward, []

    def forward(*args: Any, **settings: Any) -> Any:
        sizes.append(len(settings["input_ids"]))
        if settings["input_ids"].numel() > 3 * 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(*args, **settings)

    monkeypatch.setattr(model.network.model, "forward", forward)
    found = perplexity(model, DOCUMENTS, context=16, stride=6, batch_tokens=160)
    assert max(sizes) == 10 and 2 in sizes
    assert found.nll_nats == pytest.approx(whole.nll_nats, rel=1e-5)
    with pytest.raises(EvaluationError, match="out of memory while scoring"):
        perplexity(model, TEXT, context=64)


def test_documents_are_weighted_by_their_tokens_and_never_see_each_other(model: LanguageModel) -> None:
    parts = [perplexity(model, text) for text in DOCUMENTS]

    found = perplexity(model, DOCUMENTS)

    assert [document.tokens for document in found.documents] == [part.tokens for part in parts]
    assert [document.bytes for document in found.documents] == [part.bytes for part in parts]
    assert found.perplexity == pytest.approx(
        math.exp(sum(part.nll_nats for part in parts) / sum(part.tokens for part in parts))
    )
    assert found.nll_nats != pytest.approx(perplexity(model, "".join(DOCUMENTS)).nll_nats, rel=1e-3)


def test_bos_follows_the_rule_of_the_tokenizer(make_model: MakeModel) -> None:
    plain = make_model(name="plain")
    adds = make_model(tokenizer=make_tokenizer(adds_bos=True), name="adds")
    ids = token_ids(plain, TEXT)

    without, with_, forced, forbidden = (
        perplexity(plain, TEXT, stride=1),
        perplexity(adds, TEXT, stride=1),
        perplexity(plain, TEXT, stride=1, bos=True),
        perplexity(adds, TEXT, stride=1, bos=False),
    )

    assert (without.bos, with_.bos) == (False, True)
    assert (without.tokens, with_.tokens) == (len(ids) - 1, len(ids))
    assert with_.nll_nats == pytest.approx(one_by_one(plain, [0, *ids], 64), rel=1e-5)
    assert forced.nll_nats == with_.nll_nats
    assert forbidden.nll_nats == without.nll_nats


def test_bytes_and_characters_are_those_that_were_predicted(make_model: MakeModel) -> None:
    """Without BOS the first token is given, not predicted; its text counts for nothing."""
    model = make_model()
    text = "한국어 문서"
    first = model.tokenizer.decode(token_ids(model, "of" + text)[:1])
    assert first == "of"

    found, whole = perplexity(model, "of" + text), perplexity(model, text, bos=True)

    for score in (found, whole):
        assert (score.bytes, score.characters) == (len(text.encode()), len(text))
        assert score.bits_per_byte == pytest.approx(score.nll_nats / math.log(2) / score.bytes)
        assert score.bits_per_character == pytest.approx(score.nll_nats / math.log(2) / score.characters)


def test_logits_that_the_model_changes_behind_its_head(make_model: MakeModel) -> None:
    """Gemma 2 caps its logits, so its head alone would give other numbers."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        initializer_range=0.5,
        final_logit_softcapping=2.0,
    )
    model = make_model(Gemma2ForCausalLM(config))

    found = perplexity(model, TEXT[:200], context=16, stride=1)

    assert found.nll_nats == pytest.approx(one_by_one(model, token_ids(model, TEXT[:200]), 16), rel=1e-5)


def test_logits_exist_for_a_few_positions_at_a_time(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = perplexity(model, TEXT, context=64)
    rows: list[int] = []
    handle = model.network.lm_head.register_forward_hook(
        lambda _module, _inputs, output: rows.append(output.numel() // 400)
    )
    monkeypatch.setitem(_LOGIT_BYTES, "cpu", 10 * 400 * 4)

    found = perplexity(model, TEXT, context=64)

    handle.remove()
    assert max(rows) == 10
    assert found.nll_nats == pytest.approx(expected.nll_nats, rel=1e-6)


def test_progress_and_cancel(model: LanguageModel) -> None:
    seen: list[tuple[int, int]] = []
    cancel = threading.Event()

    total = perplexity(
        model, DOCUMENTS, context=8, batch_tokens=16, on_progress=lambda *now: seen.append(now)
    ).tokens

    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (total, total)
    with pytest.raises(Cancelled):
        perplexity(
            model, DOCUMENTS, context=8, batch_tokens=16, cancel=cancel, on_progress=lambda *_: cancel.set()
        )


def test_the_result_is_json_and_states_how_it_was_measured(model: LanguageModel) -> None:
    found = perplexity(model, TEXT)

    assert json.loads(json.dumps(found.to_dict()))["perplexity"] == found.perplexity
    assert (found.model, found.commit, found.dtype) == (model.name, None, "float32")
    assert (found.context, found.stride, found.bos) == (64, 32, False)
    assert found.tokens_per_second > 0


@pytest.mark.parametrize(
    ("texts", "settings", "words"),
    [
        ("", {}, "nothing to score"),
        ([], {}, "nothing to score"),
        ("a", {}, "at least two tokens"),
        ("broken \ud83d here", {}, "broken character at position 7"),
        (TEXT, {"context": 65}, "expected 1 to 64"),
        (TEXT, {"context": 8, "stride": 9}, "expected 1 to the context, 8"),
        (TEXT, {"stride": 0}, "expected 1 to the context, 64"),
    ],
)
def test_what_cannot_be_scored_is_said(
    model: LanguageModel, texts: Any, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(EvaluationError, match=words):
        perplexity(model, texts, **settings)


def test_nan_is_an_error_and_no_number(model: LanguageModel) -> None:
    token = token_ids(model, "weights")[-1]
    model.network.get_input_embeddings().weight.data[token] = torch.nan

    with pytest.raises(EvaluationError, match="NaN"):
        perplexity(model, "The weights are weights.")


def test_a_tokenizer_larger_than_the_embedding_is_said(make_model: MakeModel) -> None:
    model = make_model(make_network(vocab_size=300))

    with pytest.raises(EvaluationError, match="embedding has 300 rows"):
        perplexity(model, TEXT)


def test_tokens_come_with_their_places(make_model: MakeModel) -> None:
    """A token ends where it and all before it are whole characters, or with the next one that does."""
    model = make_model(tokenizer=make_tokenizer(adds_bos=True))

    (document,) = perplexity(model, TEXT).documents

    # In a byte-level vocabulary each character of a token stands for a byte.
    sizes = [len(token) for token in model.tokenizer.tokenize(TEXT, add_special_tokens=False)]
    characters = {len(TEXT[:end].encode()): end for end in range(len(TEXT) + 1)}
    reached = np.cumsum(sizes).tolist()
    expected = [
        next(characters[byte] for byte in reached[at:] if byte in characters) for at in range(len(sizes))
    ]
    assert document.token_ends.tolist() == expected
    assert any(byte not in characters for byte in reached)
    assert float(document.token_nats.sum()) == pytest.approx(document.nats)
    assert (document.start, len(document.token_nats)) == (0, document.tokens)


def test_the_same_document_is_scored_once(model: LanguageModel) -> None:
    rows: list[int] = []
    handle = model.network.model.register_forward_hook(
        lambda _module, _inputs, output: rows.append(len(output.last_hidden_state))
    )

    twice = perplexity(model, [TEXT[:60], TEXT[60:120], TEXT[:60]])

    handle.remove()
    once = perplexity(model, [TEXT[:60], TEXT[60:120]])
    assert sum(rows) == 4  # a trial in two ways, and two windows
    assert twice.documents == (*once.documents, once.documents[0])
    assert twice.nll_nats == pytest.approx(once.nll_nats + once.documents[0].nats)


def test_a_long_text_takes_little_more_memory_than_a_short_one(model: LanguageModel) -> None:
    """Their logits would be 250 MB."""
    text = TEXT * 150
    perplexity(model, text, stride=64)
    forget_peak()
    before = peak()

    tokens = perplexity(model, (f"{number} {text}" for number in range(10)), stride=64).tokens

    assert tokens > 150_000
    assert peak() - before < 10_000_000


def test_slices_that_go_on_in_another_process_have_the_same_bits(model: LanguageModel) -> None:
    texts = [TEXT * 10, TEXT[7:]]
    whole = perplexity(model, texts, context=32, stride=16)
    seen: list[tuple[int, int]] = []

    slices = 0
    found = perplexity_slice(model, texts, seconds=0, context=32, stride=16, batch_tokens=256)
    while isinstance(found, Unfinished):
        slices += 1
        held: Unfinished = pickle.loads(pickle.dumps(found))
        found = perplexity_slice(
            model,
            texts,
            seconds=0,
            unfinished=held,
            context=32,
            stride=16,
            batch_tokens=256,
            on_progress=lambda *now: seen.append(now),
        )

    expected = perplexity(model, texts, context=32, stride=16, batch_tokens=256)
    assert slices > 5
    assert found.nll_nats == expected.nll_nats == pytest.approx(whole.nll_nats)
    for one, two in zip(found.documents, expected.documents, strict=True):
        assert np.array_equal(one.token_nats, two.token_nats)
    assert seen[-1] == (found.tokens, found.tokens)


def test_a_slice_of_another_text_or_setting_is_refused(model: LanguageModel) -> None:
    found = perplexity_slice(model, TEXT * 20, seconds=0)
    assert isinstance(found, Unfinished)

    for text, settings in ((TEXT * 21, {}), (TEXT * 20, {"stride": 8})):
        with pytest.raises(EvaluationError, match="of another model, text or setting"):
            perplexity_slice(model, text, seconds=0, unfinished=found, **settings)
