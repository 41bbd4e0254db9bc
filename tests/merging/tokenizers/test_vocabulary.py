"""Models of different vocabularies: whose row each token of the result gets, and that all files agree about it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from checkpoints import AlignedCheckpoint, Alignment, open_checkpoint
from checkpoints.aligned import Rows
from checkpoints.problems import Place
from examples.models import BASE, model_folder
from merging import Plan, make_plan, read_recipe, run_plan
from merging.__main__ import main
from merging.recipe.recipe import ModelReference, TokenizerSection
from merging.tokenizers.chat_preview import MESSAGES, rendered
from merging.tokenizers.tokenizer import Tokenizer
from merging.tokenizers.vocabulary import Vocabulary
from tests.hub import Hub
from tests.merging.test_against_mergekit import mergekit
from tests.tiny import save_tokenizer, tiny_llama

PLAIN = 258  # two special tokens and the bytes
EMBEDDING = "model.embed_tokens.weight"
# The words of a language that the base splits into bytes: a model trained on with a grown vocabulary, for Chat Vector.
GROWN = [("a", "b"), ("ab", "c"), ("x", "y")]
CHAT = ["<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`; `chat` and `talk` with two added tokens; `grown` with merges; `padded` with rows beyond its tokens.

    `bare` has no tokenizer; `untied` and `headed` have heads of their own, and one and two added tokens.
    """
    folder = tmp_path_factory.mktemp("models")
    base = tiny_llama(folder / "base", 0, vocab_size=PLAIN, bos_token_id=0, eos_token_id=1)
    save_tokenizer(base, template="{{ messages[0]['content'] }} and so on, in the base's manner")
    more: dict[str, Any] = {"dtype": torch.bfloat16, "bos_token_id": 0}
    chat = tiny_llama(folder / "chat", 1, vocab_size=PLAIN + 2, eos_token_id=PLAIN + 1, **more)
    save_tokenizer(chat, added=CHAT, template="<|im_start|>{{ messages[0]['content'] }}<|im_end|>")
    grown = tiny_llama(folder / "grown", 2, vocab_size=PLAIN + 3, eos_token_id=1, **more)
    save_tokenizer(grown, GROWN)
    padded = tiny_llama(folder / "padded", 3, vocab_size=272, eos_token_id=1, **more)
    save_tokenizer(padded)
    tiny_llama(folder / "bare", 4, vocab_size=PLAIN, **more)
    untied = tiny_llama(
        folder / "untied", 5, vocab_size=PLAIN + 1, eos_token_id=1, tie_word_embeddings=False, **more
    )
    save_tokenizer(untied, added=["<think>"])
    talk = tiny_llama(folder / "talk", 6, vocab_size=PLAIN + 2, eos_token_id=1, **more)
    save_tokenizer(talk, added=CHAT)
    headed = tiny_llama(
        folder / "headed", 7, vocab_size=PLAIN + 2, eos_token_id=1, tie_word_embeddings=False, **more
    )
    save_tokenizer(headed, added=CHAT)
    for path, end in ((base, 1), (chat, PLAIN + 1)):
        GenerationConfig(bos_token_id=0, eos_token_id=end, pad_token_id=end).save_pretrained(path)
    return folder


def recipe(folder: Path, *models: str, tokenizer: Any = None, **more: Any) -> dict[str, Any]:
    listed = [{"model": str(folder / model), "parameters": {"weight": 1.0}} for model in models]
    text = yaml.safe_dump({"merge_method": "linear", "models": listed, "dtype": "float32", **more})
    found: dict[str, Any] = yaml.safe_load(text)
    if tokenizer is not None:
        found["tokenizer"] = tokenizer
    return found


def merge(wanted: dict[str, Any], to: Path) -> Plan:
    plan = make_plan(read_recipe(yaml.safe_dump(wanted)), str(to))
    assert plan.problems == ()
    assert Plan.from_json(plan.to_json()) == plan
    run_plan(plan, str(to))
    return plan


def row(path: Path, token: str, name: str = EMBEDDING) -> torch.Tensor:
    """The row of a token in a model."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    tensors: dict[str, torch.Tensor] = {}
    for file in path.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors[name if name in tensors else EMBEDDING][tokenizer.get_vocab()[token]].float()


def test_a_union_has_every_token_and_the_row_of_its_only_owner(folder: Path, tmp_path: Path) -> None:
    plan = merge(recipe(folder, "base", "chat", "grown", tokenizer={"source": "union"}), tmp_path / "out")

    owners = {"<|im_start|>": ["chat"], "abc": ["grown"], "a": ["base", "chat", "grown"]}
    for token, models in owners.items():
        expected = torch.stack([row(folder / model, token) for model in models]).mean(0)
        torch.testing.assert_close(row(tmp_path / "out", token), expected)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == model.config.vocab_size == PLAIN + 5
    # `grown` has all words of the base and splits into longer ones: the union splits as it does.
    assert tokenizer.tokenize("abc<|im_end|>") == ["abc", "<|im_end|>"]
    tokens = tokenizer("abcd<|im_start|>xy", return_tensors="pt")
    assert tokenizer.decode(tokens["input_ids"][0]) == "abcd<|im_start|>xy"
    assert model(**tokens).logits.isfinite().all()
    assert not any(problem.code == "literal-tokens" for problem in plan.warnings)


def test_words_that_the_first_tokenizer_cannot_split_are_kept_as_literal_tokens(
    folder: Path, tmp_path: Path
) -> None:
    save_tokenizer(tiny_llama(tmp_path / "other", 9, vocab_size=PLAIN + 1), [("p", "q")])
    wanted = recipe(folder, "grown", tokenizer={"source": "union"})
    wanted["models"].append({"model": str(tmp_path / "other"), "parameters": {"weight": 1}})

    plan = merge(wanted, tmp_path / "out")

    [warning] = [problem for problem in plan.warnings if problem.code == "literal-tokens"]
    assert "'pq'" in warning.message
    torch.testing.assert_close(row(tmp_path / "out", "pq"), row(tmp_path / "other", "pq"))


@pytest.mark.parametrize("source", ["base", "chat"])
def test_the_vocabulary_of_one_model(source: str, folder: Path, tmp_path: Path) -> None:
    named = "base" if source == "base" else str(folder / source)
    wanted = recipe(folder, "base", "chat", tokenizer={"source": named}, base_model=str(folder / "base"))

    merge(wanted, tmp_path / "out")

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(folder / source).get_vocab()
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["vocab_size"] == len(tokenizer)
    if source == "chat":
        torch.testing.assert_close(row(tmp_path / "out", "<|im_end|>"), row(folder / "chat", "<|im_end|>"))


def configs(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and generation_config.json of a model."""
    config, generation = (
        json.loads((path / name).read_text()) for name in ("config.json", "generation_config.json")
    )
    return config, generation


def test_ids_in_the_configs_follow_the_tokens(folder: Path, tmp_path: Path) -> None:
    """The first model ends with `<|im_end|>`, which is another number in the result; its tokenizer ends with </s>."""
    merge(
        recipe(folder, "chat", "grown", tokenizer={"source": str(folder / "grown"), "tokens": {CHAT[1]: {}}}),
        tmp_path / "out",
    )

    number = AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()[CHAT[1]]
    config, generation = configs(tmp_path / "out")
    assert number == PLAIN + 3 != PLAIN + 1
    assert (config["bos_token_id"], config["eos_token_id"]) == (0, 1)
    # A model that was trained to end with either ends with either.
    assert (generation["eos_token_id"], generation["pad_token_id"]) == ([1, number], number)


@pytest.mark.parametrize("end", [CHAT[1], "</s>"])
def test_configs_begin_end_and_pad_as_the_chosen_tokenizer_does(
    end: str, folder: Path, tmp_path: Path
) -> None:
    """The base and the chosen tokenizer have each other's special tokens, and give them other roles."""
    talker = tiny_llama(tmp_path / "talker", 6, vocab_size=PLAIN + 2, bos_token_id=1, eos_token_id=PLAIN + 1)
    save_tokenizer(talker, added=CHAT, template="{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}")
    settings = json.loads((talker / "tokenizer_config.json").read_text())
    roles = {"bos_token": "</s>", "eos_token": CHAT[1], "pad_token": CHAT[0]}
    (talker / "tokenizer_config.json").write_text(json.dumps(settings | roles))
    GenerationConfig(bos_token_id=1, eos_token_id=[PLAIN + 1], pad_token_id=PLAIN).save_pretrained(talker)
    wanted = recipe(
        folder, "base", base_model=str(folder / "base"), tokenizer={"source": str(tmp_path / "talker")}
    )
    wanted["models"].append({"model": str(talker), "parameters": {"weight": 1.0}})

    merge(wanted, tmp_path / "out")

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    own = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert own == (1, PLAIN + 1, PLAIN)
    config, generation = configs(tmp_path / "out")
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == own
    assert (generation["bos_token_id"], generation["pad_token_id"]) == (1, PLAIN)
    assert generation["eos_token_id"] == [PLAIN + 1, 1]  # the base's </s> ends a text as before
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "abc"}], return_tensors="pt", return_dict=True
    )
    assert said["input_ids"][0, [0, -1]].tolist() == [1, PLAIN + 1]
    # Whichever end the model comes to, it stops there.
    number = tokenizer.convert_tokens_to_ids(end)
    answer = model.generate(**said, max_new_tokens=5, do_sample=False, sequence_bias=[[[number], 1e4]])
    assert answer.shape[1] == said["input_ids"].shape[1] + 1


def test_a_token_that_is_lost_is_replaced_by_that_of_the_new_tokenizer_or_told(
    folder: Path, tmp_path: Path
) -> None:
    """A model that ends on `<|im_end|>` gets a tokenizer without it, and would never stop."""
    wanted = recipe(
        folder, "chat", "grown", base_model=str(folder / "chat"), tokenizer={"source": str(folder / "grown")}
    )

    plan = merge(wanted, tmp_path / "out")

    config, generation = configs(tmp_path / "out")
    assert (config["bos_token_id"], config["eos_token_id"]) == (0, 1)
    assert (generation["bos_token_id"], generation["eos_token_id"], generation["pad_token_id"]) == (
        0,
        1,
        None,
    )
    [lost] = [warning for warning in plan.warnings if warning.code == "lost-token"]
    assert lost.message.startswith("pad_token_id in generation_config.json")
    text = AutoTokenizer.from_pretrained(tmp_path / "out")("abc", return_tensors="pt")
    answer = AutoModelForCausalLM.from_pretrained(tmp_path / "out").generate(
        **text, max_new_tokens=3, do_sample=False
    )
    assert answer.shape[1] > text["input_ids"].shape[1]


def test_the_words_of_a_chat_vector_with_a_grown_vocabulary(folder: Path, tmp_path: Path) -> None:
    """grown + (chat - base): new rows are the grown model's, the others follow the arithmetic."""
    wanted = recipe(
        folder, "chat", "grown", tokenizer={"source": str(folder / "grown")}, base_model=str(folder / "base")
    )
    wanted["merge_method"] = "task_arithmetic"

    merge(wanted, tmp_path / "out")

    torch.testing.assert_close(row(tmp_path / "out", "abc"), row(folder / "grown", "abc"))
    terms = [row(folder / model, "a") for model in ("grown", "chat", "base")]
    torch.testing.assert_close(row(tmp_path / "out", "a"), terms[0] + terms[1] - terms[2])


def test_padding_rows_are_averages_and_padding_of_parents_is_dropped(folder: Path, tmp_path: Path) -> None:
    wanted = recipe(folder, "base", "padded", tokenizer={"source": "base", "pad_to_multiple_of": 16})

    merge(wanted, tmp_path / "out")

    merged = load_file(tmp_path / "out/model.safetensors")[EMBEDDING]
    assert merged.shape[0] == 272
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 272
    torch.testing.assert_close(merged[PLAIN:], merged[:PLAIN].mean(0).expand(14, -1))
    plain = merge(recipe(folder, "base", "padded", tokenizer={"source": "base"}), tmp_path / "plain")
    assert next(t.shape for t in plain.tensors if t.name == EMBEDDING) == (PLAIN, 64)


def test_heads_and_tied_heads(folder: Path, tmp_path: Path) -> None:
    merge(recipe(folder, "untied", "chat", tokenizer={"source": "union"}), tmp_path / "out")

    for name in (EMBEDDING, "lm_head.weight"):
        for token, model in {"<think>": "untied", "<|im_end|>": "chat"}.items():
            torch.testing.assert_close(row(tmp_path / "out", token, name), row(folder / model, token, name))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.tie_word_embeddings is False


def test_a_stored_type_is_kept_and_bytes_are_copied(folder: Path, tmp_path: Path) -> None:
    wanted = recipe(
        folder, "chat", tokenizer={"source": str(folder / "grown")}, base_model=str(folder / "grown")
    )
    wanted |= {"merge_method": "passthrough"}
    del wanted["dtype"], wanted["models"][0]["parameters"]

    plan = merge(wanted, tmp_path / "out")

    assert {tensor.dtype for tensor in plan.tensors} == {"BF16"}
    merged = load_file(tmp_path / "out/model.safetensors")[EMBEDDING]
    chat, grown = (load_file(folder / name / "model.safetensors")[EMBEDDING] for name in ("chat", "grown"))
    assert torch.equal(merged, torch.cat([chat[:PLAIN], grown[PLAIN:]]))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_bytes_are_the_same_from_the_hub(
    hub: Hub, alice: str, folder: Path, tmp_path: Path, workers: int
) -> None:
    for name in ("base", "chat"):
        hub.put(f"alice/{name}", folder / name, private=True)
    wanted = recipe(folder, "base", "chat", tokenizer={"source": "union", "pad_to_multiple_of": 64})
    merge(wanted, tmp_path / "here")
    text = yaml.safe_dump(wanted).replace(f"{folder}/", "alice/")
    plan = make_plan(read_recipe(text), str(tmp_path / "there"), token=alice)
    assert plan.problems == ()

    run_plan(plan, str(tmp_path / "there"), token=alice, workers=workers)

    here, there = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("here", "there"))
    assert here == there


@pytest.mark.parametrize(
    ("tokenizer", "models", "code"),
    [
        ({"source": "union"}, ("base", "shapeless"), "no-tokenizer"),
        ({"source": "base", "tokens": {"<new>": {}}}, ("base", "chat"), "unknown-token"),
        (
            {"tokens": {"<new>": {"source": {"kind": "model_token", "model": "chat", "token": "<other>"}}}},
            ("base", "chat"),
            "unknown-source-token",
        ),
        (
            {"tokens": {"<new>": {"source": {"kind": "model_token", "model": "chat", "token_id": 9999}}}},
            ("base", "chat"),
            "unknown-token-id",
        ),
        (None, ("base", "chat"), "vocabulary"),
    ],
)
def test_what_cannot_be_aligned(
    tokenizer: Any, models: tuple[str, ...], code: str, folder: Path, tmp_path: Path
) -> None:
    tiny_llama(tmp_path / "shapeless", 7, vocab_size=300)
    text = yaml.safe_dump(recipe(folder, *models, tokenizer=tokenizer))
    text = text.replace("model: chat", f"model: {folder / 'chat'}")
    text = text.replace(str(folder / "shapeless"), str(tmp_path / "shapeless"))

    plan = make_plan(read_recipe(text), None)

    assert code in [problem.code for problem in plan.problems]
    assert all(problem.fix for problem in plan.problems)


def test_a_token_that_no_model_knows_is_told_where_it_stands(folder: Path) -> None:
    text = (
        yaml.safe_dump(recipe(folder, "base", "chat")) + "tokenizer:\n  tokens:\n    <new>: {}\n    <zero>:\n"
    )
    text += "      source: {kind: zero}\n"

    [problem] = make_plan(read_recipe(text)).problems

    line = 1 + text.splitlines().index("    <new>: {}")
    assert (problem.code, problem.message) == ("unknown-token", "No model has a token '<new>'.")
    assert isinstance(problem.where, Place)
    assert problem.where.line == line
    assert "`source: {kind: model_token, model: ..., token: ...}` or `{kind: zero}`" in problem.fix
    assert make_plan(read_recipe(text.replace("    <new>: {}\n", ""))).ok


def test_without_a_tokenizer_setting_the_plan_shows_what_differs(folder: Path) -> None:
    plan = make_plan(read_recipe(yaml.safe_dump(recipe(folder, "base", "chat", "padded"))), None)

    messages = [problem.message for problem in plan.problems if problem.code == "vocabulary"]
    assert len(messages) == 2
    assert (
        f"{folder / 'chat'} has 260 rows for 260 tokens, 2 of which others lack ('<|im_start|>'"
        in messages[0]
    )
    assert f"{folder / 'padded'} has 272 rows for 258 tokens" in messages[0]


def test_a_plan_reports_what_becomes_of_the_vocabulary(folder: Path) -> None:
    wanted = recipe(folder, "base", "chat", tokenizer={"source": "union"})

    told = {p.code: p.message for p in make_plan(read_recipe(yaml.safe_dump(wanted)), None).warnings}

    assert "260 rows for 260 tokens" in told["result-vocabulary"]
    assert "2 appended: '<|im_start|>', '<|im_end|>'" in told["result-vocabulary"]
    assert "2 chat templates" in told["templates-differ"]


def test_the_plan_shows_tokenizers_side_by_side_and_a_conversation(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = recipe(folder, "base", "chat", base_model=str(folder / "base"), tokenizer={"source": "union"})

    plan = merge({**wanted, "chat_template": "chatml"}, tmp_path / "out")

    report = plan.tokenizer
    assert report
    assert (report.tokens, report.rows, report.appended) == (PLAIN + 2, PLAIN + 2, tuple(CHAT))
    assert report.sample.endswith("<|im_start|>user\n안녕하세요?<|im_end|>\n<|im_start|>assistant\n")
    assert report.trouble is None
    base, chat = report.models
    assert (base.tokens, base.rows, base.unknown, base.lost, base.template) == (PLAIN, PLAIN, 2, 0, "other")
    assert (chat.tokens, chat.rows, chat.unknown, chat.lost) == (PLAIN + 2, PLAIN + 2, 0, 0)
    messages: Any = MESSAGES
    written = AutoTokenizer.from_pretrained(tmp_path / "out").apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert written == report.sample
    assert json.loads(json.dumps(plan.summary()))["tokenizer"]["models"][0]["unknown"] == 2
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(wanted))
    assert main(["plan", str(tmp_path / "r.yaml")]) == 0
    assert "2 of the result unknown to it" in capsys.readouterr().out


def test_a_template_whose_tokens_the_result_lacks_is_told(folder: Path) -> None:
    wanted = recipe(folder, "base", "grown", base_model=str(folder / "base"), tokenizer={"source": "base"})

    plan = make_plan(read_recipe(yaml.safe_dump({**wanted, "chat_template": "chatml"})))

    [told] = [warning.message for warning in plan.warnings if warning.code == "template-tokens"]
    assert told == "The chat template writes <|im_start|>, <|im_end|>, for which the result has no token."


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('a system prompt is a must') }}", "a system prompt is a must"),
        ("{% for message", "unexpected"),
        ("{{ ''.__class__.__mro__ }}", "is unsafe"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "template-endless",
        ),
    ],
)
def test_templates_are_strangers_programs(template: str, reason: str) -> None:
    found = rendered(template, {})

    assert found.text == ""
    assert reason in found.error


def test_a_model_without_a_tokenizer_is_taken_to_have_the_bases(folder: Path, tmp_path: Path) -> None:
    plan = merge(recipe(folder, "base", "bare", tokenizer={"source": "base"}), tmp_path / "out")

    assert "tokenizer-assumed" in [problem.code for problem in plan.warnings]


@pytest.mark.parametrize("wanted", ["auto", "chatml", "{{ messages[0]['content'] }} in words of our own"])
def test_a_chat_template_is_written(wanted: str, folder: Path, tmp_path: Path) -> None:
    save_tokenizer(
        tmp_path / "third", added=CHAT, template="<|im_start|>{{ messages[0]['content'] }}<|im_end|>"
    )
    tiny_llama(tmp_path / "third", 8, vocab_size=PLAIN)
    text = yaml.safe_dump(recipe(folder, "base", "bare", chat_template=wanted, tokenizer={"source": "base"}))

    plan = merge(yaml.safe_load(text), tmp_path / "out")

    said = AutoTokenizer.from_pretrained(tmp_path / "out").apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False
    )
    expected = {
        "auto": "Hello and so on, in the base's manner",
        "chatml": "<|im_start|>user\nHello<|im_end|>\n",
    }
    assert said == expected.get(wanted, "Hello in words of our own")
    assert "chat_template" not in json.loads(plan.files["tokenizer_config.json"])


def test_whose_row_a_token_gets_worked_by_hand() -> None:
    """Columns: a token's row in the base, one and two. `both` is in one and two, `old` in all, `mine` in one alone."""
    vocabularies = {
        "base": {"old": 0, "shared": 1},
        "one": {"old": 0, "mine": 1, "both": 2},
        "two": {"both": 0, "old": 1, "shared": 2},
    }
    base, one, two = models = [ModelReference(name) for name in vocabularies]
    tokenizers = {
        model: Tokenizer(model, {"model": {"type": "BPE", "vocab": vocabularies[model.name], "merges": []}})
        for model in models
    }

    vocabulary = Vocabulary(TokenizerSection("union"), tokenizers, {base: 2, one: 3, two: 3}, base)
    rows = {model: vocabulary.rows(model, {base: 0, one: 1, two: 2}) for model in models}

    assert vocabulary.ids == {"old": 0, "shared": 1, "mine": 2, "both": 3}
    mine, average = Rows(1, ((1, 1),)), Rows(1, ((1, 2), (2, 0)))
    # The base: its own two rows, the only owner's row, and the average of the two owners.
    assert rows[base] == (Rows(2, ((0, 0),)), mine, average)
    # One: its own rows but for `shared`, of which it gets the base's, though two has it as well.
    assert rows[one] == (Rows(1, ((1, 0),)), Rows(1, ((0, 1),)), Rows(2, ((1, 1),)))
    # Two: rows 1 and 2 of its own follow each other, then one's for `mine`, then its own.
    assert rows[two] == (Rows(2, ((2, 1),)), mine, Rows(1, ((2, 0),)))


def test_a_large_vocabulary_is_aligned_in_well_under_a_second() -> None:
    words = {f"word{number}": number for number in range(256_000)}
    first = {"model": {"type": "BPE", "vocab": words, "merges": []}}
    second = {"model": {"type": "BPE", "vocab": {**words, **{f"new{n}": 256_000 + n for n in range(9)}}}}
    a, b = ModelReference("a"), ModelReference("b")
    tokenizers = {a: Tokenizer(a, first), b: Tokenizer(b, second)}

    began = time.thread_time()
    vocabulary = Vocabulary(TokenizerSection("union"), tokenizers, {a: 256_000, b: 256_100}, a)
    rows = {model: vocabulary.rows(model, {a: 0, b: 1}) for model in tokenizers}
    vocabulary.check()
    seconds = time.thread_time() - began

    assert rows[a] == (Rows(256_000, ((0, 0),)), Rows(9, ((1, 256_000),)))
    assert rows[b] == (Rows(256_009, ((1, 0),)),)
    assert seconds < 3  # a tenth of it on a quiet machine; Python loops over rows would take far more


def test_any_part_of_an_aligned_tensor_can_be_read(folder: Path) -> None:
    models = [open_checkpoint(str(folder / name)) for name in ("base", "chat")]
    runs = (Rows(3, ((1, 4),)), Rows(2, ()), Rows(1, ((0, 7), (1, 9))), Rows(5, ((0, 100),)))
    aligned = AlignedCheckpoint(models[0], Alignment(runs, 2, {EMBEDDING: (EMBEDDING, EMBEDDING)}), models)
    header = aligned.tensors[EMBEDDING]
    whole = bytearray(header.nbytes)
    aligned.read_into(EMBEDDING, 0, memoryview(whole))

    for start, size in (
        (0, 4),
        (4 * 60, 4 * 70),
        (4 * 64 * 5 - 8, 4 * 64 + 16),
        (4 * 64 * 10 + 12, 4 * 64 * 2),
    ):
        part = bytearray(size)
        aligned.read_into(EMBEDDING, start, memoryview(part))
        assert part == whole[start : start + size]
    base, chat = (
        load_file(folder / name / "model.safetensors")[EMBEDDING].float() for name in ("base", "chat")
    )
    rows = torch.frombuffer(whole, dtype=torch.float32).view(-1, 64)
    real = torch.cat([chat[4:7], torch.zeros(2, 64), (base[7:8] + chat[9:10]) / 2, base[100:105]])
    torch.testing.assert_close(rows, torch.cat([real, real.mean(0).expand(2, -1)]))


ORACLE: dict[str, Any] = {
    "base": {"source": "base"},
    "union": {"source": "union"},
    "a model": {"source": "MODELS/chat"},
    "padded": {"source": "union", "pad_to_multiple_of": 32},
    "forced": {
        "source": "union",
        "tokens": {
            CHAT[0]: {"source": "MODELS/chat", "force": True},
            "a": {"source": "MODELS/chat", "force": True},
        },
    },
    "of another token": {
        "source": "union",
        "tokens": {
            CHAT[0]: {"source": {"kind": "model_token", "model": "MODELS/base", "token": "Z"}},
            CHAT[1]: {
                "source": {"kind": "model_token", "model": "MODELS/chat", "token_id": 17},
                "force": True,
            },
        },
    },
    "zeros": {"source": "union", "tokens": {CHAT[1]: {"source": {"kind": "zero"}}}},
}


@pytest.mark.oracle
@pytest.mark.parametrize("case", ORACLE)
def test_rows_are_those_of_mergekit(case: str, folder: Path, tmp_path: Path) -> None:
    text = yaml.safe_dump(
        recipe(folder, "base", "chat", "padded", tokenizer=ORACLE[case], base_model=str(folder / "base"))
    )
    wanted = yaml.safe_load(text.replace("MODELS", str(folder)))

    merge(wanted, tmp_path / "ours")
    mergekit(wanted, tmp_path / "theirs")

    ours, theirs = (AutoTokenizer.from_pretrained(tmp_path / name).get_vocab() for name in ("ours", "theirs"))
    assert ours == theirs
    torch.testing.assert_close(
        load_file(tmp_path / "ours/model.safetensors")[EMBEDDING],
        load_file(tmp_path / "theirs/model.safetensors")[EMBEDDING],
        rtol=1e-5,
        atol=1e-6,
    )


# Models, the first of them the base, and what a recipe says otherwise than for a union by `linear`.
ORACLE_RECIPES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "rows of tokens that two models have and the base lacks": (("base", "chat", "talk"), {}),
    "untied heads": (("untied", "headed"), {}),
    "the older spelling": (("base", "chat"), {"tokenizer": None, "tokenizer_source": "union"}),
    "the older spelling, the base's": (("base", "chat"), {"tokenizer": None, "tokenizer_source": "base"}),
    "task vectors": (("base", "chat", "talk"), {"merge_method": "task_arithmetic"}),
    "task vectors, the vocabulary of a model": (
        ("base", "chat", "talk"),
        {"merge_method": "task_arithmetic", "tokenizer": {"source": "MODELS/talk"}},
    ),
}


@pytest.mark.oracle
@pytest.mark.parametrize("case", ORACLE_RECIPES)
def test_tensors_with_a_row_a_token_are_those_of_mergekit(case: str, folder: Path, tmp_path: Path) -> None:
    models, said = ORACLE_RECIPES[case]
    more = {"tokenizer": {"source": "union"}, "base_model": str(folder / models[0]), **said}
    is_task = more.get("merge_method") == "task_arithmetic"
    listed = recipe(folder, *models[is_task:]) | {key: value for key, value in more.items() if value}
    wanted = yaml.safe_load(yaml.safe_dump(listed).replace("MODELS", str(folder)))

    merge(wanted, tmp_path / "ours")
    mergekit(wanted, tmp_path / "theirs")

    ours, theirs = (AutoTokenizer.from_pretrained(tmp_path / name).get_vocab() for name in ("ours", "theirs"))
    assert ours == theirs
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    names = [name for name in (EMBEDDING, "lm_head.weight") if name in ours]
    assert len(names) == 1 + (models[0] == "untied")
    for name in names:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.real_models
@pytest.mark.parametrize("method", ["linear", "slerp", "chat_vector"])
def test_the_demos_korean_sibling_keeps_its_added_tokens_in_a_merge(method: str, tmp_path: Path) -> None:
    base, korean, pirate = (
        model_folder(name) for name in (BASE, "SmolLM2-135M-Korean", "SmolLM2-135M-Pirate")
    )
    others = {"linear": (base, korean), "slerp": (base, korean), "chat_vector": (korean, pirate)}[method]
    parameters = {"linear": {"weight": 0.5}, "slerp": {"t": 0.5}, "chat_vector": {}}[method]
    wanted = {"merge_method": method, "base_model": str(base), "parameters": parameters, "dtype": "bfloat16"}
    wanted["models"] = [{"model": str(model)} for model in others]
    if method != "chat_vector":
        wanted["tokenizer_source"] = "union"

    merge(wanted, tmp_path / "out")

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    old = AutoTokenizer.from_pretrained(base).get_vocab()
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(korean).get_vocab()
    assert len(tokenizer) == model.config.vocab_size == len(old) + 32
    assert tokenizer.eos_token_id == model.config.eos_token_id == model.generation_config.eos_token_id
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "안녕하세요? 잘 지내세요?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**said, max_new_tokens=24, do_sample=False)[0, said["input_ids"].shape[1] :]
    assert (answer >= len(old)).sum() >= 2  # of the tokens that the base does not have
    assert "안녕하세요" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id
