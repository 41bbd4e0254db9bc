"""The rules of Korean: particles that follow the sound before them, and the phrases that sentences are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from checkpoints.wording import Template, Wording
from ui.languages.korean.remarks import REMARKS

# Whether the names of the digits end in a consonant: 영, 일, 이, 삼, 사, 오, 육, 칠, 팔, 구.
_DIGITS = {"0": 21, "1": 8, "2": 0, "3": 16, "4": 0, "5": 0, "6": 1, "7": 8, "8": 8, "9": 0}
_L = 8  # the final ㄹ, after which 으로 is 로


def _final(text: str) -> int | None:
    """The number of the consonant that a text ends in when it is spoken: 0 for none; None if that is not known."""
    last = text[-1:]
    if "가" <= last <= "힣":
        return (ord(last) - ord("가")) % 28
    return _DIGITS.get(last)


class KoreanWording(Wording):
    """Korean: nouns have no plural, and `{name:은|는}` is the particle that fits a value."""

    conjunction = ", "
    more = "{names} 외 {count}개"

    def form(self, value: Any, forms: Sequence[str]) -> str:
        """The first form follows a consonant, the second a vowel; both where the sound is not known, as in 은(는)."""
        final = _final(str(value))
        if final is None:
            return f"{forms[0]}({forms[-1]})"
        follows_vowel = final == 0 or (final == _L and forms[0].startswith("으로"))
        return forms[-1] if follows_vowel else forms[0]


PHRASES: dict[str, Template] = {
    "card-no-yaml": "올바른 YAML이 아닙니다({words})",
    "card-no-mapping": "올바른 YAML이 아닙니다(`이름: 값` 모음이어야 합니다)",
    "card-no-models": "model-index가 모델의 목록이 아닙니다",
    "card-no-results": "model-index에 결과의 목록이 없습니다",
    "card-no-metrics": "model-index에 지표의 목록이 없습니다",
    "card-entangled": "model-index만 따로 고칠 수 없게 되어 있습니다",
    "recipe": "레시피",
    "model-entry": "모델 항목",
    "source": "source 항목",
    "slice": "슬라이스",
    "module": "모듈",
    "tokenizer": "tokenizer",
    "token": "토큰",
    "zero-row": "0으로 된 행",
    "model-token": "모델의 토큰",
    "model": "모델",
    "model-path": "모델의 path",
    "adapter": "어댑터",
    "filtered-value": "필터가 있는 값",
    "name": "이름",
    "expert": "전문가",
    "prompt": "프롬프트",
    "gate_mode": "게이트 방식",
    "shared_weights": "`base` 또는 `average`",
    "merge-method": "병합 방법의 이름",
    "dtype": "dtype",
    "chat-template": "채팅 템플릿",
    "model-class": "모델 클래스의 이름",
    "path": "경로",
    "revision": "리비전",
    "number": "숫자",
    "numbers-by-name": "모듈 이름에 따른 숫자 모음",
    "names": "이름 목록",
    "token-numbers": "토큰 번호 목록",
    "search-block": "`search:` 항목",
    "search-range": "범위",
    "search-budget": "예산",
    "search-split": "나누기",
    "search-goal": "목표",
    "search-parts": "부분별 글",
    "genome-file": "mergekit-evolve 파일",
    "genome": "genome",
    "genome-task": "과제",
    "changed-space": "탐색 공간",
    "changed-parents": "부모",
    "changed-data": "데이터",
    "mapping": "`이름: 값` 모음",
    "list": "목록",
    "empty-list": "빈 목록",
    "shape-instead": "{name} {found} (다른 모델은 {expected})",
    "shape-of": "{name} {shape}",
    "several-dtypes": "{name}의 dtype이 여럿: {dtypes}",
    "misfit-shape": "{name}의 모양은 {found}, 베이스는 {expected}",
    "misfit-dtype": "{name}에는 부동소수점 수가 없음",
    "misfit-rows": "{name}의 행은 모양이 {found}인데 {expected}의 토큰 {count}개를 위한 것",
    "misfit-factors": "{name}의 입력과 출력은 {inputs}, {outputs}인데 베이스는 {expected}",
    "misfit-magnitudes": "{name}의 크기 벡터가 출력 수({outputs})와 다름",
    "misfit-bias": "{name}: 더하는 편향 {count}개",
    "misfit-product": "{name}의 곱이 베이스의 모양과 다름(베이스: {expected})",
    "misfit-ia3": "{name}의 계수는 {count}개, 베이스는 {expected}",
    "vocabulary-size": (
        "{model}: 행 {rows}개, 토큰 {tokens}개, 그중 {lacking}개는 다른 모델에 없음({alone:few})",
        "{model}: 행 {rows}개, 토큰 {tokens}개",
    ),
    "approximated-by": "{rule} {count}개",
    "weights-cancel": "비중 {weights}의 합이 0이라 정규화할 수 없습니다",
    "keep-probabilities": "값을 남길 확률은 0과 1 사이여야 합니다. {wrong:all}",
    "keep-probability": "density {density}, epsilon {epsilon}이면 {low}부터 {high}까지입니다",
    "template-endless": "끝나지 않습니다",
    "doing-loading": "불러오는",
    "doing-trying": "시험하는",
    "doing-benchmark": "벤치마크에 답하는",
    "doing-answering": "답하는",
    "doing-reading": "글을 읽는",
    "doing-applying": "베이스에 합치는",
    "doing-scoring": "채점하는",
    "doing-training": "학습하는",
    "whole-number": "정수",
    "rows-texts": "글(문자열, `text`, `messages`, 또는 `prompt`와 `completion`)",
    "rows-conversations": "대화(`messages`, 또는 `prompt`와 `completion`)",
    "rows-preferences": "선호(`prompt`, `chosen`, `rejected`, 또는 채팅 탭의 투표)",
}

WORDING = KoreanWording({**PHRASES, **REMARKS})
