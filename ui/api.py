"""The page's API: the same requests as its buttons, as named endpoints with plain JSON.

Callers give their token as `Client(url, oauth_token=...)`, never as an argument.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import gradio as gr
from gradio.events import api

from merging import MergeError
from merging.methods import METHODS
from ui.account import account, visitor
from ui.destination import place_of
from ui.jobs import Snapshot
from ui.workshop import Workshop


def add_api(workshop: Workshop) -> None:
    """Add the endpoints to the Blocks that are being built."""
    host = workshop.host

    def methods() -> list[dict[str, Any]]:
        """List the merge methods with their parameters.

        Returns:
            For each: name, title, meaning, paper, whether it needs a base model, and its parameters.
        """
        return [
            {
                "name": method.name,
                "title": method.title,
                "summary": method.summary,
                "paper": method.paper,
                "needs_base": method.needs_base,
                "parameters": [asdict(parameter) for parameter in method.parameters],
            }
            for method in METHODS.values()
        ]

    def plan(recipe: str, to: str, overwrite: bool, oauth: gr.OAuthToken | None) -> dict[str, Any]:
        """Plan a merge from headers alone: find every problem, or say what it will make and cost.

        Args:
            recipe: YAML in mergekit's language
            to: destination, `hf://owner/name`; empty leaves it unchecked
            overwrite: whether a model that stands there may be replaced

        Returns:
            ok, problems, warnings, models, tensors, shards, bytes_in, bytes_out, peak_memory_bytes,
            disk_bytes, seconds.
        """
        try:
            place = place_of(host, to) if to else None
        except MergeError as error:
            return {"ok": False, "problems": [problem.as_dict() for problem in error.problems]}
        return workshop.plan(recipe, place, account(host, oauth), overwrite=overwrite).summary()

    def merge(
        recipe: str, to: str, private: bool, overwrite: bool, request: gr.Request, oauth: gr.OAuthToken | None
    ) -> dict[str, Any]:
        """Start a merge on the server.

        Args:
            recipe: YAML in mergekit's language
            to: destination, `hf://owner/name`
            private: whether the new repository is private
            overwrite: whether a model that stands there may be replaced

        Returns:
            job: the id to ask `/job` about; or ok false and the problems.
        """
        who = account(host, oauth)
        try:
            place = place_of(host, to)
            planned = workshop.plan(recipe, place, who, overwrite=overwrite)
            turn = visitor(who, request)
            job = workshop.merge(planned, place, who, turn, private=private, overwrite=overwrite)
        except MergeError as error:
            return {"ok": False, "problems": [problem.as_dict() for problem in error.problems]}
        return {"ok": True, "job": job}

    def job(id: str) -> dict[str, Any]:
        """Say how a merge stands.

        Args:
            id: as `/merge` returned it

        Returns:
            state (waiting, running, done, failed, cancelled), position, progress, rate, seconds_left, log,
            problems, result.
        """
        try:
            return as_json(workshop.job(id))
        except MergeError as error:
            return {"ok": False, "problems": [problem.as_dict() for problem in error.problems]}

    def cancel(id: str) -> dict[str, Any]:
        """Stop a merge; nothing of it stays behind.

        Args:
            id: as `/merge` returned it

        Returns:
            stopped: whether there was anything to stop.
        """
        return {"stopped": workshop.board.cancel(id)}

    for endpoint in (methods, plan, merge, job, cancel):
        api(endpoint, api_name=endpoint.__name__, concurrency_limit=4)


def as_json(job: Snapshot) -> dict[str, Any]:
    """A job as plain data."""
    shown = asdict(job)
    del shown["order"]  # a download's folder is nobody's business
    return {"ok": True, **shown}
