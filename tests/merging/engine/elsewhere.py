"""An engine whose workers could be anywhere: they are given JSON and a token, and return JSON."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from contextlib import closing

from checkpoints import Token
from merging.destinations import Receipt
from merging.engine.engine import PULSE, Merge
from merging.engine.task import Task, make_shards, make_task
from merging.plan import PlannedShard


class Elsewhere:
    """Makes shards by workers that share nothing with the merge but text.

    Args:
        together: shards in one task
        token: the workers' own; None: the merge's
    """

    name = "elsewhere"

    def __init__(self, together: int = 3, token: Token = None):
        self.together = together
        self.token = token
        self.tasks: list[str] = []

    def suits(self, merge: Merge, shards: Sequence[PlannedShard]) -> bool:
        return merge.sink.to_data() is not None

    def run(self, merge: Merge, shards: Sequence[PlannedShard]) -> Generator[Receipt, None, None]:
        ends: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        stopped = threading.Event()
        groups = [shards[i : i + self.together] for i in range(0, len(shards), self.together)]
        self.tasks = [make_task(merge, group).to_json() for group in groups]
        token = self.token or merge.token

        def work() -> None:
            try:
                for text in self.tasks:
                    with closing(make_shards(Task.from_json(text), token=token, workers=2)) as made:
                        for receipt in made:
                            if stopped.is_set():
                                return
                            ends.put(receipt.to_json())
                ends.put(None)
            except BaseException as error:
                ends.put(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        named = {shard.filename: shard for shard in shards}
        try:
            while True:
                merge.pulse()
                try:
                    end = ends.get(timeout=PULSE)
                except queue.Empty:
                    continue
                if end is None:
                    return
                if isinstance(end, BaseException):
                    raise end
                receipt = Receipt.from_json(end)
                merge.meter.finished(named[receipt.filename])
                yield receipt
        finally:
            stopped.set()
            worker.join(5)
