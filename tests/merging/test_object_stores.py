"""Merges from object stores and into them, and credentials that nothing shows."""

from __future__ import annotations

import io
import logging
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from checkpoints.object_store import ObjectStore, store_environment
from checkpoints.problems import ProblemError
from checkpoints.repositories import open_repository
from evaluation.error import EvaluationError
from evaluation.model_files import find_model
from merging import Cancelled, CheckpointError, DestinationError, Progress, make_plan, read_recipe, run_plan
from merging.destinations import open_destination
from merging.planning.confined_plan import PlanRequest, planned
from tests.hub import Hub
from tests.merges import files, merged, ties
from tests.s3 import ACCESS_KEY, SECRET_KEY, Bucket

SIZE = 60_000


@pytest.fixture
def stored(bucket: Bucket, folder: Path) -> Bucket:
    """A bucket with the three models."""
    for name in ("base", "a", "b"):
        bucket.put(files(folder / name), f"models/{name}")
    return bucket


@pytest.fixture
def right(folder: Path, tmp_path: Path) -> dict[str, bytes]:
    """What the merge of folders is."""
    merged(ties(folder), tmp_path / "right", SIZE)
    return without_names(files(tmp_path / "right"))


def without_names(found: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files that do not name the models."""
    return {name: data for name, data in found.items() if name not in ("README.md", "mergekit_config.yml")}


def of_places(base: str, a: str, b: str) -> str:
    """The recipe of `ties`, with models from several places."""
    recipe = yaml.safe_load(ties("place"))
    recipe["base_model"] = base
    for model, name in zip(recipe["models"], (a, b), strict=True):
        model["model"] = name
    return yaml.safe_dump(recipe)


def test_one_parent_on_the_hub_and_one_in_a_store(
    stored: Bucket, hub: Hub, alice: str, folder: Path, right: dict[str, bytes], tmp_path: Path
) -> None:
    hub.put("alice/a", files(folder / "a"), private=True)
    text = of_places(f"{stored.address}/models/base", "alice/a", str(folder / "b"))

    plan = merged(text, tmp_path / "out", SIZE, alice)

    assert without_names(files(tmp_path / "out")) == right
    assert [bool(model.commit) for model in plan.models if "alice" in model.name] == [True]
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| `{stored.address}/models/base` | |" in card
    assert "base_model:\n- alice/a\nbase_model_relation" in card


def test_from_the_hub_to_a_store(
    bucket: Bucket, hub: Hub, alice: str, folder: Path, right: dict[str, bytes]
) -> None:
    for name in ("base", "a", "b"):
        hub.put(f"alice/{name}", files(folder / name), private=True)

    merged(ties("alice"), f"{bucket.address}/out", SIZE, alice)

    assert without_names(bucket.read("out")) == right


def test_from_a_store_to_a_store(stored: Bucket, right: dict[str, bytes], tmp_path: Path) -> None:
    to = f"{stored.address}/results/out"
    plan = make_plan(read_recipe(ties(f"{stored.address}/models")), to, shard_size=SIZE)

    result = run_plan(plan, to)

    assert without_names(stored.read("results/out")) == right
    assert (result.location, result.verified, result.commit) == (to, True, None)
    assert (result.read_by, result.written_by) == (("HTTP",), ("object store",))


def test_a_run_that_died_continues(
    stored: Bucket, right: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    to = f"{stored.address}/out"
    plan = make_plan(read_recipe(ties(f"{stored.address}/models")), to, shard_size=SIZE)
    uploaded: list[str] = []
    upload = ObjectStore.upload

    def dies(self: ObjectStore, path: str, content: io.BytesIO, size: int) -> None:
        if len(uploaded) >= 3:
            raise ValueError("a defect")
        upload(self, path, content, size)
        uploaded.append(path)

    monkeypatch.setattr(ObjectStore, "upload", dies)
    with pytest.raises(ValueError, match="a defect"):
        run_plan(plan, to, workers=1)
    monkeypatch.setattr(ObjectStore, "upload", upload)
    assert "config.json" not in stored.read("out")

    again = make_plan(read_recipe(ties(f"{stored.address}/models")), to, shard_size=SIZE)
    assert again.problems == ()
    result = run_plan(again, to)

    assert without_names(stored.read("out")) == right
    assert result.written_by == ("an earlier run", "object store")


def test_a_cancelled_run_leaves_nothing(stored: Bucket) -> None:
    to = f"{stored.address}/out"
    plan = make_plan(read_recipe(ties(f"{stored.address}/models")), to, shard_size=SIZE)
    cancel = threading.Event()

    with pytest.raises(Cancelled):
        run_plan(plan, to, workers=1, cancel=cancel, on_progress=lambda p: p.tensors_done and cancel.set())

    assert stored.read("out") == {}


def test_a_model_is_replaced_only_if_asked_and_then_whole(
    stored: Bucket, right: dict[str, bytes], folder: Path
) -> None:
    old = {**files(folder / "b"), "model-00001-of-00009.safetensors": b"old", "notes.txt": b"mine"}
    stored.put(old, "out")
    to, text = f"{stored.address}/out", ties(f"{stored.address}/models")
    assert [p.code for p in make_plan(read_recipe(text), to).problems] == ["destination-exists"]
    plan = make_plan(read_recipe(text), to, shard_size=SIZE, overwrite=True)
    seen: list[dict[str, bytes]] = []

    def look(progress: Progress) -> None:
        if progress.phase == "upload":  # all shards have arrived
            found = stored.read("out")
            seen.append({name: data for name, data in found.items() if not name.startswith(".")})

    run_plan(plan, to, overwrite=True, on_progress=look)

    assert seen
    assert all(found == old for found in seen)
    now = without_names(stored.read("out"))
    assert now == {**right, "notes.txt": b"mine"}


def test_a_model_that_changes_is_not_read_on(stored: Bucket) -> None:
    address = f"{stored.address}/models/a"
    with closing(open_repository(address, None, None, True)) as repository:
        stored.put({"config.json": b" " * repository.files["config.json"]}, "models/a")
        with pytest.raises(CheckpointError) as caught:
            repository.read_into("config.json", 0, memoryview(bytearray(2)))

    assert [problem.code for problem in caught.value.problems] == ["model-changed"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("s3://bucket", "store-address"),
        ("s3://bucket/../other", "store-address"),
        ("s3://bucket/model?X-Amz-Signature=secret", "store-address"),
        ("s3://key:secret@bucket/model", "store-address"),
        ("gs://bucket/a model", "store-address"),
    ],
)
def test_addresses_that_are_none(name: str, code: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_repository(name, None, None, True)

    assert [problem.code for problem in caught.value.problems] == [code]
    assert "secret" not in str(caught.value)


def test_nothing_there(bucket: Bucket) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_repository(f"{bucket.address}/models/none", None, None, True)
    assert [problem.code for problem in caught.value.problems] == ["not-in-store"]
    with pytest.raises(CheckpointError) as caught:
        open_repository("s3://no-such-bucket/model", None, None, True)
    assert caught.value.problems[0].values["reason"] == "status 404"


def test_one_file_of_weights(stored: Bucket, folder: Path) -> None:
    stored.put({"adapter.safetensors": b"12345"}, "loose")
    with closing(open_repository(f"{stored.address}/loose/adapter.safetensors", None, None, True)) as found:
        assert dict(found.files) == {"adapter.safetensors": 5}


def test_evaluation_downloads_a_model_once(
    stored: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.put({"evil.py": b"print('no')", "sub/other.safetensors": b"no"}, "models/b")
    found = find_model(f"{stored.address}/models/b")
    place = found.fetch()

    assert files(place) == files(folder / "b")
    assert found.commit is None
    monkeypatch.setattr("evaluation.store_downloads._download", None)
    assert find_model(f"{stored.address}/models/b").fetch() == place
    with pytest.raises(EvaluationError) as caught:
        find_model(f"{stored.address}/models")
    assert [problem.code for problem in caught.value.problems] == ["no-config"]


def test_strangers_do_not_use_the_servers_credentials(stored: Bucket) -> None:
    address = f"{stored.address}/models/a"

    def refused(error: ProblemError) -> list[str]:
        return [problem.code for problem in error.problems]

    with pytest.raises(CheckpointError) as model:
        open_repository(address, None, None, False)
    with pytest.raises(EvaluationError) as judged:
        find_model(address, allow_folders=False)
    with pytest.raises(DestinationError) as destination:
        open_destination(f"{stored.address}/out", allow_folders=False)
    plan = make_plan(
        read_recipe(ties(f"{stored.address}/models")), f"{stored.address}/out", allow_folders=False
    )

    codes = [refused(found.value) for found in (model, judged, destination)]
    assert codes == [["store-refused"]] * 3
    assert {problem.code for problem in plan.problems} == {"store-refused"}


def test_a_plan_in_another_process_is_given_the_variables(
    stored: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = store_environment()
    request = PlanRequest(
        ties(f"{stored.address}/models"), None, False, False, False, True, 10**10, environment=given
    )
    for name in given:
        monkeypatch.delenv(name)

    assert planned(vars(request))["problems"] == ()


class _Quoting(BaseHTTPRequestHandler):
    """Refuses, and quotes what it was sent, as S3 does with keys."""

    def _refuse(self) -> None:
        body = f"<Error><Key>{self.headers['Authorization']}</Key>{SECRET_KEY}</Error>".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = _refuse  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def quoting(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A store that refuses all."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Quoting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    yield
    server.shutdown()
    server.server_close()


def test_credentials_are_in_no_error_log_or_repr(
    stored: Bucket, quoting: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    address = f"{stored.address}/models/a"
    texts = []
    destination = open_destination(f"{stored.address}/out")
    sink = destination.sink
    writer = sink.open_shard("model.safetensors", 10)
    for attempt in (lambda: open_repository(address, None, None, True), writer.close):
        with pytest.raises(ProblemError) as caught:
            attempt()
        texts += [
            "".join(traceback.format_exception(caught.value)),
            repr(caught.value),
            repr(caught.value.problems),
        ]
    texts += [str(problem) for problem in destination.check()]
    texts += [repr(vars(destination)), repr(vars(sink)), repr(sink.to_data()), caplog.text]

    assert "status 403" in "".join(texts) or "access denied" in "".join(texts)
    assert not [text for text in texts if ACCESS_KEY in text or SECRET_KEY in text]
