"""What is wrong with an answer at first sight: plain rules, no model judges. docs/judging.md has their precision."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

Fault = Literal["empty", "repeated", "cut", "wrong language"]
FAULTS: dict[Fault, str] = {
    "empty": "no letter, digit or emoji in the answer",
    "repeated": "words or characters repeat in a row, or most runs of four words occur more than once",
    "cut": "it was still writing when it reached the longest answer",
    "wrong language": "a good part of it is neither in the language of the question nor in one that it names",
}

# Code, links and formulas have no language.
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\$\$.*?\$\$|<[^<>\n]*>", re.DOTALL)
_CODE_LINE = re.compile(
    r"[{}\[\];=]|\w\(.*\)|^\s*(?:def|class|import|from|return|for|while|if|else|elif|try|print|select|insert|update|do"
    r"|done|const|let|var|function)\b.*[:;(]|^\s*[\w.-]+:\s*[\w./-]*$|^\s*SELECT\b",
    re.MULTILINE,
)
# Numbers of lists: "1.", "(2)", "Step 3:", "- [ ]".
_LIST_NUMBER = re.compile(
    r"(?:^|(?<=\s))(?:\(?\d+[.):]+|step \d+\W|[-*•](?: \[.?\])?)(?=\s)", re.IGNORECASE | re.MULTILINE
)
# What people write when they laugh is long without being a loop.
_LAUGHTER = frozenset("ㅋㅎ")

# Languages by what questions call them, and the scripts they are written in if not in Latin letters.
_NAMES = {
    "en": r"english|영어|영문", "ko": r"korean|한국어|한글|우리말", "fr": r"french|français|프랑스어|불어",
    "de": r"german|deutsch|독일어", "es": r"spanish|español|스페인어", "it": r"italian|이탈리아어",
    "pt": r"portuguese|포르투갈어", "nl": r"dutch|네덜란드어", "la": r"latin\b|라틴어", "tr": r"turkish|터키어",
    "pl": r"polish|폴란드어", "sv": r"swedish|스웨덴어", "vi": r"vietnamese|베트남어", "id": r"indonesian|인도네시아어",
    "ja": r"japanese|일본어|일어", "zh": r"chinese|mandarin|중국어|한자", "ru": r"russian|러시아어",
    "ar": r"arabic|아랍어", "hi": r"hindi|힌디어", "el": r"greek|그리스어", "th": r"thai\b|태국어",
    "he": r"hebrew|히브리어",
}  # fmt: skip
_TRANSLATE = re.compile(r"translat|번역|통역|traduis|übersetz", re.IGNORECASE)
_SCRIPTS = {
    "ko": {"HANGUL"}, "ja": {"HIRAGANA", "KATAKANA", "CJK"}, "zh": {"CJK"}, "ru": {"CYRILLIC"}, "ar": {"ARABIC"},
    "hi": {"DEVANAGARI"}, "el": {"GREEK"}, "th": {"THAI"}, "he": {"HEBREW"},
}  # fmt: skip
_LATIN = [language for language in _NAMES if language not in _SCRIPTS and language != "la"]
# Characters of a typical word in scripts without spaces.
_UNSPACED = {"CJK": 2, "HIRAGANA": 3, "KATAKANA": 3, "THAI": 4}

# Tuned on one half of the labelled answers, see tests/evaluation/test_faults.py.
_FOREIGN_SHARE = 0.3
_LATIN_SHARE = 0.5
_LETTERS_TO_TELL, _SURE = 24, 0.9
_LOOP_LENGTH = 24.0
_LEAST_DISTINCT, _RUNS_TO_TELL = 0.7, 10


def faults(prompt: str, answer: str, *, cut: bool) -> tuple[Fault, ...]:
    """What is wrong with an answer, by the rules in FAULTS.

    Args:
        prompt: what was asked.
        answer: what came.
        cut: whether it reached its longest length.
    """
    prompt, answer = (unicodedata.normalize("NFC", text) for text in (prompt, answer))
    found: list[Fault] = []
    if _is_empty(answer):
        found.append("empty")
    if _is_repeated(answer):
        found.append("repeated")
    if cut:
        found.append("cut")
    if _is_in_wrong_language(prompt, answer):
        found.append("wrong language")
    return tuple(found)


def _is_empty(answer: str) -> bool:
    kinds = {unicodedata.category(character) for character in answer.strip()}
    if any(kind[0] in "LN" or kind == "So" for kind in kinds):
        return False
    return not (len(answer.strip()) == 1 and kinds <= {"Sm", "Sc"})  # a sign that was asked for, such as "+"


# -- repetition ------------------------------------------------------------------------------------


def _is_repeated(answer: str) -> bool:
    text = _LIST_NUMBER.sub(" ", answer.casefold())
    prose = "\n".join(line for line in _CODE.sub("", text).splitlines() if not _CODE_LINE.search(line))
    words = re.findall(r"\w+", prose)
    return (
        any(map(_is_looped_word, re.findall(r"\S+", answer.casefold())))
        or _has_loop(words, times=3)
        or _has_loop(re.findall(r"\w+", text), times=9)  # code may say a thing a few times
        or _is_monotonous(words)
    )


def _is_looped_word(word: str) -> bool:
    """Whether something is said again and again without a space."""
    if found := re.search(r"([^\W\d_])\1{7,}", word):
        return found[1] not in _LAUGHTER or len(found[0]) > 15
    letters = re.sub(r"[^\w=]", "", word)
    return any(
        _length(found[0]) >= _LOOP_LENGTH
        and (re.search(r"[^\W\d]", found[1]) or len(found[0]) > 20 * len(found[1]))
        for found in re.finditer(r"(.{2,40}?)\1{3,}", letters)
    )


def _has_loop(words: Sequence[str], *, times: int) -> bool:
    """Whether a few words repeat this many times in a row, or a single word twice as many times."""
    for size in range(1, len(words) // times + 1):
        repeated = 0
        for at in range(size, len(words)):
            repeated = repeated + 1 if words[at] == words[at - size] else 0
            rounds = 1 + repeated / size
            if rounds >= times * (2 if size == 1 else 1):
                loop = "".join(words[at - size - repeated + 1 : at + 1])
                if _length(loop) >= _LOOP_LENGTH and not loop.isdecimal():
                    return True
    return False


def _is_monotonous(words: Sequence[str]) -> bool:
    """Whether most runs of four words occur more than once."""
    runs = [tuple(words[at : at + 4]) for at in range(len(words) - 3)]
    return len(runs) >= _RUNS_TO_TELL and len(set(runs)) < _LEAST_DISTINCT * len(runs)


def _length(text: str) -> float:
    """Letters, those of scripts with large alphabets counted as the two or three that they stand for."""
    return sum(2.5 if _script(character) in ("HANGUL", "CJK") else 1.0 for character in text)


# -- language --------------------------------------------------------------------------------------


def _is_in_wrong_language(prompt: str, answer: str) -> bool:
    lines = _CODE.sub(" ", answer).splitlines()
    prose = "\n".join(line for line in lines if not _CODE_LINE.search(line))
    shares = _scripts(prose)
    expected = _expected(prompt)
    if not shares or not expected:
        return False
    scripts = set().union(*(_SCRIPTS.get(language, {"LATIN"}) for language in expected))
    total = sum(shares.values())
    foreign = sum(share for script, share in shares.items() if script not in scripts | {"LATIN"})
    if foreign >= _FOREIGN_SHARE * total:
        return True
    if "LATIN" not in scripts:
        return shares["LATIN"] > _LATIN_SHARE * total and not _are_names(prose)
    return shares["LATIN"] > _LATIN_SHARE * total and _latin_language(prose) not in {*expected, None}


def _expected(prompt: str) -> set[str]:
    """The languages that an answer may be in; none for all."""
    named = {language for language, names in _NAMES.items() if re.search(names, prompt, re.IGNORECASE)}
    if not named and _TRANSLATE.search(prompt):
        return set()
    shares = _scripts(prompt)
    own = {
        language
        for language, scripts in _SCRIPTS.items()
        if scripts & shares.keys()
        and (language != "zh" or not shares.keys() & {"HANGUL", "HIRAGANA", "KATAKANA"})
    }
    if shares["LATIN"] > _LATIN_SHARE * sum(shares.values()):
        own.add(_latin_language(prompt) or "en")
    return named | own


def _scripts(text: str) -> Counter[str]:
    """How many words of a text are in each script."""
    found: Counter[str] = Counter()
    for word in re.findall(r"[^\W\d_]+", text):
        scripts = Counter(map(_script, word))
        if "HANGUL" in scripts:
            found["HANGUL"] += 1
            continue
        for script, count in scripts.items():
            found[script] += count / _UNSPACED[script] if script in _UNSPACED else count / len(word)  # type: ignore[assignment]
    return found


@cache
def _script(character: str) -> str:
    """The script of a letter, as its name in Unicode begins."""
    return unicodedata.name(character, "").partition(" ")[0]


def _are_names(text: str) -> bool:
    """Whether a text may be a few names, which are written alike in many languages."""
    words = re.findall(r"\w+", text)
    return len(words) <= 8 and all(word[0].isupper() or word[0].isdigit() or len(word) <= 3 for word in words)


def _latin_language(text: str) -> str | None:
    """The language of a text in Latin letters; None where it is too short or not clear."""
    letters = re.sub(r"[^A-Za-zÀ-ɏ'\s]+", " ", text)
    if len(re.findall(r"\S", letters)) < _LETTERS_TO_TELL:
        return None
    language, confidence = _identifier().classify(letters)
    return str(language) if confidence >= _SURE else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # most of a second

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(_LATIN)
    return identifier
