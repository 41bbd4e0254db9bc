"""Chat templates write what transformers lets them write, and cannot do more."""

from __future__ import annotations

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from checkpoints.chat_template import Ending, EndlessTemplateError, TemplateError, render

TALK = [
    {"role": "system", "content": "Be <brief>."},
    {"role": "user", "content": "  안녕? "},
    {"role": "assistant", "content": "Hello 'you'\n"},
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = [
    CHATML,
    "{{ bos_token }}{%- for m in messages -%}\n  [{{ m.role | upper }}] {{ m.content | trim }}{{ eos_token }}\n"
    "{%- endfor %}",
    "{{ messages | tojson }} {{ tools }} {{ documents is none }}",
    "{{ messages | tojson(indent=2) }}",
    "{% set ns = namespace(count=0) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
    "{% set ns.count = ns.count + 1 %}{{ ns.count }}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "{{ strftime_now('%Y') }}{% macro line(m) %}{{ m.role }}: {{ m.content }}{% endmacro %}{{ line(messages[0]) }}",
    "{{ dict(a=1) | tojson }}{{ messages[0].get('tool_calls', 'none') }}",
]


def theirs(template: str, ending: Ending) -> str:
    [[text], _] = render_jinja_template(
        [TALK], chat_template=template, add_generation_prompt=ending == "answer",
        continue_final_message=ending == "open", **SPECIAL,
    )  # fmt: skip
    return str(text)


@pytest.mark.parametrize("ending", ["answer", "closed"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_conversations_are_written_as_transformers_writes_them(template: str, ending: Ending) -> None:
    assert render(template, TALK, SPECIAL, ending) == theirs(template, ending)


@pytest.mark.parametrize("template", TEMPLATES[:2])
def test_a_last_message_is_left_open_as_transformers_does(template: str) -> None:
    assert render(template, TALK, SPECIAL, "open") == theirs(template, "open")


def test_a_template_that_refuses_says_why_in_its_own_words() -> None:
    with pytest.raises(TemplateError, match=r"^No system message\.$"):
        render("{{ raise_exception('No system message.') }}", TALK, {})


@pytest.mark.parametrize(
    "template",
    ["{{ 7 ** 99999999 }}", "{{ ('a' * 1000000000) ~ ('b' * 1000000000) }}", "x" * 1_000_001],
)
def test_a_template_that_takes_too_much_ends_alone(template: str) -> None:
    with pytest.raises(TemplateError):
        render(template, TALK, {})
    assert render("{{ 1 }}", TALK, {}) == "1"


def test_endless_is_told_from_wrong() -> None:
    with pytest.raises(EndlessTemplateError):
        render("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", TALK, {})
