"""Results written into a model's card, as the Hub's own metadata (`model-index`), by commit or pull request."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, RepoCard
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from huggingface_hub.repocard_data import eval_results_to_model_index

from checkpoints import Token
from checkpoints.problems import Problem
from checkpoints.repositories.hub_errors import hub_errors
from checkpoints.repositories.repository import HUB_SCHEME, current_token
from evaluation.benchmarked import Benchmarked, TaskScore
from evaluation.difference import Difference, interval
from evaluation.error import EvaluationError, words_of
from evaluation.model_files import as_evaluation_error
from evaluation.model_index import ModelIndexError, line_break, with_results
from evaluation.paired import PairedScore
from evaluation.perplexity import Perplexity
from evaluation.text import TextSource

_TASK: dict[str, Any] = {"task_type": "text-generation", "task_name": "Text Generation"}
_SOURCE: dict[str, Any] = {
    "source_name": "lm-evaluation-harness",
    "source_url": "https://github.com/EleutherAI/lm-evaluation-harness",
}
# Lines around the section that this module writes, so that the next one replaces it.
_BEGIN, _END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"
_SECTION = re.compile(rf"{_BEGIN}.*?{_END}", re.DOTALL)
_CARD = "README.md"
_ATTEMPTS = 3  # when others commit in between


@dataclass(frozen=True)
class WrittenCard:
    """Where results were written.

    Attributes:
        url: of the commit or the pull request; a file's path for a folder.
        pull_request: whether it still has to be accepted.
    """

    url: str
    pull_request: bool


def perplexity_results(
    score: Perplexity, texts: Sequence[str], source: TextSource, differences: Sequence[Difference] = ()
) -> list[EvalResult]:
    """A model's perplexity on a text, bits per byte with their 95 % interval, and how it differs from others.

    Each metric's `args` say how it was measured: window, BOS, dtype, commit, the text's size and SHA-256.

    >>> write_card("merged", perplexity_results(score, texts, TextSource("my text")))  # doctest: +SKIP

    Args:
        score: the model's score.
        texts: the texts that it is of.
        source: where they are from.
        differences: of this model to others, on the same texts.

    Raises:
        EvaluationError: the score is not of these texts, or is no finite number.
    """
    where, how = _read(source, texts), _settings(score, source, texts)
    spread = interval(score, texts)
    metrics = [
        _metric("perplexity", "Perplexity (per token)", score.perplexity, how),
        _metric(
            "bits_per_byte",
            "Bits per byte",
            score.bits_per_byte,
            {**how, "interval_95": list(spread) if spread else None},
        ),
        *(_metric_of(one, how) for one in differences),
    ]
    return [_checked(score.model, EvalResult(**_TASK, **where, **metric)) for metric in metrics]


def _read(source: TextSource, texts: Sequence[str]) -> dict[str, Any]:
    """What was read, as fields of an `EvalResult`."""
    return {
        "dataset_type": source.dataset or "text",
        "dataset_name": source.name,
        "dataset_config": source.subset,
        "dataset_split": source.split,
        # A text has no commit, and two of them must not be taken for one.
        "dataset_revision": None if source.dataset else _digest(texts),
    }


def _settings(score: Perplexity, source: TextSource, texts: Sequence[str]) -> dict[str, Any]:
    """How it was measured."""
    return {
        "commit": score.commit,
        "dtype": score.dtype,
        "context": score.context,
        "stride": score.stride,
        "bos": score.bos,
        "tokens": score.tokens,
        "bytes": score.bytes,
        "documents": len(score.documents),
        "column": source.column,
        "text_sha256": _digest(texts),
    }


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _metric(kind: str, name: str, value: float, how: Mapping[str, Any]) -> dict[str, Any]:
    """A figure as fields of an `EvalResult`."""
    return {"metric_type": kind, "metric_name": name, "metric_value": value, "metric_args": how}


def _metric_of(found: Difference, how: Mapping[str, Any]) -> dict[str, Any]:
    versus = {
        "other": found.other,
        "interval_95": list(found.interval) if found.interval else None,
        "verdict": found.verdict,
        "bytes": found.bytes,
    }
    name = f"Bits per byte, minus those of {found.other}"
    return _metric("bits_per_byte_difference", name, found.bits_per_byte, {**how, **versus})


def benchmark_results(found: Benchmarked, pairs: Sequence[PairedScore] = ()) -> list[EvalResult]:
    """A model's scores on lm-eval's tasks, with standard errors, and how it differs from others over all of them.

    >>> write_card("merged", benchmark_results(found))  # doctest: +SKIP

    Args:
        found: the model's scores.
        pairs: of this model and others, on the same questions.

    Raises:
        EvaluationError: a score is no finite number.
    """
    how = {
        "commit": found.commit,
        "dtype": found.dtype,
        "few_shot": found.few_shot,
        "chat_template": found.chat_template,
        "limit": found.limit,
        "lm_eval": found.lm_eval,
    }
    asked = ["default few-shot" if found.few_shot is None else f"{found.few_shot}-shot"]
    asked += ["chat template"] * found.chat_template
    results = [_of_task(score, how, asked) for score in found.scores]
    tasks = ", ".join(score.task for score in found.scores)
    results += [_of_pair(pair, tasks, how, asked) for pair in pairs]
    return [_checked(found.model, one) for one in results]


def _of_task(score: TaskScore, how: Mapping[str, Any], asked: Sequence[str]) -> EvalResult:
    more = {
        "task": score.task,
        "task_version": score.version,
        "questions": score.questions,
        "standard_error": score.stderr,
    }
    name = ", ".join([score.task, score.metric, *asked])
    return EvalResult(
        **_TASK,
        **_SOURCE,
        **_metric(score.metric, name, score.value, {**how, **more}),
        dataset_type=score.dataset or score.task,
        dataset_name=score.task,
        dataset_config=score.subset if score.dataset else None,
        dataset_split=score.split,
    )


def _of_pair(pair: PairedScore, tasks: str, how: Mapping[str, Any], asked: Sequence[str]) -> EvalResult:
    more = {
        "other": pair.other,
        "questions": pair.questions,
        "interval_95": list(pair.interval) if pair.interval else None,
    }
    what = pair.metric or "Mean score"
    name = ", ".join([f"{what}, minus that of {pair.other}", *asked])
    return EvalResult(
        **_TASK,
        **_SOURCE,
        **_metric("score_difference", name, pair.difference, {**how, **more}),
        dataset_type=tasks,
        dataset_name=tasks,
    )


def card_with(card: str, name: str, results: Sequence[EvalResult], markdown: str | None = None) -> str:
    """Put results into a card's text; everything outside this model's own entry and section keeps its bytes.

    A result replaces an earlier one of the same metric (by type and name) on the same task and data; what others
    wrote into the entry is kept.

    >>> text = card_with(text, "merged", perplexity_results(score, texts, source))  # doctest: +SKIP

    Args:
        card: the text of a README.md with its line breaks and byte order mark, "" for none.
        name: of the model, as its entry in the `model-index` is called.
        results: what is put in.
        markdown: a section of the text, such as `Report.to_markdown`; replaces the one written before, or is appended.

    Raises:
        EvaluationError: the card's metadata cannot be read.
    """
    if results:
        groups = eval_results_to_model_index(name, list(results))[0]["results"]
        try:
            card = with_results(card, name, groups)
        except ModelIndexError as error:
            raise EvaluationError(Problem("card-metadata", {"model": name, "what": error.what})) from error
    return card if markdown is None else _with_section(card, markdown)


def _with_section(card: str, markdown: str) -> str:
    """A card with a section of ours: in place of the one written before, or at its end."""
    new_line = line_break(card)
    section = f"{_BEGIN}\n## Evaluation\n\n{markdown.strip()}\n{_END}".replace("\n", new_line)
    before, *others = _SECTION.split(card)
    if others:
        return before + section + "".join(others)
    missing = 2 - sum(card.endswith(new_line * count) for count in (1, 2)) if card else 0
    return card + new_line * missing + section + new_line


def write_card(
    model: str | Path,
    results: Sequence[EvalResult],
    *,
    markdown: str | None = None,
    pull_request: bool = False,
    token: Token = None,
    allow_folders: bool = True,
) -> WrittenCard:
    """Write results into the card of a model: one commit, made on the card as it then is.

    >>> write_card("owner/merged", benchmark_results(found), pull_request=True)  # doctest: +SKIP

    Args:
        model: "owner/name" on the Hub, with or without "hf://" before it, or a folder.
        results: what is written, as from `perplexity_results` and `benchmark_results`.
        markdown: a section of the card's text besides; replaces the one written before.
        pull_request: propose it to the repository's owner instead; anybody may.
        token: a token or what gives one; None for the machine's own login.
        allow_folders: whether `model` may be a folder of this machine.

    Raises:
        EvaluationError: there is nothing to write, the card cannot be read, or the Hub does not take it.
    """
    if not results and not markdown:
        raise EvaluationError(Problem("no-result-chosen"))
    name = str(model)
    folder = Path(model).expanduser()
    if allow_folders and not name.startswith(HUB_SCHEME) and folder.is_dir():
        if pull_request:
            raise EvaluationError(Problem("folder-pull-request", {"model": name}))
        path = folder / _CARD
        card = _decoded(name, path.read_bytes()) if path.exists() else ""
        path.write_bytes(card_with(card, folder.resolve().name, results, markdown).encode())
        return WrittenCard(str(path), False)
    repo = name.removeprefix(HUB_SCHEME).partition("@")[0]
    if "+" in repo:
        raise EvaluationError(Problem("no-own-card", {"model": name}))
    return _commit(repo, results, markdown, pull_request, current_token(token))


def _commit(
    repo: str,
    results: Sequence[EvalResult],
    markdown: str | None,
    pull_request: bool,
    token: str | bool | None,
) -> WrittenCard:
    api = HfApi(token=token)
    for attempt in range(_ATTEMPTS):
        with as_evaluation_error(), hub_errors(repo):
            head = api.model_info(repo).sha
            try:
                stored = Path(api.hf_hub_download(repo, _CARD, revision=head)).read_bytes()
            except EntryNotFoundError:
                stored = b""
        content = card_with(_decoded(repo, stored), repo.rpartition("/")[2], results, markdown)
        try:
            RepoCard(content.removeprefix("\ufeff")).validate(repo_type="model")
            made = api.create_commit(
                repo,
                [CommitOperationAdd(_CARD, content.encode())],
                commit_message="Add evaluation results",
                commit_description="\n".join(
                    f"- {one.metric_name}: {one.metric_value:.5g}" for one in results
                ),
                create_pr=pull_request,
                parent_commit=head,
            )
        except ValueError as error:
            raise EvaluationError(
                Problem("card-refused", {"model": repo, "words": words_of(error)})
            ) from error
        except HfHubHTTPError as error:
            if error.response.status_code == 412 and attempt + 1 < _ATTEMPTS:
                continue
            raise _refused(repo, error, pull_request) from error
        return WrittenCard(str(made.pr_url or made.commit_url), pull_request)
    raise AssertionError("the last attempt returns or raises")


def _refused(repo: str, error: HfHubHTTPError, pull_request: bool) -> EvaluationError:
    status = error.response.status_code
    values = {"model": repo, "status": status}
    if status in (401, 403, 404) and pull_request:
        return EvaluationError(Problem("card-not-proposed", values))
    if status in (401, 403, 404):
        return EvaluationError(Problem("card-not-yours", values))
    if status == 412:
        return EvaluationError(Problem("card-changing", values))
    return EvaluationError(Problem("card-not-taken", values))


def _decoded(name: str, content: bytes) -> str:
    """A card as text, with its byte order mark and line breaks."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise EvaluationError(Problem("card-not-utf8", {"model": name, "words": words_of(error)})) from error


def _checked(model: str, result: EvalResult) -> EvalResult:
    if not math.isfinite(result.metric_value):
        values = {"model": model, "metric": result.metric_name, "value": str(result.metric_value)}
        raise EvaluationError(Problem("score-not-finite", values))
    return result
