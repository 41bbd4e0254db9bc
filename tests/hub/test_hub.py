"""The loopback Hub, asked by the real clients."""

from __future__ import annotations

import hashlib
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    BucketBatchError,
    BucketNotFoundError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tests.hub import Hub

BIG = bytes(range(256)) * 4096  # 1 MiB with every byte value
CARD = b"---\nlicense: apache-2.0\ntags: [merge]\nbase_model: alice/base\nbase_model_relation: merge\n---\n# A merge\n"


@pytest.fixture
def api(hub: Hub) -> HfApi:
    """Alice's client; she is in the organization ``lab``."""
    return HfApi(token=hub.add_user("alice", orgs=["lab"]))


@pytest.fixture
def bob(hub: Hub) -> HfApi:
    return HfApi(token=hub.add_user("bob"))


@pytest.fixture
def nobody() -> HfApi:
    return HfApi(token=False)


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)).to(
        torch.bfloat16
    )


def same_weights(one: Any, other: Any) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def status_of(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


# Who


def test_whoami_names_user_organizations_and_role(hub: Hub, api: HfApi) -> None:
    who = api.whoami()
    assert (who["name"], [org["name"] for org in who["orgs"]]) == ("alice", ["lab"])
    assert who["auth"]["accessToken"]["role"] == "write"
    assert HfApi(token=hub.read_token("alice")).whoami()["auth"]["accessToken"]["role"] == "read"


def test_a_wrong_token_is_told_so_even_where_none_is_needed(hub: Hub) -> None:
    hub.add_user("alice")
    hub.put("alice/x", {"a.txt": b"1"})
    wrong = HfApi(token="hf_wrong")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        wrong.whoami()
    with pytest.raises(HfHubHTTPError) as error:
        wrong.model_info("alice/x")
    assert status_of(error) == 401


# Looking


def test_search(hub: Hub, api: HfApi, nobody: HfApi) -> None:
    hub.add_user("bob")
    for likes, name in enumerate(["alice/Tiny-A", "alice/tiny-b", "bob/tiny-c", "bob/other"]):
        hub.put(name, {"config.json": b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'})
        hub.repo(name).likes = likes
    hub.put("alice/tiny-secret", {"README.md": CARD}, private=True)

    def found(by: HfApi = nobody, **query: Any) -> list[str]:
        return [model.id for model in by.list_models(**query)]

    hub.page_size = 2
    assert found(search="tiny", sort="likes") == ["bob/tiny-c", "alice/tiny-b", "alice/Tiny-A"]
    assert len(hub.log.find(path="^/api/models$")) == 2
    assert found(search="tiny", sort="likes", limit=1) == ["bob/tiny-c"]
    assert found(author="bob", sort="likes") == ["bob/other", "bob/tiny-c"]
    assert found(filter="llama", author="alice", sort="likes") == ["alice/tiny-b", "alice/Tiny-A"]
    assert found(filter="base_model:merge:alice/base") == []
    assert found(api, filter="base_model:merge:alice/base") == ["alice/tiny-secret"]
    assert found(pipeline_tag="text-generation", search="other") == ["bob/other"]
    (model,) = nobody.list_models(search="other", expand=["config", "downloads", "gated"])
    assert (model.config, model.gated, model.sha) == (
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
        False,
        None,
    )
    with pytest.raises(HfHubHTTPError, match="num_parameters"):
        found(num_parameters="min:6B")


def test_model_info(hub: Hub, api: HfApi, model: LlamaForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    sha = hub.put("alice/tiny", tmp_path, private=True)
    assert hub.put("alice/tiny", {"README.md": CARD}) != sha
    info = api.model_info("alice/tiny", files_metadata=True)
    assert info.private and info.gated is False and info.author == "alice"
    assert info.sha == hub.repo("alice/tiny").refs["main"]
    assert info.card_data is not None and info.card_data.base_model == "alice/base"
    assert {"merge", "license:apache-2.0", "base_model:merge:alice/base", "safetensors", "llama"} <= set(
        info.tags or ()
    )
    count = sum(parameter.numel() for parameter in model.parameters())
    assert info.safetensors == {"parameters": {"BF16": count}, "total": count}
    files = {file.rfilename: file for file in info.siblings or ()}
    assert {"README.md", "config.json", "model.safetensors", ".gitattributes"} <= files.keys()
    weights, lfs = (tmp_path / "model.safetensors").read_bytes(), files["model.safetensors"].lfs
    assert lfs is not None and (lfs.sha256, lfs.size) == (hashlib.sha256(weights).hexdigest(), len(weights))
    assert files["README.md"].size == len(CARD) and files["README.md"].lfs is None
    assert api.model_info("alice/tiny", revision=sha).card_data is None
    with pytest.raises(RevisionNotFoundError):
        api.model_info("alice/tiny", revision="nowhere")


def test_tree_and_paths_info(hub: Hub, nobody: HfApi) -> None:
    hub.add_user("alice")
    hub.put("alice/x", {"a.txt": b"1", "d/b.txt": b"22", "d/e/c.bin": b"333"})
    hub.page_size = 2
    tree = {one.path: one for one in nobody.list_repo_tree("alice/x", recursive=True)}
    assert list(tree) == [".gitattributes", "a.txt", "d", "d/b.txt", "d/e", "d/e/c.bin"]
    assert tree["d/e/c.bin"].lfs.sha256 == hashlib.sha256(b"333").hexdigest()  # type: ignore[union-attr]
    assert tree["a.txt"].blob_id == "56a6051ca2b02b04ef92d5150c9ef600403cb1de"  # type: ignore[union-attr]  # git's
    assert [one.path for one in nobody.list_repo_tree("alice/x", "d")] == ["d/b.txt", "d/e"]
    assert [one.path for one in nobody.list_repo_tree("alice/x", "d/e")] == ["d/e/c.bin"]
    with pytest.raises(EntryNotFoundError):
        list(nobody.list_repo_tree("alice/x", "nothing"))
    assert [one.path for one in nobody.get_paths_info("alice/x", ["d", "a.txt", "missing"])] == ["a.txt", "d"]


def test_refs_branches_and_history(hub: Hub, api: HfApi) -> None:
    first = hub.put("alice/x", {"a.txt": b"1"}, message="one")
    api.create_branch("alice/x", branch="side/way", revision=first)
    with pytest.raises(HfHubHTTPError) as error:
        api.create_branch("alice/x", branch="side/way")
    assert status_of(error) == 409
    api.create_branch("alice/x", branch="side/way", exist_ok=True)
    api.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id="alice/x", revision="side/way")
    hub.page_size = 2
    assert [commit.title for commit in api.list_repo_commits("alice/x")] == ["one", "initial commit"]
    assert len(api.list_repo_commits("alice/x", revision="side/way")) == 3
    assert hub.read("alice/x", "a.txt") == b"1" and hub.read("alice/x", "a.txt", "side/way") == b"2"
    heads = {branch.name: branch.target_commit for branch in api.list_repo_refs("alice/x").branches}
    assert heads == {"main": first, "side/way": hub.repo("alice/x").refs["side/way"]}
    api.delete_branch("alice/x", branch="side/way")
    assert list(hub.repo("alice/x").refs) == ["main"]
    with pytest.raises(HfHubHTTPError):
        api.delete_branch("alice/x", branch="main")


# Downloading


def test_download(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    hub.put("alice/x", {"a.txt": b"small", "d/b ü.bin": BIG}, private=True)
    folder = Path(snapshot_download("alice/x", token=api.token, local_dir=tmp_path))
    assert (folder / "a.txt").read_bytes() == b"small" and (folder / "d/b ü.bin").read_bytes() == BIG
    assert hub.log.bytes_out("^/lfs/") == len(BIG)
    hosts = {exchange.host: exchange.auth for exchange in hub.log}
    assert hosts == {"127.0.0.1": True, "localhost": False}
    assert Path(hf_hub_download("alice/x", "a.txt", token=api.token)).read_bytes() == b"small"
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("alice/x", "missing.txt", token=api.token)


def test_head_says_what_the_client_needs(hub: Hub, nobody: HfApi) -> None:
    hub.add_user("alice")
    sha = hub.put("alice/x", {"a.txt": b"small", "b.bin": BIG})
    small = nobody.get_hf_file_metadata(url=f"{hub.endpoint}/alice/x/resolve/main/a.txt")
    assert (small.commit_hash, small.size, small.xet_file_data) == (sha, 5, None)
    large = nobody.get_hf_file_metadata(url=f"{hub.endpoint}/alice/x/resolve/main/b.bin")
    assert (large.commit_hash, large.size, large.etag) == (sha, len(BIG), hashlib.sha256(BIG).hexdigest())
    assert large.location.startswith(f"{hub.file_endpoint}/lfs/alice/x/")
    missing = httpx2.head(f"{hub.endpoint}/alice/x/resolve/main/none")
    assert (missing.status_code, missing.headers["X-Error-Code"]) == (404, "EntryNotFound")
    assert missing.headers["X-Repo-Commit"] == sha


@pytest.mark.parametrize("name", ["a.txt", "b.bin"])
@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("0-9", slice(0, 10)),
        ("1000-", slice(1000, None)),
        ("-7", slice(-7, None)),
        ("9-99999999", slice(9, None)),
    ],
)
def test_range(hub: Hub, name: str, asked: str, got: slice) -> None:
    hub.add_user("alice")
    content = b"text " * 1000 if name == "a.txt" else BIG
    hub.put("alice/x", {name: content})
    url = f"{hub.endpoint}/alice/x/resolve/main/{name}"
    reply = httpx2.get(url, headers={"Range": f"bytes={asked}"}, follow_redirects=True)
    assert reply.status_code == 206 and reply.content == content[got]
    start, end, _ = got.indices(len(content))
    assert reply.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(content)}"
    assert [exchange.range for exchange in hub.log] == [f"bytes={asked}"] * 2
    assert list(hub.log)[-1].bytes_out == len(reply.content)


def test_a_range_beyond_the_end_is_416(hub: Hub) -> None:
    hub.add_user("alice")
    hub.put("alice/x", {"b.bin": BIG})
    url = f"{hub.endpoint}/alice/x/resolve/main/b.bin"
    reply = httpx2.get(url, headers={"Range": f"bytes={len(BIG)}-"}, follow_redirects=True)
    assert (reply.status_code, reply.headers["Content-Range"]) == (416, f"bytes */{len(BIG)}")


def test_the_file_host_refuses_tokens_and_forged_or_old_links(hub: Hub, api: HfApi) -> None:
    hub.put("alice/x", {"b.bin": BIG})
    url = f"{hub.endpoint}/alice/x/resolve/main/b.bin"

    def link() -> str:
        return httpx2.head(url).headers["Location"]

    good = link()
    assert httpx2.get(good).status_code == 200
    assert httpx2.get(good, headers={"Authorization": f"Bearer {api.token}"}).status_code == 400
    assert httpx2.get(good.replace("expires=", "expires=9")).status_code == 403
    assert httpx2.get(good.replace("localhost", "127.0.0.1")).status_code == 404
    assert httpx2.put(good, content=BIG).status_code == 404
    hub.links.ttl = 0
    assert httpx2.get(link()).status_code == 403
    assert httpx2.get(good).status_code == 200
    hub.expire_links()
    assert httpx2.get(good).status_code == 403


def test_file_system_reads_ranges(hub: Hub, api: HfApi) -> None:
    hub.put("alice/x", {"b.bin": BIG}, private=True)
    assert HfFileSystem(token=api.token).cat_file("alice/x/b.bin", start=1000, end=1010) == BIG[1000:1010]


def test_a_client_that_leaves_is_sent_no_more(hub: Hub) -> None:
    hub.add_user("alice")
    hub.put("alice/x", {"b.bin": BIG * 40})
    url = f"{hub.endpoint}/alice/x/resolve/main/b.bin"
    with httpx2.stream("GET", url, follow_redirects=True) as reply:
        next(reply.iter_raw())
    for _ in range(20):  # until the Hub has surely seen it go
        httpx2.head(url)
    (left,) = hub.log.find("GET", "^/lfs/")
    assert 0 < left.bytes_out < 40 * len(BIG)


# Uploading


def test_create_settings_and_delete(hub: Hub, api: HfApi, nobody: HfApi) -> None:
    url = api.create_repo("mine", private=True)
    assert (url.repo_id, hub.repo("alice/mine").private) == ("alice/mine", True)
    assert not hub.repo(api.create_repo("lab/open").repo_id).private
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo("lab/open")
    assert status_of(error) == 409
    assert api.create_repo("lab/open", exist_ok=True).repo_id == "lab/open"
    api.update_repo_settings("alice/mine", private=False, gated="auto")
    assert nobody.model_info("alice/mine").gated == "auto"
    api.delete_repo("alice/mine")
    assert list(hub.repos) == ["lab/open"]
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("alice/mine")
    api.delete_repo("alice/mine", missing_ok=True)


def test_upload_folder_and_unchanged_files(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    api.create_repo("x")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/w.safetensors").write_bytes(BIG)
    (tmp_path / "README.md").write_bytes(CARD)
    api.upload_folder(repo_id="alice/x", folder_path=tmp_path)
    assert hub.read("alice/x", "d/w.safetensors") == BIG and hub.read("alice/x", "README.md") == CARD
    assert [hub.repo("alice/x").files()[path].lfs for path in ("d/w.safetensors", "README.md")] == [
        True,
        False,
    ]
    assert hub.log.bytes_in("^/upload/") == len(BIG)
    (put,) = hub.log.find("PUT")
    assert (put.host, put.auth) == ("localhost", False)
    (tmp_path / "README.md").write_bytes(CARD + b"more")
    api.upload_folder(repo_id="alice/x", folder_path=tmp_path)
    assert len(hub.repo("alice/x").history()) == 3 and len(hub.log.find("PUT")) == 1
    api.upload_folder(repo_id="alice/x", folder_path=tmp_path)
    assert len(hub.repo("alice/x").history()) == 3


def test_preupload_then_commit(hub: Hub, api: HfApi) -> None:
    api.create_repo("x", private=True)
    shards = [CommitOperationAdd(f"s{i}.safetensors", bytes([i]) * 1000) for i in range(3)]
    for shard in shards:
        api.preupload_lfs_files("alice/x", [shard])
        assert shard.path_or_fileobj == b""
    assert list(hub.repo("alice/x").files()) == [".gitattributes"]
    text = CommitOperationAdd("config.json", io.BytesIO(b"{}"))
    info = api.create_commit("alice/x", [*shards, text], commit_message="all", commit_description="at once")
    assert info.oid == hub.repo("alice/x").refs["main"] and info.commit_url.endswith(info.oid)
    assert hub.read("alice/x", "s2.safetensors") == b"\2" * 1000
    assert hub.repo("alice/x").history()[0].message == "at once"


def test_upload_in_parts(hub: Hub, api: HfApi) -> None:
    api.create_repo("x")
    hub.part_size = 300_000
    api.upload_file(path_or_fileobj=BIG, path_in_repo="b.bin", repo_id="alice/x")
    assert hub.read("alice/x", "b.bin") == BIG
    assert [put.bytes_in for put in hub.log.find("PUT")] == [300_000, 300_000, 300_000, len(BIG) - 900_000]


def test_upload_through_xet(hub: Hub, api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    api.create_repo("x")
    api.upload_file(path_or_fileobj=BIG, path_in_repo="b.bin", repo_id="alice/x")
    assert hub.read("alice/x", "b.bin") == BIG
    assert hub.log.find("POST", "/v1/xorbs/", status=200) and not hub.log.find("PUT")
    for host in ("x" * 8, hub.xet.name):  # another store, and this one without a token
        with pytest.raises(httpx2.HTTPStatusError, match="401"):
            httpx2.post(f"{hub.endpoint}/xet/{host}/v1/shards").raise_for_status()


def test_upload_of_other_bytes_than_promised_is_refused(hub: Hub, api: HfApi) -> None:
    api.create_repo("x")
    oid = hashlib.sha256(BIG).hexdigest()
    batch = {"operation": "upload", "objects": [{"oid": oid, "size": len(BIG)}], "hash_algo": "sha256"}
    headers = {"Authorization": f"Bearer {api.token}"}
    url = f"{hub.endpoint}/alice/x.git/info/lfs/objects"
    actions = httpx2.post(f"{url}/batch", json=batch, headers=headers).json()["objects"][0]["actions"]
    for wrong, refusal in (
        (BIG[::-1], "BadDigest"),
        (BIG[:-1], "IncompleteBody"),
        (BIG + b"1", "IncompleteBody"),
    ):
        reply = httpx2.put(actions["upload"]["href"], content=wrong)
        assert reply.status_code == 400 and refusal in reply.headers["X-Error-Message"]
    verify = {"oid": oid, "size": len(BIG)}
    assert httpx2.post(actions["verify"]["href"], json=verify, headers=headers).status_code == 404
    line = f'{{"key": "lfsFile", "value": {{"path": "b.bin", "algo": "sha256", "oid": "{oid}"}}}}'
    commit = f'{{"key": "header", "value": {{"summary": "s"}}}}\n{line}'
    reply = httpx2.post(f"{hub.endpoint}/api/models/alice/x/commit/main", content=commit, headers=headers)
    assert reply.status_code == 400 and "does not exist" in reply.headers["X-Error-Message"]
    assert list(hub.repo("alice/x").files()) == [".gitattributes"]


def test_copy_and_delete(hub: Hub, api: HfApi) -> None:
    hub.put("alice/x", {"a.txt": b"1", "b.bin": BIG, "d/1.txt": b"1", "d/2.txt": b"2"})
    api.create_commit(
        "alice/x",
        [
            CommitOperationCopy("b.bin", "c.bin"),
            CommitOperationCopy("a.txt", "e.txt"),
            CommitOperationDelete("a.txt"),
            CommitOperationDelete("d/"),
        ],
        commit_message="move",
    )
    assert set(hub.repo("alice/x").files()) == {".gitattributes", "b.bin", "c.bin", "e.txt"}
    assert hub.read("alice/x", "c.bin") == BIG and hub.read("alice/x", "e.txt") == b"1"
    assert not hub.log.find("PUT")
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        api.delete_file("a.txt", "alice/x")


def test_copy_from_another_repository(hub: Hub, api: HfApi) -> None:
    hub.put("alice/x", {"b.bin": BIG})
    hub.put("alice/y", {})
    copy = CommitOperationCopy("b.bin", "c.bin", src_repo_id="alice/x", src_repo_type="model")

    api.create_commit("alice/y", [copy], commit_message="copy")

    assert hub.read("alice/y", "c.bin") == BIG
    assert not hub.log.find("PUT")


def test_parent_commit_has_to_be_the_head(hub: Hub, api: HfApi) -> None:
    old = hub.put("alice/x", {"a.txt": b"1"})
    new = hub.put("alice/x", {"a.txt": b"2"})
    change = [CommitOperationAdd("b.txt", b"3")]
    with pytest.raises(HfHubHTTPError) as error:
        api.create_commit("alice/x", change, commit_message="late", parent_commit=old)
    assert status_of(error) == 412
    api.create_commit("alice/x", change, commit_message="in time", parent_commit=new)
    assert hub.read("alice/x", "b.txt") == b"3"


def test_pull_request(hub: Hub, api: HfApi, nobody: HfApi) -> None:
    hub.put("alice/x", {"a.txt": b"1"})
    info = api.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id="alice/x", create_pr=True)
    assert info.pr_num == 1 and hub.read("alice/x", "a.txt") == b"1"
    assert hub.read("alice/x", "a.txt", "refs/pr/1") == b"2"
    assert Path(nobody.hf_hub_download("alice/x", "a.txt", revision="refs/pr/1")).read_bytes() == b"2"
    (request,) = nobody.list_repo_refs("alice/x", include_pull_requests=True).pull_requests or ()
    assert request.ref == "refs/pr/1"


def test_a_bad_card_is_refused(hub: Hub, api: HfApi) -> None:
    api.create_repo("x")
    for card in (b"---\ntags: [1]\n---\n", b"---\na: b: c\n---\n", b"---\nbase_model_relation: child\n---\n"):
        with pytest.raises(ValueError, match="Invalid metadata"):
            api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="alice/x")
    with pytest.warns(UserWarning, match="empty or missing"):
        api.upload_file(path_or_fileobj=b"# Hello", path_in_repo="README.md", repo_id="alice/x")


# Rights


def test_a_private_repository_looks_missing_to_others(
    hub: Hub, api: HfApi, bob: HfApi, nobody: HfApi
) -> None:
    hub.put("alice/x", {"a.txt": b"1"}, private=True)
    for other, status in ((bob, 404), (nobody, 401)):
        for repo in ("alice/x", "alice/none"):
            with pytest.raises(RepositoryNotFoundError) as error:
                other.model_info(repo)
            assert status_of(error) == status
            with pytest.raises(RepositoryNotFoundError):
                other.hf_hub_download(repo, "a.txt")
    assert [model.id for model in api.list_models()] == ["alice/x"]
    assert list(bob.list_models()) == []


def test_a_gated_repository_shows_itself_but_not_its_files(
    hub: Hub, api: HfApi, bob: HfApi, nobody: HfApi
) -> None:
    hub.put("alice/x", {"a.txt": b"1"}, gated="manual")
    assert bob.model_info("alice/x").gated == "manual"
    for other, status in ((bob, 403), (nobody, 401)):
        for ask in (lambda by: by.auth_check("alice/x"), lambda by: by.hf_hub_download("alice/x", "a.txt")):
            with pytest.raises(GatedRepoError) as error:
                ask(other)
            assert status_of(error) == status
    hub.grant("alice/x", "bob")
    bob.auth_check("alice/x")
    assert Path(bob.hf_hub_download("alice/x", "a.txt")).read_bytes() == b"1"
    api.auth_check("alice/x")


def test_who_may_not_write_is_refused(hub: Hub, api: HfApi, bob: HfApi, nobody: HfApi) -> None:
    hub.put("lab/x", {"a.txt": b"1"})
    reader = HfApi(token=hub.read_token("alice"))
    member = HfApi(token=hub.add_user("carol", orgs={"lab": "read"}))
    for other, status in ((reader, 403), (bob, 403), (member, 403), (nobody, 401)):
        for ask in (
            lambda by: by.auth_check("lab/x", write=True),
            lambda by: by.create_repo("lab/y"),
            lambda by: by.delete_repo("lab/x"),
            lambda by: by.update_repo_settings("lab/x", private=True),
            lambda by: by.create_branch("lab/x", branch="b"),
            lambda by: by.upload_file(path_or_fileobj=BIG, path_in_repo="b.bin", repo_id="lab/x"),
        ):
            with pytest.raises(HfHubHTTPError) as error:
                ask(other)
            assert status_of(error) == status
    assert list(hub.repos) == ["lab/x"] and len(hub.repo("lab/x").commits) == 2
    api.auth_check("lab/x", write=True)


# Faults


def test_a_cut_body_is_resumed(hub: Hub, nobody: HfApi) -> None:
    hub.add_user("alice")
    content, piece = BIG * 12, 10 << 20  # the client writes what it got in pieces of this size
    hub.put("alice/x", {"b.bin": content})
    cut = hub.fault("GET", "^/lfs/", truncate=piece + 1000)
    assert Path(nobody.hf_hub_download("alice/x", "b.bin")).read_bytes() == content
    first, second = hub.log.find("GET", "^/lfs/")
    assert (cut.hits, first.bytes_out, second.range) == (1, piece + 1000, f"bytes={piece}-")


def test_status_faults_skip_and_stop(hub: Hub, nobody: HfApi) -> None:
    hub.add_user("alice")
    hub.put("alice/x", {"a.txt": b"1"})
    hub.fault("GET", "/api/models/", status=503, headers={"Retry-After": "7"}, times=2, skip=1)
    statuses = [httpx2.get(f"{hub.endpoint}/api/models/alice/x") for _ in range(4)]
    assert [reply.status_code for reply in statuses] == [200, 503, 503, 200]
    assert statuses[1].headers["Retry-After"] == "7"
    hub.fault(status=500, times=None)
    assert {httpx2.get(hub.endpoint).status_code for _ in range(3)} == {500}
    hub.clear_faults()
    assert nobody.model_info("alice/x").id == "alice/x"


def test_a_refused_upload_is_tried_again(hub: Hub, api: HfApi) -> None:
    api.create_repo("x")
    hub.fault("PUT", "^/upload/", status=503)
    api.upload_file(path_or_fileobj=BIG, path_in_repo="b.bin", repo_id="alice/x")
    assert [put.status for put in hub.log.find("PUT")] == [503, 200]
    assert [put.bytes_in for put in hub.log.find("PUT")] == [len(BIG)] * 2


def test_a_lost_answer_means_the_work_is_done(hub: Hub, api: HfApi) -> None:
    api.create_repo("x")
    hub.fault("POST", "/commit/", truncate=0)
    with pytest.raises(httpx2.RemoteProtocolError):
        api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="alice/x")
    assert hub.read("alice/x", "a.txt") == b"1"


def test_a_reset_is_one_for_the_client(hub: Hub) -> None:
    hub.fault("GET", "/api/models", reset=True)
    with pytest.raises(httpx2.ReadError, match="reset by peer"):
        httpx2.get(f"{hub.endpoint}/api/models")

    assert httpx2.get(f"{hub.endpoint}/api/models").status_code == 200


def test_headers_alone_replace_those_of_the_answer(hub: Hub) -> None:
    hub.fault("GET", "/api/models", headers={"content-type": "text/plain"})

    assert httpx2.get(f"{hub.endpoint}/api/models").headers["content-type"] == "text/plain"


def test_a_revoked_token_opens_nothing(hub: Hub, api: HfApi) -> None:
    assert api.whoami()
    hub.revoke(str(api.token))
    with pytest.raises(HfHubHTTPError) as refused:
        api.whoami()

    assert status_of(refused) == 401


def test_delay_and_rate_take_their_time(hub: Hub) -> None:
    hub.add_user("alice")
    hub.put("alice/x", {"b.bin": BIG})
    hub.fault(delay=0.1, times=None)
    hub.fault("GET", "^/lfs/", rate=4 * len(BIG))
    start = time.perf_counter()
    reply = httpx2.get(f"{hub.endpoint}/alice/x/resolve/main/b.bin", follow_redirects=True)
    assert reply.content == BIG and time.perf_counter() - start >= 0.45


def test_all_requests_share_a_line(hub: Hub, api: HfApi) -> None:
    hub.put("alice/x", {"b.bin": BIG})
    hub.down.rate = hub.up.rate = 10 * len(BIG)
    address = f"{hub.endpoint}/alice/x/resolve/main/b.bin"
    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        replies = pool.map(lambda _: httpx2.get(address, follow_redirects=True), range(2))
    assert [len(reply.content) for reply in replies] == [len(BIG)] * 2
    down = time.perf_counter() - start
    api.upload_file(path_or_fileobj=BIG[::-1], path_in_repo="c.bin", repo_id="alice/x")
    assert down >= 0.2 and time.perf_counter() - start - down >= 0.1


# Whole models


@pytest.mark.parametrize("sharded", [False, True])
def test_push_and_load_a_model(hub: Hub, api: HfApi, model: LlamaForCausalLM, sharded: bool) -> None:
    limit = {"max_shard_size": "20KB"} if sharded else {}
    model.push_to_hub("alice/tiny", private=True, token=api.token, **limit)
    shards = [path for path in hub.repo("alice/tiny").files() if path.endswith(".safetensors")]
    assert (len(shards) > 2) is sharded and hub.repo("alice/tiny").private
    loaded = AutoModelForCausalLM.from_pretrained("alice/tiny", token=api.token, dtype=torch.bfloat16)
    assert same_weights(loaded, model)
    with pytest.raises(OSError, match="alice/tiny"):
        AutoModelForCausalLM.from_pretrained("alice/tiny", token=False, force_download=True)


def test_push_and_load_a_tokenizer(hub: Hub, api: HfApi) -> None:
    words = Tokenizer(WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.push_to_hub("lab/words", private=True, token=api.token)
    loaded = AutoTokenizer.from_pretrained("lab/words", token=api.token)
    assert loaded("hello")["input_ids"] == tokenizer("hello")["input_ids"]
    assert loaded.chat_template == tokenizer.chat_template


# The Hub itself


def test_a_folder_keeps_all_but_tokens(tmp_path: Path) -> None:
    with Hub(folder=tmp_path) as hub:
        token = hub.add_user("alice", orgs=["lab"])
        api = HfApi(hub.endpoint, token=token)
        api.create_repo("lab/x", private=True)
        api.upload_file(path_or_fileobj=BIG, path_in_repo="b.bin", repo_id="lab/x")
        hub.part_size = 300_000
        api.upload_file(path_or_fileobj=BIG[::-1], path_in_repo="d/c.bin", repo_id="lab/x")
        hub.put("alice/y", {"a.txt": b"1"}, gated="auto")
        hub.grant("alice/y", "bob")
        hub.put("alice/z", {"z.bin": b"gone"})
        api.delete_repo("alice/z")
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 1 + 4  # the index; .gitattributes, b.bin, c.bin, a.txt
    assert not any(token.encode() in path.read_bytes() for path in kept)
    with Hub(folder=tmp_path) as hub:
        assert (hub.repo("lab/x").private, hub.repo("alice/y").granted) == (True, {"bob"})
        with pytest.raises(HfHubHTTPError):
            HfApi(hub.endpoint, token=token).whoami()
        api = HfApi(hub.endpoint, token=hub.add_user("alice"))
        assert [org["name"] for org in api.whoami()["orgs"]] == ["lab"]
        path = api.hf_hub_download("lab/x", "d/c.bin", cache_dir=tmp_path / "cache")
        assert Path(path).read_bytes() == BIG[::-1]
        assert [commit.title for commit in api.list_repo_commits("lab/x")][-1] == "initial commit"


def test_two_hubs_side_by_side_and_reset(hub: Hub) -> None:
    token = hub.add_user("alice")
    hub.put("alice/x", {"b.bin": BIG})
    link = httpx2.head(f"{hub.endpoint}/alice/x/resolve/main/b.bin").headers["Location"]
    hub.fault(status=500, times=None)
    with Hub() as other:
        assert other.repos == {} and other.endpoint != hub.endpoint
    hub.reset()
    assert (len(hub.log), hub.repos) == (0, {})
    assert httpx2.get(link).status_code == 403
    with pytest.raises(HfHubHTTPError):
        HfApi(token=token).whoami()


def test_the_clients_were_told_of_this_hub(hub: Hub) -> None:
    assert os.environ["HF_ENDPOINT"] == hub.endpoint == HfApi().endpoint


def test_a_model_has_a_page_for_people(hub: Hub) -> None:
    hub.add_user("alice")
    card = b"---\nlicense: mit\n---\n# Mine\n<script>alert(1)</script>\n"
    hub.put("alice/x", {"README.md": card, "config.json": b"{}"}, private=True)
    url = f"{hub.endpoint}/alice/x"

    assert httpx2.get(url).status_code == 401
    hub.open_pages = True
    page = httpx2.get(url)

    assert page.status_code == 200
    assert "<h1>Mine</h1>" in page.text
    assert "config.json" in page.text
    assert "license: mit" not in page.text
    assert "<script>" not in page.text


def test_buckets(hub: Hub, api: HfApi, bob: HfApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    assert api.create_bucket("alice/files", private=True).bucket_id == "alice/files"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_bucket("alice/files")
    with pytest.raises(HfHubHTTPError, match="403"):
        bob.create_bucket("alice/other")

    api.batch_bucket_files("alice/files", add=[(BIG, "a/big.bin"), (b"{}", "a/config.json"), (b"", "empty")])
    [big] = api.get_bucket_paths_info("alice/files", ["a/big.bin"])
    copy = ("bucket", "alice/files", big.xet_hash, "b/copy.bin")
    api.batch_bucket_files("alice/files", copy=[copy], delete=["a/config.json"])
    with pytest.raises(BucketBatchError, match="There is no such file"):
        api.batch_bucket_files("alice/files", delete=["a/config.json"])

    listed = {
        it.path: it.size for it in api.list_bucket_tree("alice/files", recursive=True) if it.type == "file"
    }
    assert listed == {"a/big.bin": len(BIG), "b/copy.bin": len(BIG), "empty": 0}
    assert [it.path for it in api.list_bucket_tree("alice/files", prefix="b/", recursive=True)] == [
        "b/copy.bin",
        "b",
    ]
    assert api.bucket_info("alice/files").total_files == 3
    with pytest.raises(BucketNotFoundError):
        bob.bucket_info("alice/files")
    api.download_bucket_files("alice/files", [("b/copy.bin", tmp_path / "copy")])
    assert (tmp_path / "copy").read_bytes() == BIG
    api.delete_bucket("alice/files")
    assert hub.bucket_files("alice/files") is None


def test_buckets_are_kept_between_starts(tmp_path: Path) -> None:
    with Hub(tmp_path) as first:
        first.add_user("alice")
        first.put_in_bucket("alice/files", {"a": b"1"}, private=True)
    with Hub(tmp_path) as again:
        assert again.bucket_files("alice/files") == {"a": b"1"}
        assert again.store.buckets["alice/files"].private
