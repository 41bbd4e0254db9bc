"""Chat templates: a conversation as text, as a model is to read it.

Templates are strangers' programs. Each runs in Jinja's sandbox, in a process with little time and memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from checkpoints.confined import Confined, ConfinedError, LimitError

# Of the processor, and of memory, for one conversation.
SECONDS, MEMORY = 3, 1 << 30
# Conversations that are written at the same time.
WORKERS = 4
# Characters of a template, and of what it may write: far more than any model reads.
LONGEST_TEMPLATE, LONGEST_TEXT = 1_000_000, 20_000_000
# Marks where a message that is left open ends.
_OPEN = "END_OF_OPEN_MESSAGE "

Message = Mapping[str, Any]
# What follows the last message: the beginning of the next answer, nothing at all, or only what closes it.
Ending = Literal["answer", "open", "closed"]


class TemplateError(Exception):
    """A template cannot write a conversation; the text says why."""


class EndlessTemplateError(TemplateError):
    """It takes more time or memory than a template may."""


def render(
    template: str, messages: Sequence[Message], special: Mapping[str, Any], ending: Ending = "answer"
) -> str:
    """Write a conversation, as `apply_chat_template` of transformers does.

    Args:
        template: Jinja, as tokenizers carry it
        messages: each with a "role" and a "content"
        special: the tokens that it may name: `bos_token`, `eos_token` and such
        ending: what follows the last message

    Raises:
        EndlessTemplateError: it exceeds its limits.
        TemplateError: it refuses the conversation, or is no template.
    """
    if len(template) > LONGEST_TEMPLATE:
        raise EndlessTemplateError("it is too long")
    given = [*map(dict, messages)]
    if ending == "open":
        given[-1]["content"] += _OPEN
    asked = {
        "template": template,
        "messages": given,
        "special": dict(special),
        "answer": ending == "answer",
    }
    try:
        text = str(_written_apart(asked))
    except LimitError as error:
        raise EndlessTemplateError("it does not finish") from error
    except ConfinedError as error:
        raise TemplateError(str(error).removeprefix("TemplateError: ")) from error
    return _left_open(text) if ending == "open" else text


def warm_up() -> None:
    """Start a process for the first conversation."""
    render("", [], {})


def _left_open(text: str) -> str:
    """The text up to the end of the last message, without what the template writes after it.

    Raises:
        TemplateError: the template left the message out.
    """
    end = text.rfind(_OPEN.strip())
    if end < 0:
        raise TemplateError("it does not write the last message")
    # A template that strips messages has taken the mark's own space away.
    return text[:end] if text[end:].startswith(_OPEN) else text[:end].rstrip()


def written(asked: Mapping[str, Any]) -> str:
    """What a template writes, for the process that runs it.

    Raises:
        jinja2.TemplateError, TypeError, ValueError: and whatever else a template may run into.
    """
    text: str = _compiled(asked["template"]).render(
        messages=asked["messages"],
        add_generation_prompt=asked["answer"],
        tools=None,
        documents=None,
        **asked["special"],
    )
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"it writes {len(text)} characters")
    return text


@lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    """The template in an environment like that of transformers; its marks around answers matter to training alone."""
    from datetime import datetime

    from jinja2 import TemplateError as JinjaError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise JinjaError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **more)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template))


_written_apart = Confined(__name__, written.__name__, seconds=SECONDS, memory=MEMORY, workers=WORKERS)
