"""A job on a rented machine: how it is begun, followed and stopped, whatever it does.

The token is among the job's secrets, and nowhere else. Nothing that a visitor wrote becomes part of a shell command:
it comes as base64 or by name in the environment, and options as arguments.
"""

from __future__ import annotations

import base64
import gzip
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any, Generic, TypeVar

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from checkpoints.problem_texts import PROBLEMS
from evaluation.remark import Remark
from merging import Cancelled, MergeError, Problem
from merging.rented_machines import timeout
from ui.hub.account import Account, identify
from ui.rented.code import upload
from ui.server.internal_error import redact
from ui.server.jobs import Rented

Outcome = TypeVar("Outcome")
Coded = TypeVar("Coded", Problem, Remark)

IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
# A second attempt continues from what is on the Hub.
ATTEMPTS = 2
# Seconds between two looks at a job, and lines of its log that are looked at: usually, and where these are all new.
POLL, LINES, MOST_LINES = 3.0, 200, 10_000
# Seconds for which the log of a job that ended is looked at until it says how: its last lines may come late.
LATE_SECONDS = 15.0
# Bytes of one variable of the environment: Linux takes up to 128 KiB.
MOST = 120_000
ENDED = ("COMPLETED", "ERROR", "CANCELED", "DELETED")
# Looks that may fail one after the other before a job is given up here; it may still run.
MISSES = 200
# A constant: what varies is in the environment.
INSTALL = """set -e
if [ -n "$CODE_FILE" ]; then
  uv pip install -q --system 'huggingface_hub>=2.4,<3'
  hf download "$CODE_REPOSITORY" "$CODE_FILE" --revision "$CODE_COMMIT" --local-dir "$CODE_FOLDER" > /dev/null
  uv pip install -q --system --torch-backend cpu "alloy-merge$EXTRAS @ file://$CODE_FOLDER/$CODE_FILE"
else
  uv pip install -q --system --torch-backend cpu "alloy-merge$EXTRAS==$CODE_VERSION"
fi
"""


def rent(
    script: str,
    key: str,
    who: Account,
    machine: str,
    seconds: float,
    *,
    options: Sequence[str] = (),
    environment: Mapping[str, str],
    extras: Sequence[str] = (),
    weights: int = 0,
    work: str = "merge",
) -> Rented:
    """Begin a job on a rented machine, which its user pays for.

    Args:
        script: what is run once this program is installed; a constant
        key: what is done, as a digest
        machine: the Hub's name of the kind
        seconds: that it is estimated to take there
        options: arguments of the script
        environment: what it reads, besides OWNER, the account
        extras: of this program that it needs
        weights, work: see `Rented`

    Raises:
        MergeError: nobody is signed in, or the Hub refuses.
    """
    with failures():
        owner = identify(who).name
        if not owner:
            raise MergeError(Problem("rented-refused", {"status": 401}))
        api = HfApi(token=who.token)
        code = upload(api, owner)
        job = api.run_job(
            image=IMAGE,
            command=["bash", "-c", INSTALL + script, "alloy", *options],
            env={
                **environment,
                "OWNER": owner,
                "EXTRAS": f"[{','.join(extras)}]" if extras else "",
                "CODE_REPOSITORY": code.repository if code else "",
                "CODE_FILE": code.file if code else "",
                "CODE_COMMIT": code.commit if code else "",
                "CODE_FOLDER": "/tmp/alloy-code",
                "CODE_VERSION": "" if code else version("alloy-merge"),
            },
            secrets={"HF_TOKEN": who.token},
            flavor=machine,
            timeout=timeout(seconds),
            attempts=ATTEMPTS,
            name=f"alloy-{key}",
            labels={"alloy": key},
            namespace=owner,
        )
    return Rented(owner, job.id, machine, job.url, weights, work)


def packed(text: str) -> str:
    """Text for a variable of the environment; a script unpacks it by `base64 -d | gunzip`.

    Raises:
        MergeError: it is too long for one.
    """
    found = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    if len(found) > MOST:
        values = {"length": len(text), "most": len(text) * MOST // len(found)}
        raise MergeError(Problem("text-too-long", values))
    return found


class JobWatch(ABC, Generic[Outcome]):
    """Looks at a job again and again.

    Args:
        rented: the job
        api: whose access to use
        report: takes lines of its log, and what is made of them

    Attributes:
        variables: of the environment of the job, once it was looked at
    """

    def __init__(self, rented: Rented, api: HfApi, report: Callable[[Any], None]):
        self.rented = rented
        self.api = api
        self.report = report
        self.variables: Mapping[str, str] = {}
        self._where: dict[str, Any] = {"job_id": rented.id, "namespace": rented.namespace}
        self._seen: list[str] = []
        self._problems: tuple[Problem, ...] = ()
        self._has_ended = False  # by the last line of its log

    @abstractmethod
    def heard(self, data: Mapping[str, Any]) -> None:
        """Take a line of progress, or the last one, whose phase is `done`; may raise where it has another form."""

    @abstractmethod
    def outcome(self, seconds: float) -> Outcome:
        """What the job came to, once it has ended well and was watched for so long.

        Raises:
            MergeError: its result is not there.
        """

    def until_end(self, cancel: threading.Event) -> Outcome:
        """Report until the job ends.

        Raises:
            Cancelled: it was stopped, here or elsewhere
            MergeError: it failed, as it says, or the Hub no longer answers
        """
        misses, ended, began = 0, 0.0, time.monotonic()
        while True:
            try:
                with failures():
                    if cancel.is_set():
                        self._stop()
                    stage, message = self._look()
                misses = 0
            except Cancelled:
                raise
            except MergeError as error:
                misses += 1
                if misses > MISSES:
                    raise MergeError(Problem("rented-unseen", {"url": self.rented.url})) from error
                stage = message = ""
            if stage in ("COMPLETED", "ERROR") and not self._has_ended:
                ended = ended or time.monotonic()
                if time.monotonic() - ended < LATE_SECONDS:
                    _pause(cancel)
                    continue
            if stage == "COMPLETED":
                return self.outcome(time.monotonic() - began)
            if stage in ("CANCELED", "DELETED"):
                raise Cancelled
            if stage == "ERROR":
                raise MergeError(self._problems or [self.failed(message)])
            _pause(cancel)

    def _stop(self) -> None:
        """Ask the Hub to end the machine. Where that is refused because the job has ended by itself, its end counts.

        Raises:
            Cancelled: the Hub does so
            HfHubHTTPError, httpx2.HTTPError: it does not answer.
        """
        try:
            self.api.cancel_job(**self._where)
        except HfHubHTTPError:
            if _named(self.api.inspect_job(**self._where).status.stage) not in ENDED:
                raise
        else:
            raise Cancelled

    def _look(self) -> tuple[str, str]:
        """The stage and what is said of it; reports what is new in the log."""
        # The stage first: whatever a job wrote before its end is then in the log.
        job = self.api.inspect_job(**self._where)
        stage, self.variables = _named(job.status.stage), job.environment or {}
        try:
            new = self._new_lines()
        except (HfHubHTTPError, httpx2.HTTPError):
            if stage not in ENDED:
                raise
            new = []  # what it came to can be seen without its log
        for line in new:
            self._read(line)
        self._seen = [*self._seen, *new][-MOST_LINES:]
        return stage, job.status.message or ""

    def _new_lines(self) -> list[str]:
        for most in (LINES, MOST_LINES):
            lines = list(self.api.fetch_job_logs(**self._where, follow=False, tail=most))
            new = _new(self._seen, lines)
            if len(new) < most:
                break
        return new

    def _read(self, line: str) -> None:
        try:
            data = json.loads(line)
        except ValueError:
            data = None
        if not isinstance(data, dict) or "phase" not in data:
            self.report(redact(line))
        elif data["phase"] == "failed":
            self._has_ended = True
            self._problems = tuple(known(_problem, data.get("problems"), PROBLEMS))
        else:
            self._has_ended = self._has_ended or data["phase"] == "done"
            with suppress(KeyError, TypeError, ValueError, IndexError):
                self.heard(data)

    def failed(self, message: str) -> Problem:
        """That the job failed, where it did not say why."""
        return Problem("rented-failed", {"reason": message, "url": self.rented.url})


def _named(stage: object) -> str:
    """A stage, which is a text where the client does not know it."""
    return str(getattr(stage, "value", stage))


def _pause(cancel: threading.Event) -> None:
    """Wait for the next look, which comes at once where the job is to be stopped."""
    if cancel.is_set():
        time.sleep(POLL)
    else:
        cancel.wait(POLL)


def _new(before: list[str], now: list[str]) -> list[str]:
    """The lines that were added to the end of a log, of which only the last ones are seen."""
    for overlap in range(min(len(before), len(now)), 0, -1):
        if before[-overlap:] == now[:overlap]:
            return now[overlap:]
    return now


def known(read: Callable[[Any], Coded], data: object, words: Container[str]) -> Iterator[Coded]:
    """The problems or remarks in a line of a log whose words are known here: the machine may have another version.

    Args:
        read: makes one of its data; may raise where that has another form
        data: a list, or anything else
        words: codes that have words
    """
    for each in data if isinstance(data, list) else []:
        with suppress(KeyError, TypeError, ValueError, IndexError):
            found = read(each)
            if found.code in words and str(found):
                yield found


def _problem(data: Any) -> Problem:
    return Problem(str(data["code"]), dict(data["values"]), str(data["where"]))


@contextmanager
def failures() -> Iterator[None]:
    """What the Hub says of jobs, as a sentence."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        codes = {401: "rented-refused", 402: "rented-unpaid", 403: "rented-refused"}
        raise MergeError(Problem(codes.get(status, "rented-hub"), {"status": status})) from error
    except (httpx2.HTTPError, OSError) as error:
        raise MergeError(Problem("hub-silent", {"error": type(error).__name__})) from error
