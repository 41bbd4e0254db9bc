"""The page's API: the same requests as its buttons, as named endpoints with plain JSON, and as MCP tools.

Callers give their token as `Client(url, oauth_token=...)`, never as an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import gradio as gr
from gradio.events import api

from evaluation import EvaluationError, fetch_model
from merging import MergeError, Problem
from merging.methods import METHODS
from ui.chat.answers import streamed
from ui.chat.sampling import MAX_NEW_TOKENS, Sampling
from ui.hub.account import account, visitor
from ui.languages.translate import t
from ui.merge.destination import destination_of
from ui.score.reading import scored
from ui.score.source import MAX_CHARACTERS
from ui.server.jobs import JobStatus
from ui.server.merge_service import MergeService


def add_api(service: MergeService) -> None:
    """Add the endpoints to the Blocks that are being built."""
    host = service.host

    def methods() -> list[dict[str, Any]]:
        """List the merge methods with their parameters.

        Returns:
            For each: name, title, meaning, paper, formula, whether mergekit 0.1.5 has it, whether it needs a base
            model, and its parameters.
        """
        return [
            {
                "name": method.name,
                "title": method.title,
                "summary": method.summary,
                "paper": method.paper,
                "formula": method.formula,
                "in_mergekit": method.in_mergekit,
                "needs_base": method.needs_base,
                "parameters": [asdict(parameter) for parameter in method.parameters],
            }
            for method in METHODS.values()
        ]

    def plan(
        recipe: str,
        oauth: gr.OAuthToken | None,
        to: str = "",
        overwrite: bool = False,
        pull_request: bool = False,
    ) -> dict[str, Any]:
        """Plan a merge from headers alone: find every problem, or say what it will make and cost.

        Args:
            recipe: YAML in mergekit's language
            to: destination, `hf://owner/name`; empty leaves it unchecked
            overwrite: whether a model that stands there may get a new revision
            pull_request: whether a model that stands there may get a pull request

        Returns:
            ok, problems, warnings, models, tensors, shards, bytes_in, bytes_out, peak_memory_bytes,
            disk_bytes, seconds.
        """
        try:
            place = destination_of(host, to) if to else None
        except MergeError as error:
            return {"ok": False, "problems": [problem.as_dict() for problem in error.problems]}
        return service.plan(
            recipe, place, account(host, oauth), overwrite=overwrite, pull_request=pull_request
        ).summary()

    def merge(
        recipe: str,
        to: str,
        request: gr.Request,
        oauth: gr.OAuthToken | None,
        private: bool = True,
        overwrite: bool = False,
        pull_request: bool = False,
    ) -> dict[str, Any]:
        """Start a merge on the server.

        Args:
            recipe: YAML in mergekit's language
            to: destination, `hf://owner/name`
            private: whether the new repository is private
            overwrite: whether a model that stands there may get a new revision
            pull_request: whether a model that stands there may get a pull request

        Returns:
            job: the id to ask `/job` about; or ok false and the problems.
        """
        who = account(host, oauth)
        try:
            place = destination_of(host, to)
            ways = {"overwrite": overwrite, "pull_request": pull_request}
            planned = service.plan(recipe, place, who, **ways)
            turn = visitor(who, request)
            job = service.merge(planned, place, who, turn, private=private, **ways)
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
            return as_json(service.job(id))
        except MergeError as error:
            return {"ok": False, "problems": [problem.as_dict() for problem in error.problems]}

    def cancel(id: str) -> dict[str, Any]:
        """Stop a merge; nothing of it stays behind.

        Args:
            id: as `/merge` returned it

        Returns:
            stopped: whether there was anything to stop.
        """
        return {"stopped": service.board.cancel(id)}

    def chat(
        model: str,
        message: str,
        oauth: gr.OAuthToken | None,
        system: str = "",
        temperature: float = 0.7,
        max_new_tokens: int = 200,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Ask a model one thing.

        Args:
            model: `owner/name` on the Hub, with @revision behind if wanted; or base+adapter
            message: of the user
            system: the system prompt; empty for none
            temperature: 0 takes the likeliest token each time
            max_new_tokens: where the answer is cut, 1 to 1024
            seed: the same seed gives the same answer

        Returns:
            answer, and about: device, speed and what else there is to know; or ok false and the problems.
        """
        talk = [[{"role": "user", "content": message}]]
        length = min(max(int(max_new_tokens), 1), MAX_NEW_TOKENS)
        token = account(host, oauth).for_hub
        try:
            fetched = fetch_model(model.strip(), token=token, allow_folders=host.allow_folders)
            sampling = Sampling(system, temperature, max_new_tokens=length, seed=int(seed))
            *_, (run, [answer]) = streamed([fetched], talk, sampling)
        except (EvaluationError, gr.Error) as error:
            return _refused("no-answer", error)
        about = " · ".join(filter(None, [answer.line, run.line]))
        return {"ok": True, "answer": answer.text, "about": about}

    def perplexity(model: str, text: str, oauth: gr.OAuthToken | None) -> dict[str, Any]:
        """Say how well a model predicts a text: lower is better.

        Args:
            model: `owner/name` on the Hub, with @revision behind if wanted; or base+adapter
            text: up to 200000 characters that the model was not trained on

        Returns:
            perplexity, bits_per_byte, tokens, seconds, about; or ok false and the problems.
        """
        if len(text) > MAX_CHARACTERS:
            message = t("score.too_long", length=len(text), most=MAX_CHARACTERS)
            return _refused("too-long", EvaluationError(message))
        token = account(host, oauth).for_hub
        try:
            fetched = fetch_model(model.strip(), token=token, allow_folders=host.allow_folders)
            *_, (run, [row]) = scored([fetched], [text])
        except (EvaluationError, gr.Error) as error:
            return _refused("no-score", error)
        if row.score is None:
            return _refused("no-score", EvaluationError(row.trouble))
        figures = {name: getattr(row.score, name) for name in ("perplexity", "bits_per_byte", "tokens")}
        seconds = round(row.score.seconds, 3)
        return {"ok": True, "model": row.name, **figures, "seconds": seconds, "about": run.line}

    quick: tuple[Callable[..., Any], ...] = (methods, plan, merge, job, cancel)
    for endpoint in quick:
        api(endpoint, api_name=endpoint.__name__, concurrency_limit=4)
    slow: tuple[Callable[..., Any], ...] = (chat, perplexity)
    for endpoint in slow:
        api(endpoint, api_name=endpoint.__name__, concurrency_id="model", concurrency_limit=2)


def _refused(code: str, error: EvaluationError | gr.Error) -> dict[str, Any]:
    message = str(error.message) if isinstance(error, gr.Error) else str(error)
    return {"ok": False, "problems": [Problem(code, message).as_dict()]}


def as_json(job: JobStatus) -> dict[str, Any]:
    """A job as plain data."""
    shown = asdict(job)
    del shown["request"]  # a download's folder is nobody's business
    return {"ok": True, **shown}
