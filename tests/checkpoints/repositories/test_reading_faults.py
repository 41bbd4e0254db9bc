"""Whatever the Hub does while a model is read: the right bytes, or an error that says why, in bounded time."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from checkpoints.repositories.hub import HubRepository, find_on_hub
from checkpoints.repositories.retry import retry
from merging import Cancelled, CheckpointError
from tests.hub import Hub
from tests.merges import STALLED

FILE = "model.safetensors"
CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Pauses(list[float]):
    """The seconds that reads would have waited; `at` is called with the number of each pause."""

    at: Callable[[int], object] = staticmethod(lambda _: None)

    def add(self, seconds: float) -> None:
        self.append(seconds)
        self.at(len(self))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """Nobody waits."""
    pauses = Pauses()
    monkeypatch.setattr("checkpoints.repositories.retry.time.sleep", pauses.add)
    monkeypatch.setattr(HubRepository, "_pause", lambda _, seconds: pauses.add(seconds))
    return pauses


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that says nothing is left soon, but not one on a machine that has much else to do."""
    monkeypatch.setattr("checkpoints.repositories.hub.READ_TIMEOUT", 2.0)


@pytest.fixture
def alice(hub: Hub, pauses: Pauses) -> str:
    token = hub.add_user("alice")
    hub.put("alice/a", {FILE: CONTENT}, private=True)
    return token


@contextlib.contextmanager
def opened(token: str) -> Iterator[HubRepository]:
    repository = find_on_hub("alice/a", None, token)
    try:
        yield repository
    finally:
        repository.close()


def read(repository: HubRepository, start: int = 1000, end: int = 2_900_000) -> None:
    """Read a range and see that it is right."""
    buffer = bytearray(end - start)
    repository.read_into(FILE, start, memoryview(buffer))
    assert buffer == CONTENT[start:end]


# -- rate limits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.5),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "soon"}, 0.5),
        ({"RateLimit": '"resolvers";r=0;t=55'}, 56),
        ({"RateLimit": '"resolvers";r=0;t=55', "Retry-After": "7"}, 56),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["link", "bytes", "api"])
def test_too_many_requests_waits_as_long_as_it_is_told(
    where: str, headers: dict[str, str], seconds: float, hub: Hub, alice: str, pauses: Pauses
) -> None:
    paths = {"link": "HEAD /resolve/", "bytes": "GET ^/lfs/", "api": "GET ^/api/models/"}
    hub.fault(*paths[where].split(), status=429, headers=headers)

    with opened(alice) as repository:
        read(repository)

    assert pauses == [seconds]


def test_a_date_to_wait_for(hub: Hub, alice: str, pauses: Pauses) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    hub.fault("GET", "^/lfs/", status=503, headers={"Retry-After": until})
    hub.fault("GET", "^/lfs/", status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00"}, skip=1)

    with opened(alice) as repository:
        read(repository)

    assert 90 < pauses[0] <= 100
    assert pauses[1] == 1


def test_pauses_grow_while_nothing_is_said(hub: Hub, alice: str, pauses: Pauses) -> None:
    hub.fault("GET", "^/lfs/", status=429, times=7)

    with opened(alice) as repository:
        read(repository)

    assert pauses == [0.5, 1, 2, 4, 8, 16, 30]


@pytest.mark.parametrize("headers", [{"Retry-After": "3600"}, {"Retry-After": "50"}])
def test_waiting_has_an_end(headers: dict[str, str], hub: Hub, alice: str, pauses: Pauses) -> None:
    hub.fault("GET", "^/lfs/", status=429, headers=headers, times=None)

    with opened(alice) as repository, pytest.raises(CheckpointError) as error:
        read(repository)

    assert sum(pauses) <= 600
    assert "alice/a: Bytes 1000 to 2900000 of model.safetensors could not be read (status 429)" in str(
        error.value
    )
    assert f"asks you to wait {headers['Retry-After']} seconds" in str(error.value)


def test_calls_of_the_api_end_as_well(hub: Hub, alice: str, pauses: Pauses) -> None:
    hub.fault("GET", "^/api/models/", status=429, headers={"Retry-After": "50"}, times=None)

    with pytest.raises(CheckpointError, match="The Hub did not answer for alice/a"):
        find_on_hub("alice/a", None, alice)

    assert sum(pauses) == 600


def test_what_is_no_fault_of_the_network_is_raised_at_once(pauses: Pauses) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        retry(broken)
    assert pauses == []


def test_where_nobody_can_be_reached_a_plan_does_not_wait_long(
    pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise httpx2.ConnectError("no route")

    monkeypatch.setattr("checkpoints.repositories.hub.HfApi.model_info", refused)

    with pytest.raises(CheckpointError, match="did not answer"):
        find_on_hub("alice/a", None, False)

    assert sum(pauses) < 2
    with pytest.raises(httpx2.ConnectError):
        retry(refused)  # a merge that is under way retries for longer
    assert sum(pauses) > 15


# -- connections that break ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("little_patience")
@pytest.mark.parametrize("fault", [{"truncate": 1_200_000}, {"stall": 1_200_000}], ids=str)
def test_a_broken_body_goes_on_at_its_last_byte(
    fault: dict[str, Any], hub: Hub, alice: str, pauses: Pauses
) -> None:
    hub.fault("GET", "^/lfs/", times=2, **fault)

    with opened(alice) as repository:
        read(repository)

    ranges = [exchange.range for exchange in hub.log.find("GET", "^/lfs/")]
    assert ranges == ["bytes=1000-2899999", "bytes=1201000-2899999", "bytes=2401000-2899999"]


@pytest.mark.usefixtures("little_patience")
def test_a_host_that_says_nothing(hub: Hub, alice: str) -> None:
    hub.fault("GET", "^/lfs/", delay=STALLED)

    with opened(alice) as repository:
        read(repository)


def test_a_body_that_breaks_again_and_again_but_goes_on_is_read(
    hub: Hub, alice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checkpoints.repositories.hub.PROGRESS", 150_000)
    hub.fault("GET", "^/lfs/", truncate=150_000, times=None)

    with opened(alice) as repository:
        read(repository)


def test_a_body_that_does_not_go_on_is_given_up(hub: Hub, alice: str) -> None:
    hub.fault("GET", "^/lfs/", truncate=10, times=None)

    with opened(alice) as repository, pytest.raises(CheckpointError, match="the answer was cut short"):
        read(repository)


@contextlib.contextmanager
def resetting_host() -> Iterator[str]:
    """A host that takes a request and resets the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.recv(10)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://localhost:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextlib.contextmanager
def refusing_host() -> Iterator[str]:
    """A host that takes no connections."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        yield f"http://localhost:{unheard.getsockname()[1]}"


@pytest.mark.parametrize("host", [resetting_host, refusing_host])
def test_a_file_host_that_is_away_for_a_while(
    host: Callable[[], contextlib.AbstractContextManager[str]],
    hub: Hub,
    alice: str,
    pauses: Pauses,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    healthy = hub.file_endpoint
    with host() as bad, opened(alice) as repository:
        monkeypatch.setattr(hub, "file_endpoint", bad)
        pauses.at = lambda number: number == 5 and monkeypatch.setattr(hub, "file_endpoint", healthy)
        read(repository)
    assert len(pauses) == 5


@pytest.mark.parametrize("host", [resetting_host, refusing_host])
def test_a_file_host_that_stays_away(
    host: Callable[[], contextlib.AbstractContextManager[str]],
    hub: Hub,
    alice: str,
    pauses: Pauses,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with host() as bad, opened(alice) as repository:
        monkeypatch.setattr(hub, "file_endpoint", bad)
        with pytest.raises(CheckpointError, match=r"could not be read \((Connect|Read)Error\)"):
            read(repository)
    assert 30 < sum(pauses) < 120


# -- wrong answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 206, "headers": {"Content-Range": f"bytes 0-2898999/{len(CONTENT)}"}},
        {"status": 206, "headers": {"Content-Range": "bytes 1000-2899999/2900000"}},
        {"status": 206},
        {"status": 200},
    ],
    ids=str,
)
def test_an_answer_for_another_range_is_asked_for_again_on_another_link(
    answer: dict[str, Any], hub: Hub, alice: str, pauses: Pauses
) -> None:
    hub.fault("GET", "^/lfs/", times=3, **answer)

    with opened(alice) as repository:
        read(repository)

    assert len(hub.log.find("HEAD", "/resolve/")) == 4
    given = answer.get("headers", {}).get("Content-Range", f"status {answer['status']}")
    hub.fault("GET", "^/lfs/", times=None, **answer)
    with opened(alice) as repository, pytest.raises(CheckpointError) as error:
        read(repository)
    assert f"asked for bytes 1000 to 2899999, the host answered {given}" in str(error.value)


def test_more_bytes_than_were_asked_for_are_not_taken(hub: Hub, alice: str) -> None:
    content_range = {"Content-Range": f"bytes 5-6/{len(CONTENT)}"}  # and a sentence of JSON as the body
    hub.fault("GET", "^/lfs/", status=206, headers=content_range)

    with opened(alice) as repository:
        read(repository, 5, 7)


# -- access --------------------------------------------------------------------------------------------------


def test_a_token_that_is_revoked_in_the_middle(hub: Hub, alice: str, pauses: Pauses) -> None:
    with opened(alice) as repository:
        read(repository)
        hub.revoke(alice)
        read(repository)  # the link still holds
        hub.expire_links()
        with pytest.raises(
            CheckpointError, match=r"alice/a can no longer be read with this login \(status 401\)"
        ) as error:
            read(repository)
    assert "Sign in and start again" in str(error.value)
    assert alice not in str(error.value)


def test_many_threads_ask_for_one_link(hub: Hub, alice: str) -> None:
    with opened(alice) as repository:
        threads = [threading.Thread(target=read, args=(repository,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(hub.log.find("HEAD", "/resolve/")) == 1


# -- two ways to the bytes -----------------------------------------------------------------------------------


@pytest.fixture
def xet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)


@pytest.mark.usefixtures("xet")
def test_xet_takes_the_place_of_links_that_fail_and_keeps_it(hub: Hub, alice: str, pauses: Pauses) -> None:
    hub.fault("GET", "^/lfs/", status=503, times=None)

    with opened(alice) as repository:
        for _ in range(4):
            read(repository)

    assert len(pauses) == 3
    assert len(hub.log.find("GET", "^/lfs/")) == 3
    assert len(hub.log.find("GET", "/xet-read-token/")) == 1


@pytest.mark.usefixtures("xet")
def test_links_take_the_place_of_xet_when_that_fails(hub: Hub, alice: str, tmp_path: Path) -> None:
    hub.fault("GET", "^/lfs/", status=503, times=3)
    hub.xet.url = f"local://{tmp_path / 'another'}"

    with opened(alice) as repository:
        read(repository)

    assert hub.log.find("GET", "/xet-read-token/", status=200)
    assert [exchange.status for exchange in hub.log.find("GET", "^/lfs/")] == [503, 503, 503, 206]


@pytest.mark.usefixtures("xet")
def test_xet_is_not_asked_while_links_work(hub: Hub, alice: str) -> None:
    with opened(alice) as repository:
        read(repository)

    assert not hub.log.find("GET", "/xet-read-token/")


@pytest.mark.usefixtures("xet")
def test_a_xet_that_hangs_is_left(hub: Hub, alice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """hf_xet itself would go on for minutes."""
    monkeypatch.setattr("checkpoints.repositories.xet.TIMEOUT", 0.3)
    monkeypatch.setattr("checkpoints.repositories.xet.MIN_SPEED", 1e9)
    hub.fault("GET", "^/lfs/", status=503, times=3)
    with refusing_host() as away, opened(alice) as repository:
        hub.xet.url = away
        read(repository)
    assert hub.log.find("GET", "/xet-read-token/", status=200)


@pytest.mark.usefixtures("xet")
def test_a_xet_that_hangs_can_be_interrupted(hub: Hub, alice: str, pauses: Pauses) -> None:
    hub.fault("GET", "^/lfs/", status=503, times=3)
    with refusing_host() as away, opened(alice) as repository:
        hub.xet.url = away
        timer = threading.Timer(0.5, repository.interrupt)
        pauses.at = lambda number: number == 3 and timer.start()
        with pytest.raises(Cancelled):
            read(repository)
        timer.join()
