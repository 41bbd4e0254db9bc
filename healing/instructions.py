"""Instructions made of instructions, as in Evol-Instruct (arXiv 2304.12244): each is made deeper or another one is made
beside it, and what did not get better is left out.

The prompts are our own, in English and in Korean; the four conditions under which an evolution has failed are the
paper's, as plain checks. A small model cannot evolve instructions: it shows the form, and not the quality.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Language = Literal["english", "korean"]
# Gives an answer to a message.
Ask = Callable[[str], str]
# Ways that make an instruction harder, and the one that makes another.
DEEPER = ("constraints", "deepening", "concrete", "reasoning", "input")
BREADTH = "breadth"

_TASK: dict[Language, dict[str, str]] = {
    "english": {
        "constraints": "add one more requirement or limit to it",
        "deepening": "ask for more depth and breadth about what it asks",
        "concrete": "replace general words in it by more specific ones",
        "reasoning": "make it take several steps of reasoning, if few are enough now",
        "input": "add data to it that the answer needs, such as a table, code or a formula",
    },
    "korean": {
        "constraints": "요구 사항이나 제약을 하나 더하세요",
        "deepening": "묻는 것을 더 깊고 넓게 물으세요",
        "concrete": "일반적인 말을 더 구체적인 말로 바꾸세요",
        "reasoning": "몇 단계의 추론이 필요하게 만드세요",
        "input": "답에 필요한 자료(표, 코드, 수식 등)를 더하세요",
    },
}
_DEEPER: dict[Language, str] = {
    "english": (
        "Rewrite the instruction below so that it is somewhat harder, and still reasonable and understood by people: "
        "{task}. Add no more than 20 words. Reply with the rewritten instruction alone.\n\n{instruction}"
    ),
    "korean": (
        "아래 지시문을 조금 더 어렵게, 그러나 사람이 이해하고 답할 수 있게 고쳐 쓰세요: {task}. "
        "스무 낱말 넘게 더하지 마세요. 고쳐 쓴 지시문만 답하세요.\n\n{instruction}"
    ),
}
_BREADTH: dict[Language, str] = {
    "english": (
        "Write a new instruction of the same field as the one below, but about something rarer. It should be of about "
        "the same length and difficulty. Reply with the new instruction alone.\n\n{instruction}"
    ),
    "korean": (
        "아래 지시문과 같은 분야이지만 더 드문 것에 관한 새 지시문을 쓰세요. 길이와 난이도는 비슷해야 합니다. "
        "새 지시문만 답하세요.\n\n{instruction}"
    ),
}
_EQUAL: dict[Language, str] = {
    "english": (
        "Do these two instructions ask for the same, with the same requirements and the same depth? Reply with Equal "
        "or Not equal.\n\nFirst: {one}\n\nSecond: {other}"
    ),
    "korean": (
        "두 지시문이 같은 요구와 같은 깊이로 같은 것을 묻나요? 같음 또는 다름으로만 답하세요.\n\n"
        "첫째: {one}\n\n둘째: {other}"
    ),
}
_IS_EQUAL = re.compile(r"\W*(equal|같(?!지))", re.IGNORECASE)  # "같지 않음" is "not equal"
_SORRY = re.compile(r"\b(sorry|i cannot|i can't|as an ai)\b|죄송|할 수 없습니다", re.IGNORECASE)
# Tokens of an answer.
_LONGEST = 512
# A refusal is short.
_SHORT = 80
# Words that carry no meaning by themselves.
_STOP_WORDS = (
    "a an and are as at be but by for from i in is it of on or so that the this to was with you your "
    "은 는 이 가 을 를 의 에 와 과 도 그 저 및 등"
)
_STOP = frozenset(_STOP_WORDS.split())
# What an instruction has only where words of the prompt were copied.
_COPIED = re.compile(
    r"(given|rewritten|new|created|evolved) (prompt|instruction)|#\w+ ?prompt#|고쳐 쓴 지시문|새 지시문",
    re.IGNORECASE,
)

Failure = Literal["no-gain", "refusal", "no-words", "copied"]


@dataclass(frozen=True)
class Evolved:
    """An instruction that was made of another, with an answer.

    Args:
        instruction, answer: texts
        source: the instruction that it was made of
        way: one of `DEEPER`, or `BREADTH`
        round: from 1 on
    """

    instruction: str
    answer: str
    source: str
    way: str
    round: int

    def to_line(self, generator: str, licence: str) -> str:
        """A line of JSON that `train: sft` reads, which says where it comes from.

        Args:
            generator: name of the model that wrote it
            licence: of that model, which may bind what is made with it
        """
        messages = [
            {"role": "user", "content": self.instruction},
            {"role": "assistant", "content": self.answer},
        ]
        made = {"source": self.source, "way": self.way, "round": self.round}
        return json.dumps(
            {"messages": messages, "made": {**made, "generator": generator, "licence": licence}},
            ensure_ascii=False,
        )


def failed(source: str, made: str, answer: str, ask: Ask, language: Language = "english") -> Failure | None:
    """Why an evolution failed; None if it did not.

    Args:
        source: the instruction before.
        made: the instruction after.
        answer: to the latter.
        ask: is asked whether both are the same, if nothing else speaks against it.
        language: of the question.
    """
    if _COPIED.search(made):
        return "copied"
    if len(answer.split()) < _SHORT and _SORRY.search(answer):
        return "refusal"
    if not _words(answer):
        return "no-words"
    if _words(made) == _words(source) or _IS_EQUAL.match(
        ask(_EQUAL[language].format(one=source, other=made))
    ):
        return "no-gain"
    return None


def _words(text: str) -> list[str]:
    """Words that carry a meaning."""
    return [word for word in re.findall(r"\w+", text.casefold()) if word not in _STOP]


def evolve(
    instructions: Sequence[str],
    ask: Ask,
    *,
    rounds: int = 2,
    language: Language = "english",
    seed: int = 0,
    on_failure: Callable[[str, Failure], None] | None = None,
) -> Iterator[Evolved]:
    """Make instructions of instructions, with answers.

    An instruction whose evolution failed goes into the next round as it was.

    Args:
        instructions: to begin with.
        ask: a model.
        rounds: how often each is evolved.
        language: of the prompts.
        seed: of the choice among the ways.
        on_failure: called with an instruction that failed, and why.

    Yields:
        Each that did not fail, as soon as it is there.
    """
    random = np.random.default_rng(seed)
    pool = list(instructions)
    for number in range(1, rounds + 1):
        for place, source in enumerate(pool):
            way = (*DEEPER, BREADTH)[int(random.integers(len(DEEPER) + 1))]
            made = ask(_prompt(source, way, language)).strip()
            answer = ask(made).strip() if made else ""
            if failure := failed(source, made, answer, ask, language):
                if on_failure:
                    on_failure(made, failure)
                continue
            pool[place] = made
            yield Evolved(made, answer, source, way, number)


def ask_loaded(name: str, *, device: str = "auto", seed: int = 0) -> Ask:
    """A model that is loaded here.

    Raises:
        EvaluationError: it cannot be loaded.
    """
    from evaluation import load_model, reply

    model = load_model(name, device=device)

    def ask(message: str) -> str:
        pieces = reply(model, [{"role": "user", "content": message}], max_new_tokens=_LONGEST, seed=seed)
        return "".join(pieces)

    return ask


def ask_provider(name: str) -> Ask:
    """A model of an Inference Provider, with this machine's login; its owner is charged for it."""
    from huggingface_hub import InferenceClient

    client = InferenceClient(name)

    def ask(message: str) -> str:
        said = client.chat_completion([{"role": "user", "content": message}], max_tokens=_LONGEST)
        return said.choices[0].message.content or ""

    return ask


def _prompt(source: str, way: str, language: Language) -> str:
    if way == BREADTH:
        return _BREADTH[language].format(instruction=source)
    return _DEEPER[language].format(task=_TASK[language][way], instruction=source)
