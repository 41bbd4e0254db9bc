"""Errors that are Alloy's own fault: in full in the server's log, in a line on the page, tokens in neither."""

from __future__ import annotations

import logging
import re
import traceback

# What user access tokens, OAuth tokens and job tokens look like.
_TOKEN = re.compile(r"\b(hf|oauth|jwt)_[\w.-]{4,}")
logger = logging.getLogger(__name__)


def log_unexpected(error: Exception, *secrets: str | None) -> str:
    """Log an unexpected error, and give the line that a visitor may see.

    Args:
        error: being handled
        secrets: tokens that were at hand, in case they do not look like tokens
    """
    trace = "".join(traceback.format_exception(error))
    logger.error("%s", redact(trace, *secrets))
    return redact(f"{type(error).__name__}: {error}", *secrets)[:400]


def redact(text: str, *secrets: str | None) -> str:
    """The text without anything that looks like a token, and without the given ones."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "(token)")
    return _TOKEN.sub("(token)", text)
