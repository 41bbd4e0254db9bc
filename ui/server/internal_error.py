"""Unexpected errors: in full in the server's log, one line on the page, and a token in neither."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Mapping
from typing import Any

from checkpoints.problems import Place, Problem

# What user access tokens, OAuth tokens and job tokens look like.
_TOKEN = re.compile(r"\b(hf|oauth|jwt)_[\w.-]{4,}")
logger = logging.getLogger(__name__)


def log_unexpected(error: BaseException, *secrets: str | None) -> str:
    """Log an unexpected error, and return the line that a visitor may see.

    Args:
        error: being handled
        secrets: tokens in use, in case they do not look like tokens
    """
    trace = "".join(traceback.format_exception(error))
    logger.error("%s", redact(trace, *secrets))
    return redact(f"{type(error).__name__}: {error}", *secrets)[:400]


def redact_problem(problem: Problem) -> Problem:
    """The problem without anything that looks like a token, in its values and its place."""
    where = problem.where if isinstance(problem.where, Place) else redact(problem.where)
    return Problem(problem.code, _redact_value(problem.values), where)


def _redact_value(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: _redact_value(item) for name, item in value.items()}
    return [_redact_value(item) for item in value] if isinstance(value, list | tuple) else value


def redact(text: str, *secrets: str | None) -> str:
    """The text without the given tokens and without anything that looks like one."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "(token)")
    return _TOKEN.sub("(token)", text)
