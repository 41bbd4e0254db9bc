"""Xet, the store behind the Hub: the real `hf_xet` writes to it and reads from it over HTTP.

A file is a list of terms: chunks of xorbs, one after the other. What was uploaded is kept as whole files. A file is
read as xorbs that are cut from it, of a fixed size, so every large file of the Hub can be read however it came. Xet's
name of a file is its sha256 here; clients take it as it is. Buckets keep the name that the client sends.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

# Lengths in bytes of a shard's header, and of each of its records.
HEADER, RECORD = 48, 48
# Flags of a file's record: records of its pieces' hashes follow, and one with the sha256.
WITH_HASHES, WITH_SHA256 = 1 << 31, 1 << 30
END = b"\xff" * 32
CHUNK_HEADER = 8
# Bytes of a xorb that is cut from a file, and of each of its chunks, which are not compressed.
XORB, CHUNK = 16 << 20, 1 << 16


class Term(NamedTuple):
    """Chunks of a xorb, from `start` up to `end`, that are a part of a file."""

    xorb: str
    start: int
    end: int


class XetFile(NamedTuple):
    """A file as a shard describes it: Xet's name of it, the sha256 of its content, and what it is made of."""

    hash: str
    sha256: str
    terms: list[Term]


class Grant(NamedTuple):
    """What a token lets its bearer do, with a model or a bucket."""

    repo: str
    writes: bool


@dataclass
class Xet:
    """The store.

    Attributes:
        url: the address of another store that the Hub names for reading; "" for this one
        name: of the store, in its address: hf_xet remembers what an address has already
        tokens: those that were given out
        ttl: seconds for which a new token works
        xorbs: the pieces that were uploaded: the content of their chunks, by name
        names: the sha256 of files that were uploaded, by Xet's own name of them
    """

    url: str = ""
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    tokens: dict[str, Grant] = field(default_factory=dict)
    ttl: int = 3600
    xorbs: dict[str, list[bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def reconstruction(
    sha256: str, size: int, start: int, end: int, link: Callable[[int], str]
) -> dict[str, Any]:
    """How to read a part of a file, as Xet answers it.

    Args:
        sha256: of the file
        size: in bytes
        start: the first byte
        end: the byte after the last
        link: gives the address of a xorb by its number in the file
    """
    terms, fetched = [], {}
    for number in range(start // XORB, -(-end // XORB)):
        offset = number * XORB
        length = min(XORB, size - offset)
        first = max(start - offset, 0) // CHUNK
        last = -(-min(end - offset, length) // CHUNK)
        name = hashlib.sha256(f"{sha256} {number}".encode()).hexdigest()
        part = {"start": first, "end": last}
        unpacked = min(last * CHUNK, length) - first * CHUNK
        terms.append({"hash": name, "unpacked_length": unpacked, "range": part})
        place = {"start": _place(first, length), "end": _place(last, length) - 1}
        fetched[name] = [{"range": part, "url": link(number), "url_range": place}]
    return {"offset_into_first_range": start % CHUNK, "terms": terms, "fetch_info": fetched}


def _place(chunk: int, length: int) -> int:
    """Where a chunk begins in a xorb of `length` bytes of content; its end for the chunk after the last."""
    return min(chunk * CHUNK, length) + chunk * CHUNK_HEADER


def packed(content: bytes) -> bytes:
    """A xorb of this content."""
    parts = (content[start : start + CHUNK] for start in range(0, len(content), CHUNK))
    return b"".join(
        struct.pack("<B3sB3s", 0, (size := len(part).to_bytes(3, "little")), 0, size) + part for part in parts
    )


def chunks(xorb: bytes) -> Iterator[bytes]:
    """The chunks of a xorb: each has a header of a version, two lengths of three bytes, and how it is compressed."""
    import pyarrow

    place = 0
    while place < len(xorb):
        version, packed, scheme, size = struct.unpack("<B3sB3s", xorb[place : place + CHUNK_HEADER])
        if version != 0:
            return  # an index follows the last one
        place += CHUNK_HEADER
        packed, size = int.from_bytes(packed, "little"), int.from_bytes(size, "little")
        data = xorb[place : place + packed]
        place += packed
        if scheme:
            data = pyarrow.decompress(data, size, codec="lz4", asbytes=True)
        yield _from_groups(data) if scheme == 2 else data


def _from_groups(data: bytes) -> bytes:
    """Undo a sorting of bytes by their place in groups of four."""
    source, out, place = np.frombuffer(data, np.uint8), np.empty(len(data), np.uint8), 0
    for group in range(4):
        count = len(out[group::4])
        out[group::4] = source[place : place + count]
        place += count
    return out.tobytes()


def files(shard: bytes) -> Iterator[XetFile]:
    """The files that an uploaded shard describes."""
    place = HEADER

    def record() -> bytes:
        nonlocal place
        place += RECORD
        return shard[place - RECORD : place]

    while (head := record())[:32] != END:
        flags, count = struct.unpack("<II", head[32:40])
        terms = []
        for _ in range(count):
            entry = record()
            start, end = struct.unpack("<II", entry[40:48])
            terms.append(Term(name(entry[:32]), start, end))
        if flags & WITH_HASHES:
            place += RECORD * count
        sha256 = name(record()[:32]) if flags & WITH_SHA256 else ""
        yield XetFile(name(head[:32]), sha256, terms)


def name(digest: bytes) -> str:
    """How Xet writes a hash: as four numbers of eight bytes, the least byte first."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))
