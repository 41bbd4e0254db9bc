"""Xet beside the file host: the real `hf_xet` reads from a folder when that is what the Hub calls its store."""

from __future__ import annotations

from pathlib import Path


class Xet:
    """Large files that can be read through Xet.

    Attributes:
        url: where the store is; one process at a time may use a folder
        hashes: Xet's name of a file's content, by sha256
    """

    def __init__(self) -> None:
        self.url = ""
        self.hashes: dict[str, str] = {}

    def add(self, folder: Path, content: dict[str, bytes]) -> None:
        """Store contents, given by sha256, in a folder."""
        import hf_xet

        folder.mkdir(parents=True, exist_ok=True)
        self.url = f"local://{folder}"
        commit = hf_xet.XetSession().new_upload_commit(endpoint=self.url)
        uploads = {sha256: commit.start_upload_bytes(data) for sha256, data in content.items()}
        commit.wait_to_finish()
        self.hashes |= {sha256: upload.result().xet_info.hash for sha256, upload in uploads.items()}
