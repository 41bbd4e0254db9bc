"""Whether a model still talks: plain rules on its answers to a few bundled prompts. No model judges them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from checkpoints.problems import Cancelled
from evaluation.answering_model import AnsweringModel
from evaluation.chat import reply
from evaluation.faults import FAULTS, Fault, faults

PROMPTS = (
    "What is the capital of Italy?",
    "Why is the sky blue? Answer in two sentences.",
    "Write one sentence about a dog and a river.",
    "How many days are in a week?",
    "Give me three tips for a good night's sleep.",
    "Translate into French: Good morning.",
    "대한민국의 수도는 어디입니까?",
    "하늘은 왜 파란색입니까? 두 문장으로 답하세요.",
    "강아지에 대한 문장을 하나 써 주세요.",
    "일주일은 며칠입니까?",
    "잠을 잘 자는 방법을 세 가지 알려 주세요.",
    "자기소개를 해 주세요.",
)


@dataclass(frozen=True)
class Checked:
    """One answer.

    Attributes:
        prompt: what was asked.
        answer: what came.
        faults: what is wrong with it, by FAULTS.
    """

    prompt: str
    answer: str
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class ChatCheck:
    """A model's answers.

    Attributes:
        model: its name.
        commit: its commit on the Hub, None for a folder.
        answers: a prompt each.
        ran_as: number format of the weights, and the program if that is not transformers; "" if it is not known.
    """

    model: str
    commit: str | None
    answers: tuple[Checked, ...]
    ran_as: str = ""

    @property
    def counts(self) -> dict[Fault, int]:
        """How many answers have each fault."""
        found = Counter(fault for one in self.answers for fault in one.faults)
        return {fault: found[fault] for fault in FAULTS}

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, with the rules."""
        return {**asdict(self), "counts": self.counts, "rules": FAULTS}


def check_chat(
    model: AnsweringModel,
    prompts: Sequence[str] = PROMPTS,
    *,
    max_new_tokens: int = 128,
    on_progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> ChatCheck:
    """Let a model answer each prompt, always with the likeliest token, and look at the answers.

    Args:
        model: the model.
        prompts: questions in English or Korean.
        max_new_tokens: where an answer is cut.
        on_progress: called with the prompts answered and the prompts in all.
        cancel: when set, the work ends within a token.

    Raises:
        EvaluationError: the model cannot answer.
        Cancelled: `cancel` was set.
    """
    checked = []
    for number, prompt in enumerate(prompts, 1):
        answer = reply(
            model,
            [{"role": "user", "content": prompt}],
            max_new_tokens=max_new_tokens,
            temperature=0,
            stop=cancel,
        )
        text = "".join(answer)
        if cancel is not None and cancel.is_set():
            raise Cancelled
        checked.append(Checked(prompt, text, faults(prompt, text, cut=answer.finish == "length")))
        if on_progress is not None:
            on_progress(number, len(prompts))
    return ChatCheck(model.name, model.commit, tuple(checked), model.runs_as)
