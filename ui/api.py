"""The page's API: the same requests as its buttons, as named endpoints with plain JSON, and as MCP tools.

Callers give their token as `Client(url, oauth_token=...)`, never as an argument.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import wraps
from typing import Any, get_args, get_type_hints

import gradio as gr
from gradio.events import api
from pydantic import ConfigDict, TypeAdapter, ValidationError

from checkpoints.problems import ProblemError
from checkpoints.typed_text import excess
from evaluation import EvaluationError, fetch_model
from evaluation.runtime import Runtime
from merging import MergeError, Problem
from merging.methods import METHODS
from ui.chat.answers import streamed
from ui.chat.sampling import MAX_NEW_TOKENS, Sampling
from ui.hub.account import account, visitor
from ui.merge.destination import destination_of
from ui.score.reading import scored
from ui.server.heals import HealService
from ui.server.internal_error import log_unexpected
from ui.server.jobs import JobStatus
from ui.server.merge_service import MergeService
from ui.server.searches import SearchService
from ui.widgets.events import MAX_PLANS


class Api:
    """The endpoints: what callers and MCP clients read is each one's signature and docstring.

    Args:
        service: answers them
        searches: answers those about searches
    """

    def __init__(self, service: MergeService, searches: SearchService) -> None:
        self.service = service
        self.searches = searches
        self.heals = HealService(service)
        self.host = service.host

    def add(self) -> None:
        """Add the endpoints to the Blocks that are being built."""
        quick: tuple[Callable[..., Any], ...] = (self.methods, self.job, self.cancel)
        for endpoint in quick:
            api(in_words(endpoint), api_name=endpoint.__name__, concurrency_limit=4)
        planned: tuple[Callable[..., Any], ...] = (self.plan, self.merge, self.gguf, self.search, self.heal)
        for endpoint in planned:
            api(in_words(endpoint), api_name=endpoint.__name__, concurrency_limit=MAX_PLANS)
        slow: tuple[Callable[..., Any], ...] = (self.chat, self.perplexity, self.influence)
        for endpoint in slow:
            api(in_words(endpoint), api_name=endpoint.__name__, concurrency_id="model", concurrency_limit=2)

    def methods(self) -> list[dict[str, Any]]:
        """List the merge methods with their parameters.

        Returns:
            For each: name, title, summary, paper, formula, in_mergekit, needs_base, and its parameters.
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
        self,
        recipe: str,
        request: gr.Request,
        oauth: gr.OAuthToken | None,
        to: str = "",
        overwrite: bool = False,
        pull_request: bool = False,
    ) -> dict[str, Any]:
        """Plan a merge from file headers: find every problem, or report what the merge would make and cost.

        Args:
            recipe: YAML in mergekit's language
            to: destination, `hf://owner/name`; empty leaves it unchecked
            overwrite: whether an existing model may get a new revision
            pull_request: whether an existing model may get a pull request

        Returns:
            ok, problems, warnings, models, tensors, shards, bytes_in, bytes_out, memory, disk_bytes, seconds.
        """
        try:
            place = destination_of(self.host, to) if to else None
        except MergeError as error:
            return _problems(error)
        who = account(self.host, oauth)
        ways = {"overwrite": overwrite, "pull_request": pull_request}
        return self.service.plan(recipe, place, who, visitor(who, request), **ways).summary()

    def merge(
        self,
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
            overwrite: whether an existing model may get a new revision
            pull_request: whether an existing model may get a pull request

        Returns:
            job: the id to ask `/job` about; or ok false and the problems.
        """
        who = account(self.host, oauth)
        try:
            place = destination_of(self.host, to)
            turn = visitor(who, request)
            planned = self.service.plan(
                recipe, place, who, turn, overwrite=overwrite, pull_request=pull_request
            )
            job = self.service.merge(
                planned, place, who, turn, private=private, overwrite=overwrite, pull_request=pull_request
            )
        except MergeError as error:
            return _problems(error)
        return {"ok": True, "job": job}

    def gguf(
        self,
        model: str,
        to: str,
        request: gr.Request,
        oauth: gr.OAuthToken | None,
        types: str = "Q4_K_M",
        private: bool = True,
        overwrite: bool = False,
        pull_request: bool = False,
    ) -> dict[str, Any]:
        """Start making GGUF files for llama.cpp and Ollama, of a model or of a recipe's result.

        Args:
            model: `owner/name` on the Hub, optionally with `@revision`; or a recipe, YAML in mergekit's language
            to: destination, `hf://owner/name`, usually ending in -GGUF
            types: of the files, separated by commas: BF16, F16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, Q3_K_M
            private: whether the new repository is private
            overwrite: whether existing files may be replaced
            pull_request: whether an existing repository may get a pull request

        Returns:
            job: the id to ask `/job` about; or ok false and the problems.
        """
        who = account(self.host, oauth)
        ways: dict[str, Any] = {"private": private, "overwrite": overwrite, "pull_request": pull_request}
        try:
            place, turn = destination_of(self.host, to), visitor(who, request)
            job = self.service.gguf(model.strip(), place, types.split(","), who, turn, **ways)
        except MergeError as error:
            return _problems(error)
        return {"ok": True, "job": job}

    def search(
        self,
        space: str,
        request: gr.Request,
        oauth: gr.OAuthToken | None,
        texts: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Start a search for the numbers of a recipe on the server.

        Args:
            space: YAML of a recipe with ranges, such as `weight: {search: [0, 1.2], start: 0.5}`, and a `search:`
                block that says what it is judged by, such as `search: {objective: [{text: english}]}`
            texts: your own texts, by the name that the space calls them; paragraphs are documents, and of a name that
                ends in .jsonl the lines

        Returns:
            job: the id to ask `/job` about, whose `search` has recipe and report; or ok false and the problems.
        """
        from searching.data import documents_of  # imports torch

        who = account(self.host, oauth)
        try:
            own = {name: documents_of(name, text) for name, text in (texts or {}).items()}
            job = self.searches.start(space, own, who, visitor(who, request))
        except ProblemError as error:
            return _problems(error)
        return {"ok": True, "job": job}

    def influence(
        self, model: str, oauth: gr.OAuthToken | None, drop: int = 4, tries: int = 3
    ) -> dict[str, Any]:
        """Measure which layers of a model matter, and try the best cuts on a bundled English text.

        Args:
            model: `owner/name` on the Hub, optionally with `@revision`
            drop: how many layers to leave out, 1 to 12
            tries: how many cuts to try, 1 to 5

        Returns:
            by_layer: the influence of each layer; perplexity of the whole model; tried: cuts, the best first, each
            with perplexity, the interval of what it costs in bits per byte, and its recipe; or ok false and the
            problems.
        """
        who = account(self.host, oauth)
        drop, tries = min(max(drop, 1), 12), min(max(tries, 1), 5)
        try:
            *_, found = self.heals.layers(model.strip(), drop, tries, who)
        except ProblemError as error:
            return _problems(error)
        assert found
        tried = [asdict(one) for one in found.tried]
        return {"ok": True, "by_layer": found.by_layer, "perplexity": found.whole, "tried": tried}

    def heal(
        self,
        chain: str,
        to: str,
        request: gr.Request,
        oauth: gr.OAuthToken | None,
        private: bool = True,
        keep: bool = False,
    ) -> dict[str, Any]:
        """Start training a model that was cut, stacked or merged, so that it predicts what its parent does.

        Args:
            chain: YAML of a recipe, `---`, and a document such as `train: distillation` with `datasets` and
                `arguments`
            to: destination, `hf://owner/name`
            private: whether the new repository is private
            keep: whether a result that did not heal is kept too

        Returns:
            job: the id to ask `/job` about, whose `heal` has the losses and the scores before and after; or ok false
            and the problems.
        """
        who = account(self.host, oauth)
        try:
            place = destination_of(self.host, to)
            job = self.heals.start(chain, place, who, visitor(who, request), private=private, keep=keep)
        except ProblemError as error:
            return _problems(error)
        return {"ok": True, "job": job}

    def job(self, id: str) -> dict[str, Any]:
        """Report the state of a merge, a search or a training.

        Args:
            id: as `/merge`, `/gguf`, `/search` or `/heal` returned it

        Returns:
            state, position, progress, rate, seconds_left, log, problems, result; of a search also its scores, of a
            training its losses and scores.
        """
        try:
            return _status(self.service.job(id))
        except MergeError as error:
            return _problems(error)

    def cancel(self, id: str) -> dict[str, Any]:
        """Stop a merge, of which nothing is left behind, or a search, whose best recipe so far stays.

        Args:
            id: as `/merge` or `/search` returned it

        Returns:
            stopped: whether it was still waiting or running.
        """
        return {"stopped": self.service.board.cancel(id)}

    def chat(
        self,
        model: str,
        message: str,
        oauth: gr.OAuthToken | None,
        system: str = "",
        temperature: float = 0.7,
        max_new_tokens: int = 200,
        seed: int = 0,
        runtime: str = "auto",
    ) -> dict[str, Any]:
        """Ask a model one question.

        Args:
            model: `owner/name` on the Hub, optionally with `@revision`; or base+adapter
            message: the user's
            system: the system prompt; empty for none
            temperature: 0 always takes the likeliest token
            max_new_tokens: where the answer is cut, 1 to 1024
            seed: the same seed gives the same answer
            runtime: `transformers` runs the model in transformers; `auto` on a processor in llama.cpp, which is
                quicker, if it can

        Returns:
            answer, and about: device, number format, runtime, speed and notes; or ok false and the problems.
        """
        if problem := excess(message) or excess(system):
            return _problems(EvaluationError(problem))
        talk = [[{"role": "user", "content": message}]]
        length = min(max(max_new_tokens, 1), MAX_NEW_TOKENS)
        chosen: Runtime = "transformers" if runtime == "transformers" else "auto"
        token = account(self.host, oauth).for_hub
        try:
            fetched = fetch_model(model.strip(), token=token, allow_folders=self.host.allow_folders)
            sampling = Sampling(system, temperature, max_new_tokens=length, seed=seed % 2**63, runtime=chosen)
            *_, (run, [answer]) = streamed([fetched], talk, sampling)
        except (EvaluationError, gr.Error) as error:
            return _refused("no-answer", error)
        about = " · ".join(filter(None, [answer.line, run.line]))
        return {"ok": True, "answer": answer.text, "about": about}

    def perplexity(self, model: str, text: str, oauth: gr.OAuthToken | None) -> dict[str, Any]:
        """Measure how well a model predicts a text: lower is better.

        Args:
            model: `owner/name` on the Hub, optionally with `@revision`; or base+adapter
            text: up to 200000 characters that the model was not trained on

        Returns:
            perplexity, bits_per_byte, tokens, seconds, about; or ok false and the problems.
        """
        if problem := excess(text):
            return _problems(EvaluationError(problem))
        token = account(self.host, oauth).for_hub
        try:
            fetched = fetch_model(model.strip(), token=token, allow_folders=self.host.allow_folders)
            *_, (run, [row]) = scored([fetched], [text])
        except (EvaluationError, gr.Error) as error:
            return _refused("no-score", error)
        if row.score is None:
            return _problems(EvaluationError(Problem("no-score", {"words": row.trouble})))
        figures = {name: getattr(row.score, name) for name in ("perplexity", "bits_per_byte", "tokens")}
        seconds = round(row.score.seconds, 3)
        return {"ok": True, "model": row.name, **figures, "seconds": seconds, "about": run.line}


def in_words(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The endpoint, whose arguments have their types, and whose errors are problems: Gradio answers others without a
    word."""
    signature = inspect.signature(endpoint)
    hints = get_type_hints(endpoint)
    is_plain = ConfigDict(allow_inf_nan=False)
    adapters = {
        name: TypeAdapter(hints[name], config=is_plain)
        for name in signature.parameters
        if not {gr.Request, gr.OAuthToken} & {hints[name], *get_args(hints[name])}
    }

    @wraps(endpoint)
    def answered(*given: Any, **named: Any) -> Any:
        bound = signature.bind(*given, **named)
        for name in adapters.keys() & bound.arguments.keys():
            value = bound.arguments[name]
            try:
                bound.arguments[name] = adapters[name].validate_python(value)
            except ValidationError as error:
                values = {"name": name, "given": repr(value)[:60], "words": error.errors()[0]["msg"]}
                return _problems(MergeError(Problem("argument", values)))
        try:
            return endpoint(*bound.args, **bound.kwargs)
        except Exception as error:
            tokens = [one.token for one in (*given, *named.values()) if isinstance(one, gr.OAuthToken)]
            return _problems(MergeError(Problem("defect", {"error": log_unexpected(error, *tokens)})))

    return answered


def _problems(error: ProblemError) -> dict[str, Any]:
    return {"ok": False, "problems": [problem.as_dict() for problem in error.problems]}


def _refused(code: str, error: EvaluationError | gr.Error) -> dict[str, Any]:
    """The problems of an error; those of the page's own errors are their words, under a code."""
    if isinstance(error, gr.Error):
        error = EvaluationError(Problem(code, {"words": str(error.message)}))
    return _problems(error)


def _status(job: JobStatus) -> dict[str, Any]:
    """A job as plain data."""
    data = asdict(replace(job, search=None, heal=None))
    data["heal"] = job.heal.to_dict() if job.heal else None
    data["search"] = job.search.to_dict() if job.search else None
    data["problems"] = [problem.as_dict() for problem in job.problems]
    del data["request"]  # it names the folder of a download
    return {"ok": True, **data}
