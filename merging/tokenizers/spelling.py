"""How a vocabulary spells text: what bytes a token stands for. Two vocabularies have a token in common if it stands for
the same bytes in both, however they spell it.

    "Ġthe" of a byte-level vocabulary, "▁the" of SentencePiece and "the" of WordPiece are all " the"
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

from merging.tokenizers.tokenizer import Tokenizer

# A character for each byte; a mark for a space, and `<0x0A>` for a byte; words, and `##` before what continues one;
# the text itself.
Spelling = Literal["bytes", "mark", "words", "text"]
MARK, CONTINUES = "▁", "##"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def spelling_of(tokenizer: Tokenizer) -> Spelling:
    """How a tokenizer spells text."""
    document = tokenizer.document
    if tokenizer.file == "vocab.json":
        return "bytes"
    if document["model"].get("type") == "WordPiece":
        return "words"
    parts = [part for key in ("pre_tokenizer", "decoder", "normalizer") for part in _parts(document.get(key))]
    if any(part.get("type") == "ByteLevel" for part in parts):
        return "bytes"
    marks = any(part.get("type") == "Metaspace" or part.get("content") == MARK for part in parts)
    return "mark" if marks or tokenizer.file in ("tokenizer.model", "spiece.model") else "text"


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    """A part of a tokenizer, and those that it is a sequence of."""
    if isinstance(part, dict):
        yield part
        for name in ("pretokenizers", "decoders", "normalizers"):
            for inner in part.get(name) or ():
                yield from _parts(inner)


def text_of(token: str, spelling: Spelling) -> bytes:
    """The bytes that an ordinary token stands for."""
    if spelling == "bytes" and all(character in _bytes_by_character() for character in token):
        return bytes(_bytes_by_character()[character] for character in token)
    if spelling == "mark":
        if byte := _BYTE.fullmatch(token):
            return bytes([int(byte[1], 16)])
        return token.replace(MARK, " ").encode()
    if spelling == "words":
        return (token.removeprefix(CONTINUES) if token.startswith(CONTINUES) else f" {token}").encode()
    return token.encode(errors="surrogatepass")


def is_byte(token: str, spelling: Spelling) -> bool:
    """Whether a token is written as the number of a byte, beside which the byte may have a token of its own."""
    return spelling == "mark" and _BYTE.fullmatch(token) is not None


def spelled(text: bytes, spelling: Spelling) -> str | None:
    """Text as a vocabulary spells it; None for bytes that it cannot spell."""
    if spelling == "bytes":
        return "".join(_characters()[byte] for byte in text)
    try:
        plain = text.decode()
    except UnicodeDecodeError:
        return None
    if spelling == "mark":
        return plain.replace(" ", MARK)
    return plain.strip() if spelling == "words" else plain


@cache
def _characters() -> list[str]:
    """The character of each byte in byte-level vocabularies: itself where it is printable, else one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@cache
def _bytes_by_character() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(_characters())}
