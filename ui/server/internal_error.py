"""Unexpected errors: in full in the server's log, one line on the page, and a token in neither."""

from __future__ import annotations

import logging
import re
import traceback

# What user access tokens, OAuth tokens and job tokens look like.
_TOKEN = re.compile(r"\b(hf|oauth|jwt)_[\w.-]{4,}")
logger = logging.getLogger(__name__)


def log_unexpected(error: Exception, *secrets: str | None) -> str:
    """Log an unexpected error, and return the line that a visitor may see.

    Args:
        error: being handled
        secrets: tokens in use, in case they do not look like tokens
    """
    trace = "".join(traceback.format_exception(error))
    logger.error("%s", redact(trace, *secrets))
    return redact(f"{type(error).__name__}: {error}", *secrets)[:400]


def redact(text: str, *secrets: str | None) -> str:
    """The text without the given tokens and without anything that looks like one."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "(token)")
    return _TOKEN.sub("(token)", text)
