"""The pieces that a model's tokenizer cuts the text of another one's token into.

Only the vocabulary's own model is run, which joins characters into tokens: what a tokenizer does before (normalising,
cutting text into words) concerns whole texts. That is the work of the libraries `tokenizers` and `sentencepiece`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from checkpoints import Checkpoint
from checkpoints.problems import CheckpointError, Problem
from merging.tokenizers.spelling import spelled, spelling_of
from merging.tokenizers.tokenizer import TOKENIZER, Tokenizer

# The numbers of the tokens that a text is cut into; empty where it cannot be.
Cut = Callable[[bytes], tuple[int, ...]]
# Shows how a tokenizer splits numbers.
DIGITS = "1234567"
# What is not the fault of a tokenizer.
_STOPS = (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)


def cut_by(tokenizer: Tokenizer, checkpoint: Checkpoint) -> Cut:
    """How a model's tokenizer cuts a text.

    Args:
        checkpoint: the model

    Raises:
        CheckpointError: the libraries cannot read the tokenizer.
    """
    spelling = spelling_of(tokenizer)
    try:
        encode = _encoder(tokenizer, checkpoint)
    except _STOPS:
        raise
    except BaseException as error:  # of any kind: the library also panics, with an exception of its own
        values = {"model": str(tokenizer.model), "error": str(error)[:200]}
        raise CheckpointError(Problem("tokenizer-not-run", values, str(tokenizer.model))) from None
    unknown = {tokenizer.ids.get(token) for token in ("<unk>", "[UNK]")}
    by_byte = [tokenizer.ids.get(f"<0x{byte:02X}>") for byte in range(256)]

    def cut(text: bytes) -> tuple[int, ...]:
        written = spelled(text, spelling)
        try:
            found = encode(written) if written else [by_byte[byte] for byte in text]
        except Exception:  # of any kind: it has no token for unknown text
            return ()
        return tuple(number for number in found if number is not None and number not in unknown)

    return cut


def digits(tokenizer: Tokenizer, checkpoint: Checkpoint) -> tuple[str, ...]:
    """The pieces of a number of seven digits; empty where the tokenizer cannot be run."""
    try:
        if tokenizer.file == TOKENIZER:
            import tokenizers

            whole = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.document))
            pieces = whole.encode(DIGITS, add_special_tokens=False).tokens
        else:
            names = {number: token for token, number in tokenizer.ids.items()}
            pieces = [names[number] for number in cut_by(tokenizer, checkpoint)(DIGITS.encode())]
    except _STOPS:
        raise
    except BaseException:  # of any kind, see above
        return ()
    found = ("".join(filter(str.isdigit, piece)) for piece in pieces)
    return tuple(piece for piece in found if piece)


def _encoder(tokenizer: Tokenizer, checkpoint: Checkpoint) -> Callable[[str], list[int]]:
    if tokenizer.file in ("tokenizer.model", "spiece.model"):
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2

        model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
        model.ParseFromString(checkpoint.read_file(tokenizer.file))
        model.normalizer_spec.add_dummy_prefix = False
        model.normalizer_spec.remove_extra_whitespaces = False
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
        return lambda text: list(processor.encode(text))
    import tokenizers

    bare = tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "model": _model(tokenizer)}))
    return lambda text: [token.id for token in bare.model.tokenize(text)]


def _model(tokenizer: Tokenizer) -> dict[str, Any]:
    """The model of a tokenizer in the notation of tokenizer.json."""
    model = dict(tokenizer.document["model"])
    if model.get("type") == "WordPiece":
        model = {
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            **model,
        }
    return model
