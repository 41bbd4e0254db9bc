"""The loopback Hub, asked by huggingface_hub's own command line, with Xet as it is by default."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from checkpoints.repositories.xet import XetReader
from tests.hub import Hub
from tests.hub import xet as store

BIG = bytes(range(256)) * 4000  # not a whole number of chunks
CARD = b"---\nlicense: apache-2.0\n---\n# A model\n"
Hf = Callable[..., str]


@pytest.fixture
def token(hub: Hub) -> str:
    token = hub.add_user("alice", orgs=["lab"])
    hub.put(
        "alice/tiny", {"config.json": b"{}", "w.safetensors": BIG, "sub/w.bin": BIG[:9], "README.md": CARD}
    )
    hub.log.clear()
    return token


@pytest.fixture
def hf(hub: Hub, token: str, tmp_path: Path) -> Hf:
    """Runs `hf` as alice; returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": token,
    }

    def run(*arguments: str | Path) -> str:
        command = [Path(sys.executable).with_name("hf"), *arguments]
        ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    return run


def test_a_model_is_downloaded_through_xet_and_the_cache_kept(hub: Hub, hf: Hf, tmp_path: Path) -> None:
    hf("download", "alice/tiny")
    hf("download", "alice/tiny", "w.safetensors", "--local-dir", tmp_path / "here")

    assert (tmp_path / "here/w.safetensors").read_bytes() == BIG
    assert hub.log.find("GET", "/v1/reconstructions/", status=200) and not hub.log.find("GET", "^/lfs/")
    assert all(
        exchange.host == "localhost" and not exchange.auth for exchange in hub.log.find("GET", "^/xorbs/")
    )
    [kept] = json.loads(hf("cache", "ls", "--json"))
    assert kept["repo_id" if "repo_id" in kept else "id"].endswith("alice/tiny")
    hf("cache", "verify", "alice/tiny")
    hf("cache", "rm", "model/alice/tiny", "-y")
    hf("cache", "prune", "-y")
    assert json.loads(hf("cache", "ls", "--json")) == []


def test_a_folder_and_a_pull_request_are_uploaded_through_xet(hub: Hub, hf: Hf, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up/w.safetensors").write_bytes(BIG[::-1])
    (tmp_path / "up/config.json").write_text("{}")

    hf("upload", "alice/new", tmp_path / "up")
    hf("upload", "alice/new", tmp_path / "up/w.safetensors", "again.safetensors", "--create-pr")

    assert hub.read("alice/new", "w.safetensors") == BIG[::-1]
    assert set(hub.repo("alice/new").files()) == {".gitattributes", "w.safetensors", "config.json"}
    assert hub.read("alice/new", "again.safetensors", "refs/pr/1") == BIG[::-1]
    assert not hub.log.find("PUT")


def test_a_folder_is_uploaded_as_a_pull_request(hub: Hub, hf: Hf, tmp_path: Path) -> None:
    """Which is opened first, and gets its files in several commits."""
    (tmp_path / "up").mkdir()
    (tmp_path / "up/w.safetensors").write_bytes(BIG[::-1])

    hf("upload", "alice/tiny", tmp_path / "up", "--create-pr", "--commit-message", "Other weights")
    hf("download", "alice/tiny", "--revision", "refs/pr/1", "--local-dir", tmp_path / "here")

    assert (tmp_path / "here/w.safetensors").read_bytes() == BIG[::-1]
    assert hub.read("alice/tiny", "w.safetensors") == BIG
    assert "Other weights" in hf("discussions", "list", "alice/tiny")


def test_repositories_are_made_changed_listed_and_deleted(hub: Hub, hf: Hf) -> None:
    hf("repos", "create", "lab/made", "--private")
    hf("repos", "settings", "lab/made", "--gated", "auto")
    hf("repos", "branch", "create", "lab/made", "dev")
    hf("repos", "tag", "create", "lab/made", "v1")
    assert "v1" in hf("repos", "tag", "list", "lab/made")
    assert (hub.repo("lab/made").private, hub.repo("lab/made").gated) == (True, "auto")
    assert set(hub.repo("lab/made").refs) == {"main", "dev", "refs/tags/v1"}
    hf("repos", "branch", "delete", "lab/made", "dev")
    hf("repos", "tag", "delete", "lab/made", "v1", "-y")
    assert set(hub.repo("lab/made").refs) == {"main"}
    hf("repos", "move", "lab/made", "lab/moved")
    hf("repos", "duplicate", "alice/tiny", "alice/copy")
    assert hub.read("alice/copy", "w.safetensors") == BIG
    hf("repos", "delete-files", "alice/copy", "config.json")
    assert "config.json" not in hub.repo("alice/copy").files()
    listed = {one["id"]: one for one in json.loads(hf("repos", "ls", "--json"))}
    assert set(listed) == {"alice/tiny", "alice/copy"}
    hf("repos", "delete", "lab/moved", "-y")
    assert set(hub.repos) == set(listed)


def test_any_range_of_a_file_can_be_read_through_xet(
    hub: Hub, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across the ends of chunks and xorbs, which are small here."""
    monkeypatch.setattr("tests.hub.xet.CHUNK", 1 << 12)
    monkeypatch.setattr("tests.hub.xet.XORB", 3 << 12)
    monkeypatch.setattr("tests.hub.routes_xet.XORB", 3 << 12)
    content = BIG[:50_001]
    hub.put("alice/tiny", {"w.safetensors": content})
    name = hub.repo("alice/tiny").files()["w.safetensors"].sha256
    url = f"{hub.endpoint}/api/models/alice/tiny/xet-read-token/main"
    reader = XetReader(lambda: httpx2.get(url, headers={"Authorization": f"Bearer {token}"}).json())

    for start, end in (
        (0, 50_001),
        (0, 1),
        (4095, 4097),
        (12_287, 12_289),
        (50_000, 50_001),
        (13_000, 37_000),
    ):
        buffer = bytearray(end - start)
        reader.read(name, len(content), start, memoryview(buffer))
        assert buffer == content[start:end], (start, end)


def test_a_token_for_xet_opens_what_it_was_given_for(hub: Hub, token: str) -> None:
    hub.put("alice/other", {"w.safetensors": BIG[1:]}, private=True)
    names = [hub.repo(f"alice/{name}").files()["w.safetensors"].sha256 for name in ("tiny", "other")]
    bob = {"Authorization": f"Bearer {hub.add_user('bob')}"}

    def access(repo: str, kind: str) -> httpx2.Response:
        return httpx2.get(f"{hub.endpoint}/api/models/{repo}/xet-{kind}-token/main", headers=bob)

    assert access("alice/other", "read").status_code == 404
    assert access("alice/tiny", "write").status_code == 403
    read = {"Authorization": f"Bearer {access('alice/tiny', 'read').json()['accessToken']}"}
    at = f"{hub.endpoint}/xet/{hub.xet.name}/v1"
    asked = [httpx2.get(f"{at}/reconstructions/{name}", headers=read).status_code for name in names]
    assert asked == [200, 404]
    late = httpx2.get(f"{at}/reconstructions/{names[0]}", headers={**read, "Range": f"bytes={len(BIG)}-"})
    assert late.status_code == 416
    assert httpx2.post(f"{at}/shards", headers=read).status_code == 403


def test_a_xorb_is_as_long_as_its_plan_says() -> None:
    plan = store.reconstruction("a" * 64, 100_000, 0, 100_000, str)

    [term] = plan["terms"]
    [[part]] = plan["fetch_info"].values()
    assert (term["range"], term["unpacked_length"]) == ({"start": 0, "end": 2}, 100_000)
    assert part["url_range"] == {"start": 0, "end": len(store.packed(b"x" * 100_000)) - 1}
    assert list(store.chunks(store.packed(b"x" * 100_000))) == [b"x" * 65536, b"x" * 34464]
