"""The threads inside torch's operators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One thread inside each torch operator: workers take parts of the work, and threads inside operators would only
    wait for each other. The order of sums then does not depend on the machine's cores either."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
