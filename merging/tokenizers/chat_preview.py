"""A short conversation as a chat template writes it, so that people see what a model would be asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from checkpoints.chat_template import EndlessTemplateError, TemplateError, render

MESSAGES = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Good morning!"},
    {"role": "user", "content": "안녕하세요?"},
]
# Characters that are shown.
LONGEST = 2000


class Rendered(NamedTuple):
    """What a template wrote, or the reason why it wrote nothing."""

    text: str
    error: str


def rendered(template: str, special: Mapping[str, str]) -> Rendered:
    """The conversation, and the beginning of its next answer.

    Args:
        template: Jinja, as tokenizers carry it
        special: the tokens that it may name: `bos_token`, `eos_token` and such
    """
    try:
        return Rendered(render(template, MESSAGES, special)[:LONGEST], "")
    except EndlessTemplateError:
        return Rendered("", "template-endless")
    except TemplateError as error:
        return Rendered("", str(error)[:200])
