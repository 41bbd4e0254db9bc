"""The Space that the page runs on."""

from __future__ import annotations

import re

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

# Seconds after which the page starts without an answer.
TIMEOUT = 5.0


def running_commit(space_id: str) -> str:
    """The commit that a public Space runs; empty if the Hub does not say."""
    try:
        info = HfApi(token=False).space_info(space_id, timeout=TIMEOUT)
    except (HfHubHTTPError, httpx2.HTTPError, OSError):
        return ""
    # The head may be a commit that is still being built.
    built = info.runtime.raw.get("sha") if info.runtime else None
    commit = str(built or info.sha)
    return commit if re.fullmatch("[0-9a-f]{40}", commit) else ""
