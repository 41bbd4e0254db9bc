"""A short conversation as a chat template writes it, so that people see what a model would be asked.

Templates are strangers' programs: each runs in a sandbox, in a process of its own with little time and memory.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

MESSAGES = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Good morning!"},
    {"role": "user", "content": "안녕하세요?"},
]
# Characters that are shown.
LONGEST = 2000
# Seconds of the processor, and bytes; the interpreter's own start counts.
SECONDS, MEMORY = 3, 1 << 30


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
    asked = json.dumps({"template": template, "special": dict(special)})
    try:
        # By its path, and isolated: it is to see nothing of this process but what it is sent.
        found = subprocess.run(
            [sys.executable, "-I", __file__],
            input=asked,
            capture_output=True,
            encoding="utf-8",
            timeout=2 * SECONDS,
            env={},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Rendered("", "template-endless")
    if found.returncode:
        last = found.stderr.strip().rpartition("\n")[2]
        return Rendered("", last[:200] or "template-endless")
    return Rendered(json.loads(found.stdout), "")


def _render() -> None:
    import resource
    from datetime import datetime

    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    asked = json.loads(sys.stdin.buffer.read())

    def refuse(message: str) -> None:
        raise ValueError(message)

    # What transformers gives to a template; its marks around answers matter to training alone.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    text = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", asked["template"])
    written = environment.from_string(text).render(
        messages=MESSAGES, add_generation_prompt=True, tools=None, documents=None, **asked["special"]
    )
    sys.stdout.buffer.write(json.dumps(written[:LONGEST]).encode())


if __name__ == "__main__":
    _render()
