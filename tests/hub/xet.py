"""Xet, the store behind the Hub: the real `hf_xet` writes to it over HTTP, and reads from a folder in its place."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Lengths in bytes of a shard's header, and of each of its records.
HEADER, RECORD = 48, 48
# Flags of a file's record: records of its pieces' hashes follow, and one with the sha256.
WITH_HASHES, WITH_SHA256 = 1 << 31, 1 << 30
END = b"\xff" * 32
CHUNK_HEADER = 8


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


@dataclass
class Xet:
    """Large files that can be read through Xet, and what is written through it.

    Attributes:
        url: where a store is that can be read from; one process at a time may use a folder
        hashes: Xet's name of a file's content, by sha256
        name: of the store that is written to, in its address: hf_xet remembers what an address has already
        tokens: the repository that each token lets its bearer write to
        ttl: seconds for which a new token works
        xorbs: the pieces that were uploaded: the content of their chunks, by name
    """

    url: str = ""
    hashes: dict[str, str] = field(default_factory=dict)
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    tokens: dict[str, str] = field(default_factory=dict)
    ttl: int = 3600
    xorbs: dict[str, list[bytes]] = field(default_factory=dict)

    def add(self, folder: Path, content: dict[str, bytes]) -> None:
        """Store contents, given by sha256, in a folder to read from."""
        import hf_xet

        folder.mkdir(parents=True, exist_ok=True)
        self.url = f"local://{folder}"
        commit = hf_xet.XetSession().new_upload_commit(endpoint=self.url)
        uploads = {sha256: commit.start_upload_bytes(data) for sha256, data in content.items()}
        commit.wait_to_finish()
        self.hashes |= {sha256: upload.result().xet_info.hash for sha256, upload in uploads.items()}


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
