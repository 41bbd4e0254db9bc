"""A bucket: files without history."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.hub.repo import now


@dataclass(frozen=True)
class BucketFile:
    """One file; its bytes are the blob named ``sha256``, which Xet calls ``xet_hash``."""

    sha256: str
    xet_hash: str
    size: int
    uploaded: str = field(default_factory=now)


@dataclass
class Bucket:
    """A bucket and who may read it.

    Attributes:
        files: by path.
        objects: sha256 of all content that was uploaded to it, named by a file or not.
    """

    id: str
    private: bool = False
    created: str = field(default_factory=now)
    files: dict[str, BucketFile] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)

    @property
    def owner(self) -> str:
        return self.id.partition("/")[0]

    def add(self, path: str, sha256: str, xet_hash: str, size: int) -> None:
        self.objects.add(sha256)
        self.files[path] = BucketFile(sha256, xet_hash, size)

    def info(self) -> dict[str, Any]:
        """As the Hub describes it."""
        return {
            "id": self.id,
            "private": self.private,
            "createdAt": self.created,
            "size": sum(file.size for file in self.files.values()),
            "totalFiles": len(self.files),
        }

    def item(self, path: str) -> dict[str, Any]:
        """A file as the Hub describes it."""
        file = self.files[path]
        return {
            "type": "file",
            "path": path,
            "size": file.size,
            "xetHash": file.xet_hash,
            "mtime": file.uploaded,
            "uploadedAt": file.uploaded,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Bucket:
        """The bucket whose fields were written as JSON, sets as lists."""
        files = {path: BucketFile(**file) for path, file in data["files"].items()}
        return cls(**data | {"files": files, "objects": set(data["objects"])})
