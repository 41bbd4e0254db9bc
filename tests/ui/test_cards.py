"""Cards: what comes from outside is text, never markup."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evaluation import Difference, DocumentScore, Perplexity
from merging import Plan, Problem, Progress, Result
from merging.destinations import ResultPlace
from merging.licences import Parent
from merging.plan import PlannedAdapter, PlannedModel
from merging.tokenizers.report import TokenizerOf, TokenizerReport
from tests.ui.html import Tags
from ui.merge.job_card import job_card, lost_card, no_merges_card
from ui.merge.plan_card import Surroundings, plan_card, problems_card
from ui.score.reading import TextRow
from ui.score.score_table import score_table
from ui.score.token_picture import BETTER, DEEPEST, MAX_CHARACTERS, WORSE, token_picture
from ui.server.jobs import JobStatus
from ui.widgets.html import breakable, count, duration, link, size

EVIL = "<img src=x onerror=alert(1)>\"'&"
JOB = JobStatus(
    "id",
    EVIL,
    (EVIL,),
    "running",
    progress=Progress("merge", 50, 200, 1, 4, EVIL),
    rate=10.0,
    seconds_left=15.0,
)


def shown(html: str) -> Tags:
    tags = Tags(html)
    assert "img" not in tags.names
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    return tags


def test_problems_with_place_and_fix() -> None:
    text = shown(
        problems_card(
            [Problem("unknown-method", {"name": EVIL, "near": EVIL, "known": []}, EVIL), Problem("silent")]
        )
    ).text

    assert text.count(EVIL) == 3
    assert "2 problems to fix" in text


def test_tokenizers_stand_side_by_side() -> None:
    beside = TokenizerOf(EVIL, 258, 272, 2, 1, {"eos_token": EVIL, "pad_token": ""}, "other")
    report = TokenizerReport(EVIL, 260, 260, (EVIL,), {"eos_token": "</s>"}, EVIL, None, (beside,))

    text = shown(plan_card(Plan("", "linear", tokenizer=report))).text

    assert text.count(EVIL) == 5
    assert "eos_token" in text
    assert "260 tokens in 260 rows" in text


def test_a_plan() -> None:
    model = PlannedModel(EVIL, None, "0123456789", False, EVIL, 135_000_000, 270_000_000)
    plan = Plan(
        "",
        "linear",
        models=(model, replace(model, version="0123456780")),
        bytes_out=1_500_000_000,
        bytes_in=270_000_000,
        seconds=75,
    )

    text = shown(plan_card(replace(plan, warnings=(Problem("yaml", {"error": EVIL}),)))).text

    for part in (
        "Ready to merge",
        "1.5 GB",
        "270 MB",
        "75 s",
        "135 M",
        "0123456",
        "from 2 models",
        "no disk space needed",
    ):
        assert part in text
    assert text.count(EVIL) == 5


def test_a_plan_names_adapters_and_what_is_made_on_the_way() -> None:
    adapter = PlannedAdapter("you/lora", None, "abcdef0123", False, 0.5, 4_000_000)
    other = replace(adapter, name="you/other", scale=1.0)
    base = PlannedModel("you/base", None, "0123456789", False, "Llama", 135_000_000, 1)
    one, two = replace(base, adapters=(adapter,)), replace(base, adapters=(other,))
    stage = PlannedModel("first", None, "", True, "Llama", 9, 9, made_by=Plan("", "slerp", models=(one, two)))
    plan = Plan("", "linear", models=(stage, replace(base, name="you/third")))

    around = Surroundings((Parent("you/lora", "cc-by-nc-4.0"),))
    text = shown(plan_card(plan, around)).text

    for part in (
        "from 3 models",
        "firstintermediate merge: SLERP of you/base, you/base",
        "you/loraadapter on you/base, scaled by 0.5 abcdef01 Mcc-by-nc-4.0",
        "you/otheradapter on you/base abcdef0",
        "you/third",
    ):
        assert part in text


def test_a_plan_says_where_it_runs_and_what_of_the_quota_it_takes() -> None:
    plan = Plan("", "linear", bytes_out=10**9)

    laptop, space, zero = (
        shown(plan_card(plan, around)).text
        for around in (
            Surroundings(),
            Surroundings(on_space=True),
            Surroundings(on_space=True, on_zero_gpu=True),
        )
    )

    assert "Runs on this machine's CPU" in laptop
    assert "uses none of your GPU quota" in space
    assert "about 19 s of your GPU quota" in zero
    assert "about 19 s of your GPU quota" not in space


def test_a_running_job_has_a_bar_that_is_read_aloud() -> None:
    tags = shown(job_card(JOB))

    assert ("aria-valuenow", "25") in tags.attributes
    for part in ("1 of 4 tensors", "50 B of 200 B", "10 B/s", "15 s left", EVIL):
        assert part in tags.text


@pytest.mark.parametrize("state", ["waiting", "done", "failed", "cancelled"])
def test_other_states(state: str) -> None:
    result = Result("hf://you/x", f"https://hub/{EVIL}", None, 10, 1.0)
    job = replace(
        JOB,
        state=state,
        position=3,
        result=result,
        problems=(Problem("yaml", {"error": EVIL}),),
        log=((0.1, EVIL),),
    )

    tags = shown(job_card(job))

    assert {"waiting": "number 3 in the queue", "done": "Open you/x", "failed": EVIL, "cancelled": "Nothing"}[
        state
    ] in tags.text
    assert ("details" in tags.names) == (state != "waiting")


@pytest.mark.parametrize("only", [False, True])
def test_gguf_files_are_named_with_their_types(only: bool) -> None:
    here = "hf://you/x-GGUF" if only else "hf://you/x"
    beside = None if only else ResultPlace("hf://you/x-GGUF", "https://hub/you/x-GGUF", None)
    result = Result(here, "https://hub/you/x", None, 10, 1.0, gguf=beside)
    request = replace(JOB.request, gguf=("Q8_0", "BF16"), only_gguf=only)

    text = shown(job_card(replace(JOB, state="done", result=result, request=request))).text

    assert "GGUF files (Q8_0, BF16): you/x-GGUF" in text
    assert ("Open you/x" in text) == (not only)


@pytest.mark.parametrize("counts", [{}, {EVIL: 7}])
def test_numbers_that_are_none_are_shown_with_the_job_and_in_its_card(counts: dict[str, int]) -> None:
    result = Result("hf://you/x", "https://hub/x", None, 10, 1.0, not_finite=counts)
    request = replace(JOB.request, card="# x\n\n## Recipe\n")

    text = shown(job_card(replace(JOB, state="done", result=result, request=request))).text

    assert ("7 numbers of the result are infinite or NaN" in text) == bool(counts)
    assert ("7 numbers in 1 tensor." in text) == bool(counts)


@pytest.mark.parametrize("verified", [True, False])
def test_only_what_was_read_back_is_said_to_be_what_was_sent(verified: bool) -> None:
    result = Result("hf://you/x", "https://hub/you/x", None, 10, 1.0, verified, ("HTTP",), ("LFS", "Xet"))

    told = shown(job_card(replace(JOB, state="done", result=result))).text

    assert ("match what was uploaded" in told) == verified
    assert "Read via HTTP. Written via LFS, Xet." in told


def test_forgotten_jobs_are_mentioned() -> None:
    assert "server was restarted" in shown(lost_card()).text
    assert "Nothing merged yet" in shown(no_merges_card()).text


def test_links_lead_to_the_web_alone() -> None:
    assert link("javascript:alert(1)", "x") == "x"
    assert link(None, "<") == "&lt;"
    assert 'rel="noopener noreferrer"' in link("https://a/b", "x")


def score(bits: float, tokens: int) -> Perplexity:
    return Perplexity(
        model="m",
        commit=None,
        perplexity=10 * bits,
        nll_nats=1.0,
        tokens=tokens,
        bytes=100,
        characters=100,
        bits_per_byte=bits,
        bits_per_character=bits,
        context=2048,
        stride=1024,
        bos=False,
        dtype="bfloat16",
        seconds=1.25,
        documents=(),
    )


def test_scores_mark_the_best_and_warn_of_little_text() -> None:
    rows = [
        TextRow(EVIL, score=score(1.5, 500)),
        TextRow("b", score=score(1.2, 500)),
        TextRow("c", trouble=EVIL),
        TextRow("d", done=0.4),
    ]

    tags = shown(score_table(rows, 1234))

    for part in (
        "15.000",
        "1.5000",
        "12.000",
        "1.2000",
        "1.23 kB",
        "Only 500 tokens",
        "not scored",
        "reading 40%",
    ):
        assert part in tags.text
    assert [value for name, value in tags.attributes if name == "class" and value and "best" in value] == [
        "number best"
    ] * 2
    assert "different tokens" not in tags.text


def test_different_tokenizers_are_compared_by_bits_alone() -> None:
    tags = shown(
        score_table([TextRow("a", score=score(1.5, 2000)), TextRow("b", score=score(1.2, 2600))], 1000)
    )

    assert "different tokens" in tags.text
    assert "Only" not in tags.text
    assert [value for name, value in tags.attributes if name == "class" and value and "best" in value] == [
        "number best"
    ]


def test_differences_are_told_with_their_interval() -> None:
    rows = [TextRow("a", score=score(1.5, 2000)), TextRow("b", score=score(1.2, 2000))]
    worse = Difference("a", "b", 0.3, (0.1, 0.5), 1.2, (1.1, 1.3), 1000, 10)

    told = shown(score_table(rows, 1000, [worse, replace(worse, other="c", interval=None)], ["cut"])).text

    assert (
        "a predicts this text worse than b (+0.3000 bits per byte, 95 % interval +0.1000 to +0.5000)." in told
    )
    assert "Too little text to compare a with c" in told
    assert "cut" in told
    assert "Windows of 2048 tokens, a new one every 1024. No BOS token" in told


def test_no_difference_is_shown_with_what_would_decide_it() -> None:
    rows = [TextRow("a", score=score(1.5, 2000)), TextRow("b", score=score(1.5, 2000))]
    none = Difference("a", "b", 0.003, (-0.01, 0.016), 1, (0.9, 1.1), 1000, 12, None, 0.018, 30, 0.01)

    told = shown(score_table(rows, 1000, [none])).text
    of_blocks = shown(
        score_table(rows, 1000, [replace(none, documents=1, blocks=9, more_documents=None)])
    ).text
    decided = shown(score_table(rows, 1000, [replace(none, interval=(0.001, 0.005))])).text
    outlier = shown(score_table(rows, 1000, [replace(none, interval=None, has_outlier=True)])).text

    assert "usually shows differences of 0.0180 or more" in told
    assert "About 30 more documents like these would show a difference of 0.01." in told
    assert "Measured on 9 blocks of 1 document" in of_blocks and "more documents like" not in of_blocks
    assert "usually shows" not in decided and "worse" in decided
    assert "one of 12 documents differs from all others" in outlier


def test_the_picture_colours_what_got_better_and_worse_and_nothing_else() -> None:
    document = "<b> same worse better"
    ends = np.array([3, 8, 14, 21], np.int32)

    def read(nats: list[float]) -> Perplexity:
        one = DocumentScore(sum(nats), 4, 21, 21, 0, np.array(nats, np.float32), ends)
        return replace(score(1.0, 4), documents=(one,))

    merge = TextRow(EVIL, score=read([1, 1, 9, 1]))
    parent = TextRow("parent", score=read([1, 1.1, 1, 2]))

    tags = shown(token_picture(merge, parent, [document]))

    assert "<b> same worse better" in tags.text
    styles = [value for name, value in tags.attributes if name == "style" and value and "rgba" in value]
    assert len(styles) == 4  # two of the legend, two of the text
    assert "underline" in styles[2]
    assert "37,110,200" in styles[3]
    assert ("title", "+11.5 bits") in tags.attributes
    assert ("title", "-1.4 bits") in tags.attributes
    assert token_picture(merge, TextRow("waiting"), [document]) == ""


def test_a_long_picture_is_cut() -> None:
    size = 2 * MAX_CHARACTERS
    ends = np.arange(1, size + 1, dtype=np.int32)
    nats = np.ones(size, np.float32)
    whole = replace(score(1.0, size), documents=(DocumentScore(1, size, size, size, 0, nats, ends),))

    told = shown(token_picture(TextRow("a", score=whole), TextRow("b", score=whole), ["x" * size])).text

    assert told.count("x") == MAX_CHARACTERS
    assert "The first 8000 of 16000 characters" in told


def luminance(colour: tuple[float, float, float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("ink", [BETTER, WORSE])
@pytest.mark.parametrize(
    ("ground", "words"), [((255, 255, 255), (28, 25, 23)), ((28, 25, 23), (245, 245, 244))]
)
def test_coloured_text_keeps_a_contrast_of_4_5(
    ink: str, ground: tuple[float, ...], words: tuple[float, float, float]
) -> None:
    """The page's grounds and text colours are the neutral 900, 100 and white of its theme."""
    colour = tuple(map(int, ink.split(",")))
    mixed = [DEEPEST * over + (1 - DEEPEST) * under for over, under in zip(colour, ground, strict=True)]
    bright, dim = sorted([luminance((mixed[0], mixed[1], mixed[2])), luminance(words)], reverse=True)

    assert (bright + 0.05) / (dim + 0.05) >= 4.5


def test_numbers_as_people_say_them() -> None:
    assert [size(x) for x in (0, 999, 1000, 99_400, 513_000_000, 2.5e12)] == [
        "0 B",
        "999 B",
        "1 kB",
        "99.4 kB",
        "513 MB",
        "2.5 TB",
    ]
    assert [count(x) for x in (12, 134_515_008, 7_000_000_000)] == ["12", "135 M", "7 B"]
    assert [duration(x) for x in (0.04, 9.4, 61, 600, 9000, float("inf"))] == [
        "0.0 s",
        "9.4 s",
        "61 s",
        "10 min",
        "2.5 h",
        "?",
    ]


def test_long_names_are_broken_between_their_words() -> None:
    assert breakable("post_attention_layernorm, mlp.up") == "post_<wbr>attention_<wbr>layernorm, mlp.<wbr>up"
    assert "<script" not in breakable("_<script>._")


def test_no_time_is_left_of_a_moment() -> None:
    assert "left" in shown(job_card(JOB)).text
    assert "left" not in shown(job_card(replace(JOB, seconds_left=0.4))).text
