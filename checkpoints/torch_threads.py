"""The threads inside torch's operators."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_users = 0
_before = 1


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One thread inside each torch operator: workers take parts of the work, and threads inside operators would only
    wait for each other. The order of sums then does not depend on the machine's cores either. Several threads may be
    inside; the last one to leave gives torch its threads back."""
    import torch

    global _users, _before
    with _lock:
        if not _users:
            _before = torch.get_num_threads()
        _users += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                torch.set_num_threads(_before)
