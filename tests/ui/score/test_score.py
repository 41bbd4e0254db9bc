"""The Score tab: benchmarks, weights and sizes beside parents, stopped, taken home, and written into the card."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from axe_playwright_python.sync_playwright import Axe
from huggingface_hub import ModelCard
from playwright.sync_api import Browser, expect
from safetensors.torch import load_file, save_file

from evaluation import Cancelled, FetchedModel, TextSource, difference, fetch_model, load_fetched, perplexity
from evaluation.benchmarked import Benchmarked, TaskScore, Total
from evaluation.chat_check import check_chat
from evaluation.paired import paired
from evaluation.weights import inspect_weights, open_weights
from tests.hub import Hub
from tests.ui.conftest import event, visit
from tests.ui.speaker import tiny_speaker
from ui.host import Host
from ui.page import build_page, launch_settings
from ui.score import chat_check
from ui.score.benchmarks import BenchmarkAnswers, BenchmarkRow, Questions, benchmark_call, benchmark_table
from ui.score.findings import Findings
from ui.score.reading import TextRow
from ui.score.text import ScoredTexts
from ui.score.weights import SIGNALS, Looked, verdict_card
from ui.server import gpu
from ui.server.work import Turns, watched

TEXT = "The weights of models that grew from one base can be mixed. " * 60
SLOW = 300_000  # milliseconds, on a busy machine
QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A merge, its parents and their base; they can speak. Who changes one takes a copy."""
    folder = tmp_path_factory.mktemp("family")
    base = tiny_speaker(folder / "base")
    folders = {
        name: tiny_speaker(folder / name, seed, base) for seed, name in enumerate(("merge", "a", "b"), 1)
    }
    return {**folders, "base": base}


def with_own_merge(family: dict[str, Path], folder: Path) -> dict[str, Path]:
    """The family with a copy of the merge, to be changed."""
    return {**family, "merge": Path(shutil.copytree(family["merge"], folder / "merge"))}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with a group of two tasks in lm-eval's YAML, with their questions."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, count in (("letters", 12), ("digits", 8)):
        rows = [{"question": f"{name} {i}?", "A": "x", "B": "y", "answer": i % 2} for i in range(count)]
        data = folder / f"{name}.jsonl"
        data.write_text("\n".join(json.dumps(row) for row in rows))
        task = f"""
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["x", "y"]
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""
        (folder / f"{name}.yaml").write_text(task)
    # First by name, so that the page offers it first.
    group = {"group": "both", "task": ["letters", "digits"], "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "both.yaml").write_text(json.dumps(group))
    return folder


def questions(tasks: Path, tmp_path: Path, **changes: Any) -> Questions:
    return replace(Questions(("both",), tasks, None, 0, False, tmp_path / "cache"), **changes)


def models(family: dict[str, Path], *names: str) -> list[FetchedModel]:
    return [fetch_model(family[name]) for name in names]


def test_models_are_asked_one_after_the_other(family: dict[str, Path], tasks: Path, tmp_path: Path) -> None:
    here = models(family, "merge", "a")
    begun = [BenchmarkRow(model.name) for model in here]

    *on_the_way, last = benchmark_call(here, questions(tasks, tmp_path), begun, None, "cpu")

    assert any(rows[0].total and not rows[1].total for rows in on_the_way)
    one, two = [row.found for row in last]
    assert one and two
    [total] = one.totals
    assert (total.name, total.metric, total.questions) == ("both", "acc", 20)
    assert {score.task: len(score.answers) for score in one.scores} == {"letters": 12, "digits": 8}
    every = [value for score in one.scores for value in score.answers.values()]
    assert total.value == pytest.approx(sum(every) / 20)
    assert paired(one, two).questions == 20


def test_a_call_that_runs_out_of_time_leaves_the_rest_to_the_next(
    family: dict[str, Path], tasks: Path, tmp_path: Path
) -> None:
    here = models(family, "merge")
    begun = [BenchmarkRow(here[0].name)]

    *_, left = benchmark_call(here, questions(tasks, tmp_path), begun, 0, "auto")
    *_, done = benchmark_call(here, questions(tasks, tmp_path), left, None, "cpu")

    assert not left[0].ended
    assert done[0].found


def test_a_text_whose_reading_was_ended_is_gone_on_with(
    family: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    door = gpu.on_gpu

    def counted(seconds: int, *rest: Any) -> Any:
        asked.append(seconds)
        return door(seconds, *rest)

    monkeypatch.setattr(gpu, "on_gpu", counted)
    monkeypatch.setattr(gpu, "is_zero_gpu", lambda: True)
    monkeypatch.setattr(gpu.GpuCall, "seconds_left", lambda _: 0.0)  # a batch each
    score = event(build_page(Host.from_environment({})), "TextPanel._score")
    panel = score.__self__
    visitor = gr.Request(session_hash="visitor")
    visitor.session_hash = "visitor"

    def reading(kept: object, text: str = TEXT) -> Iterator[dict[Any, Any]]:
        given: dict[Any, Any] = dict.fromkeys(panel.fields.inputs)
        given |= {panel.fields.document: text, panel.models: [str(family["merge"])], panel.begun: kept}
        found: Iterator[dict[Any, Any]] = score(given, None, visitor)
        return found

    *_, whole = reading(None)
    in_all = len(asked)
    assert whole[panel.begun] is None and whole[panel.found] and in_all > 2

    lost = reading(None)
    kept = next(piece[panel.begun] for piece in lost if piece.get(panel.begun))
    lost.close()
    asked.clear()
    *_, last = reading(kept)
    assert len(asked) == in_all - 1
    assert last[panel.found].scores[0].nll_nats == whole[panel.found].scores[0].nll_nats

    asked.clear()
    *_, other = reading(kept, TEXT + ".")
    assert len(asked) == in_all
    assert other[panel.found].scores[0].tokens == whole[panel.found].scores[0].tokens + 1


def test_answers_are_checked_in_calls_of_any_length(
    family: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(chat_check, "MAX_NEW_TOKENS", 4)
    monkeypatch.setattr(gpu, "is_zero_gpu", lambda: True)
    monkeypatch.setattr(gpu.GpuCall, "seconds_left", lambda _: 0.0)  # an answer each
    check = event(build_page(Host.from_environment({})), "ChatPanel._check")
    panel = check.__self__
    visitor = gr.Request(session_hash="visitor")
    visitor.session_hash = "visitor"
    names = [str(family["merge"]), str(family["a"]), str(tmp_path / "nothing")]

    *on_the_way, last = check(names, None, visitor)
    shown, found = last[panel.table], last[panel.found]

    whole = [check_chat(load_fetched(model), max_new_tokens=4) for model in models(family, "merge", "a")]
    assert list(found.checks) == whole
    assert any("7 of 12 answered" in piece[panel.table] for piece in on_the_way)
    assert f'<th scope="row">{names[1]}</th><td class="number">' in shown
    assert "is neither a folder here nor a model" in shown and f"Answers of {names[0]}" in shown
    about = Findings(names[0], {"chat": found})
    assert f"| cut | {whole[0].counts['cut']} of 12 | {whole[1].counts['cut']} of 12 |" in about.markdown(
        ["chat"]
    )
    assert json.loads(about.json(["chat"]))["chat"]["models"][1]["counts"] == whole[1].counts


def test_what_a_model_cannot_be_asked_stands_in_its_line(
    family: dict[str, Path], tasks: Path, tmp_path: Path
) -> None:
    here = models(family, "merge")

    *_, rows = benchmark_call(
        here, questions(tasks, tmp_path, chat_template=True), [BenchmarkRow(here[0].name)], None, "cpu"
    )

    assert "has no chat template" in rows[0].trouble
    assert "has no chat template" in benchmark_table(rows)


def benchmarked(name: str, right: int) -> Benchmarked:
    scores = tuple(
        TaskScore(task, "1", "acc", right / 20, 0.1, dict(enumerate([1.0] * right + [0.0] * (20 - right))))
        for task in ("kmmlu_law", "kmmlu_math")
    )
    return Benchmarked(
        name, None, "float32", 5, False, 20, "0.4", scores, (Total("kmmlu", "acc", right / 20, 0.08, 40),)
    )


def asked() -> BenchmarkAnswers:
    one, two = benchmarked("<merge>", 16), benchmarked("parent", 5)
    return BenchmarkAnswers(("merge", "parent"), (one, two), (paired(one, two),))


def test_the_table_says_errors_and_what_can_be_said() -> None:
    found = asked()
    rows = [BenchmarkRow(one.model, found=one) for one in found.found] + [BenchmarkRow("late", 30, 120)]

    shown = benchmark_table(rows, found)

    assert "0.800 ± 0.080" in shown
    assert "&lt;merge&gt; scores higher than parent (+0.550 on 40 questions" in shown
    assert "30 of 120 answered" in shown
    assert 'aria-valuenow="25"' in shown
    assert "The 2 tasks of parent" in shown
    assert "<merge>" not in shown


def looked(family: dict[str, Path], base: bool = True) -> Looked:
    opened = {name: open_weights(folder) for name, folder in family.items()}
    found = inspect_weights(
        opened["merge"], [opened["a"], opened["b"]], base=opened["base"] if base else None, sample=None
    )
    return Looked(("merge", "a", "b"), found)


def test_every_signal_is_drawn_for_what_it_is_known_of(family: dict[str, Path]) -> None:
    found = looked(family)
    a, b = str(family["a"]), str(family["b"])

    assert found.signals() == list(SIGNALS)
    assert found.against("change") == [a, b]
    assert found.against("task_cosine") == [f"{a} | {b}"]
    assert found.against("norm") == [""]
    for signal in found.signals():
        picture = found.picture(signal, found.against(signal)[0])
        # Directions that fill the whole space overlap in any case.
        assert ("mlp.down_proj" if signal == "overlap" else "self_attn.q_proj") in picture, signal
    assert {"task_cosine", "sign_conflict", "overlap"}.isdisjoint(looked(family, base=False).signals())


def test_the_verdict_is_the_doctors(family: dict[str, Path], tmp_path: Path) -> None:
    family = with_own_merge(family, tmp_path)
    assert "alloy-good" in verdict_card(looked(family))
    weights = load_file(family["merge"] / "model.safetensors")
    weights[QUERY][0, 0] = float("nan")
    save_file(weights, family["merge"] / "model.safetensors", {"format": "pt"})

    spoilt = verdict_card(looked(family))

    assert "alloy-bad" in spoilt
    assert "holds NaN or Inf" in spoilt


def scored(family: dict[str, Path], *names: str) -> ScoredTexts:
    found = [perplexity(load_fetched(model), [TEXT]) for model in models(family, *names)]
    differences = tuple(difference(found[0], other, [TEXT]) for other in found[1:])
    rows = tuple(TextRow(one.model, score=one) for one in found)
    return ScoredTexts(
        tuple(str(family[name]) for name in names), rows, (TEXT,), TextSource("A text"), differences
    )


def test_findings_about_another_model_are_left_out(family: dict[str, Path]) -> None:
    text, other = scored(family, "merge"), scored(family, "a")
    weights = replace(looked(family), names=text.names)

    about = Findings.about_the_newest(weights, [text, None, weights, None])
    assert about and list(about.parts) == ["text", "weights"]
    about = Findings.about_the_newest(other, [other, None, weights, None])
    assert about and list(about.parts) == ["text"]
    assert Findings.about_the_newest(None, [None] * 4) is None


def test_what_is_taken_home_says_everything(family: dict[str, Path]) -> None:
    text = scored(family, "merge", "a")
    about = Findings(text.names[0], {"text": text, "benchmarks": asked(), "weights": looked(family)})

    markdown, data = about.markdown(list(about.parts)), json.loads(about.json(list(about.parts)))

    assert "### Perplexity" in markdown and "Text: A text" in markdown
    assert "| kmmlu, acc | 0.8000 ± 0.0800 | 0.2500 ± 0.0800 |" in markdown
    assert "Nothing wrong was found" in markdown
    assert data["text"]["differences"][0]["verdict"] == text.differences[0].verdict
    assert data["benchmarks"]["models"][0]["scores"][0]["questions"] == 20
    assert "answers" not in data["benchmarks"]["models"][0]["scores"][0]
    assert len(data["weights"]["tensors"]) == len(looked(family).found.tensors)
    assert about.markdown(["weights"]).startswith("### Weights")


@pytest.mark.parametrize("how", ["commit", "pull-request"])
def test_results_are_written_into_the_card_by_the_visitors_own_account(
    family: dict[str, Path], hub: Hub, how: str
) -> None:
    token = hub.add_user("ann")
    hub.put("ann/merge", family["merge"])
    page = build_page(Host.from_environment({"SPACE_ID": "you/alloy"}))
    write = event(page, "ReportPanel._write")
    about = Findings("ann/merge", {"text": scored(family, "merge", "a"), "benchmarks": asked()})

    refused = write(about, ["text"], how, None)
    said = write(about, ["text", "benchmarks"], how, gr.OAuthToken(token, "", 0))

    assert "Sign in with Hugging Face first" in refused
    assert ("Written to" if how == "commit" else "Proposed to") in said
    assert token not in said
    card = ModelCard.load("ann/merge", token=token) if how == "commit" else None
    if card is None:
        assert re.search(r"/ann/merge/discussions/\d+", said)
        assert "README.md" not in hub.repo("ann/merge").files("main")
        return
    assert "## Evaluation" in card.text and "### Benchmarks" in card.text
    assert {"perplexity", "bits_per_byte", "acc"} <= {one.metric_type for one in card.data.eval_results}


def test_only_the_chosen_results_are_written(family: dict[str, Path], tmp_path: Path) -> None:
    family = with_own_merge(family, tmp_path)
    page = build_page(Host.from_environment({"ALLOY_RESULTS": str(tmp_path)}))
    about = Findings(str(family["merge"]), {"text": scored(family, "merge"), "weights": looked(family)})

    said = event(page, "ReportPanel._write")(about, ["weights"], "commit", None)
    nothing = event(page, "ReportPanel._write")(about, [], "commit", None)

    assert "Written to" in said
    card = (family["merge"] / "README.md").read_text()
    assert "### Weights" in card and "Perplexity" not in card and "model-index" not in card
    assert "No result was chosen" in nothing


def test_watched_work_tells_ends_and_fails() -> None:
    def work(tell: Callable[[Any], None], cancel: threading.Event) -> str:
        tell(1)
        assert not cancel.is_set()
        return "done"

    def endless(_: Callable[[Any], None], cancel: threading.Event) -> None:
        assert cancel.wait(60)
        raise Cancelled

    assert list(watched(work))[-1] == "done"
    with pytest.raises(Cancelled):
        list(watched(endless, seconds=0))
    listening: Any = watched(endless)
    assert next(listening) is None  # a heartbeat
    listening.close()


def test_a_page_stops_its_own_work_alone() -> None:
    turns = Turns()
    one, other = gr.Request(session_hash="one"), gr.Request(session_hash="other")
    one.session_hash, other.session_hash = "one", "other"

    with turns.of(one) as first, turns.of(other) as second:
        turns.stop(one)

        assert first.stopped.is_set() and not second.stopped.is_set()
    turns.stop(one)  # nothing runs


def test_stop_ends_everything_that_a_page_runs() -> None:
    turns, page = Turns(), gr.Request(session_hash="one")
    page.session_hash = "one"

    with turns.of(page) as warming_up, turns.of(page) as answering:
        turns.stop(page)
        assert warming_up.stopped.is_set() and answering.stopped.is_set()
        turns.forget(page)
        assert warming_up.forgotten.is_set() and answering.forgotten.is_set()


@pytest.fixture
def page_of_a_laptop(
    family: dict[str, Path], tasks: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    """A page with a merge, its parents and a benchmark at hand, and the login of their owner."""
    monkeypatch.setenv("HF_TOKEN", hub.add_user("ann"))
    monkeypatch.setattr(chat_check, "MAX_NEW_TOKENS", 4)
    for name, folder in family.items():
        hub.put(f"ann/{name}", folder)
    host = Host.from_environment(
        {
            "ALLOY_TASKS": str(tasks),
            "ALLOY_BENCHMARKS": str(tmp_path / "kept"),
            "ALLOY_RESULTS": str(tmp_path / "merged"),
        }
    )
    page: gr.Blocks = build_page(host)
    page.queue(default_concurrency_limit=4)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_settings(page, host))
    yield url
    page.close()


@pytest.mark.browser
@pytest.mark.timeout(1200)
def test_a_merge_is_judged_and_its_card_written(page_of_a_laptop: str, browser: Browser) -> None:
    with visit(browser, page_of_a_laptop) as seen:
        page = seen.page
        page.get_by_role("tab", name="Score").click()
        models = page.get_by_label("Models", exact=True)
        page.get_by_label("Clear").or_(page.get_by_title("Clear")).locator("visible=true").first.click()
        for name in ("ann/merge", "ann/a", "ann/b"):
            models.fill(name)
            models.press("Enter")
        models.press("Escape")
        idle = page.get_by_role("button", name="Stop", exact=True, disabled=True)
        expect(idle).to_have_count(1)

        page.get_by_role("button", name="Run benchmarks").click()
        page.get_by_role("button", name="Run", exact=True).click()
        figures = page.locator(
            ".alloy-overview tbody .number"
        )  # a row for each finding, a column for each model
        expect(figures).to_have_count(3)

        page.get_by_role("button", name="Check the answers").click()
        page.get_by_role("button", name="Run the check").click()
        expect(figures).to_have_count(2 * 3)
        expect(page.get_by_text("Faults in 12 answers per model")).to_be_hidden()

        page.get_by_role("button", name="Inspect weights").click()
        page.get_by_role("button", name="Base model and options").click()
        base = page.get_by_label("Base model", exact=True).locator("visible=true")
        base.fill("ann/base")
        base.press("Enter")
        page.get_by_label("Run the models too").check()
        page.get_by_role("button", name="Inspect", exact=True).click()
        expect(page.get_by_role("heading", name="ann/merge looks sound")).to_be_visible()
        expect(page.get_by_text("Linear CKA of the hidden states")).to_be_visible()
        page.get_by_label("Signal", exact=True).click()
        page.get_by_role("option", name="Share of weights that the parents change").click()
        expect(page.get_by_role("heading", name="directions: ann/a and ann/b")).to_be_visible()

        page.get_by_role("button", name="Compare size and speed").click()
        page.get_by_role("button", name="Measure", exact=True).click()
        measured = page.get_by_role("row", name=re.compile("^perplexity"))
        expect(measured.get_by_role("cell")).to_have_text([re.compile(r"\d")] * 3, timeout=SLOW)
        expect(idle).to_have_count(5)
        assert "common." not in page.locator("body").text_content()

        expect(page.get_by_role("heading", name="Results for ann/merge")).to_be_visible()
        page.get_by_role("button", name="Copy or download").click()
        with page.expect_download() as taken:
            page.get_by_role("link", name="Download JSON").click()
        assert json.loads(Path(taken.value.path()).read_text()).keys() == {
            "model",
            "benchmarks",
            "chat",
            "weights",
            "sizes",
        }
        grave = [
            it for it in Axe().run(page).response["violations"] if it["impact"] in ("serious", "critical")
        ]
        assert not grave, [(it["id"], [node["html"][:200] for node in it["nodes"]]) for it in grave]

        page.get_by_role("checkbox", name="Weights").uncheck()
        page.get_by_role("button", name="Write to the card").click()
        expect(page.get_by_role("heading", name="Written to the card")).to_be_visible()
        card = ModelCard.load("ann/merge").text
        assert "### Benchmarks" in card and "### Weights" not in card
        assert seen.complaints == [] and seen.strangers == []
