"""Where the page runs, and what that allows its visitors."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# The permission to rent machines, as the Hub calls it.
JOBS = "jobs"


@dataclass(frozen=True)
class Host:
    """The machine that serves the page.

    Args:
        space_id: `owner/name` of the Hugging Face Space, whose visitors are strangers; empty on a laptop
        commit: of the Space that runs; empty on a laptop, and where the Hub does not say
        sign_in: visitors sign in with their Hugging Face account
        demo: the Hub is the demo's, on loopback, with its small models
        results: folder for merges that are saved on this machine
        downloads: folder for results that visitors without an account download, each for an hour
        benchmarks: cache of the answers to benchmarks
        tasks: folder of further benchmarks, in the YAML of lm-eval; None for none
        rents: the page may rent machines with its visitor's sign-in
        scopes: permissions that a Space may ask its visitors for, separated by spaces
        browser_key: encrypts what the page keeps in the browser (recipe and job ids, never a token)
    """

    space_id: str
    sign_in: bool
    demo: bool
    results: Path
    browser_key: str
    downloads: Path = Path(tempfile.gettempdir()) / "alloy-downloads"
    benchmarks: Path = Path(tempfile.gettempdir()) / "alloy-benchmarks"
    tasks: Path | None = None
    rents: bool = False
    commit: str = ""
    scopes: str = ""

    @property
    def asks_for_jobs(self) -> bool:
        """Whether visitors are asked to allow it to rent machines."""
        return JOBS in self.scopes.split()

    @property
    def on_space(self) -> bool:
        """Whether this is a Space."""
        return bool(self.space_id)

    @property
    def allow_folders(self) -> bool:
        """Whether models and results may be folders of this machine."""
        return not (self.on_space or self.sign_in)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Host:
        """Read SPACE_ID, OAUTH_CLIENT_ID, OAUTH_SCOPES, and ALLOY_... for the other fields."""
        scopes = environment.get("OAUTH_SCOPES", "")
        return cls(
            space_id=environment.get("SPACE_ID", ""),
            sign_in="OAUTH_CLIENT_ID" in environment,
            demo=environment.get("ALLOY_DEMO") == "1",
            results=Path(environment.get("ALLOY_RESULTS") or "merged").resolve(),
            browser_key=environment.get("ALLOY_BROWSER_KEY") or "alloy-remembers-recipes",
            downloads=Path(
                environment.get("ALLOY_DOWNLOADS") or Path(tempfile.gettempdir(), "alloy-downloads")
            ),
            benchmarks=Path(
                environment.get("ALLOY_BENCHMARKS") or Path(tempfile.gettempdir(), "alloy-benchmarks")
            ),
            tasks=Path(environment["ALLOY_TASKS"]) if environment.get("ALLOY_TASKS") else None,
            scopes=scopes,
            rents=environment.get("ALLOY_JOBS") == "1"
            or JOBS in scopes.split()
            or not {"SPACE_ID", "OAUTH_CLIENT_ID", "ALLOY_DEMO"} & environment.keys(),
        )
