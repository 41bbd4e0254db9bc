"""Rows that a model lacks, approximated: whose tokens they have in common, and the merge from plan to files."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from checkpoints.approximation import Subword
from checkpoints.problems import RecipeError
from checkpoints.pursuit import omp
from examples.models import BASE, model_folder
from merging import Cancelled, Plan, Progress, make_plan, read_recipe, run_plan
from merging.__main__ import main
from tests import ROOT
from tests.hub import Hub
from tests.tiny import save_sentencepiece, save_tokenizer, tiny_llama

PLAIN = 258  # two special tokens and the bytes
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
MERGES = [("a", "b"), ("ab", "c"), ("Ġ", "x"), ("Ġx", "y")]
OWN_MERGES = [("a", "b"), ("▁", "x")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`: byte-level, no merges; `untied`: the same with a head; `donor`: wider, with merges and other ends of a
    text; `pieces`: SentencePiece."""
    folder = tmp_path_factory.mktemp("models")
    plain: dict[str, Any] = {"vocab_size": PLAIN, "bos_token_id": 0, "eos_token_id": 1}
    save_tokenizer(tiny_llama(folder / "model", 0, **plain))
    save_tokenizer(tiny_llama(folder / "untied", 1, tie_word_embeddings=False, **plain))
    save_tokenizer(tiny_llama(folder / "sibling", 2, **{**plain, "vocab_size": PLAIN + 1}), MERGES[:1])
    donor = tiny_llama(folder / "donor", 3, vocab_size=PLAIN + 5, hidden_size=32, eos_token_id=PLAIN + 4)
    save_tokenizer(donor, MERGES, ["<|end|>"], template="{{ messages[0]['content'] }}<|end|>")
    settings = json.loads((donor / "tokenizer_config.json").read_text())
    (donor / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<|end|>"}))
    words = 3 + 256 + len(OWN_MERGES) + 27
    save_sentencepiece(
        tiny_llama(folder / "pieces", 4, vocab_size=words, bos_token_id=1, eos_token_id=2), OWN_MERGES
    )
    return folder


def recipe(folder: Path, *models: str, method: str = "passthrough", **tokenizer: Any) -> str:
    listed = [{"model": str(folder / model)} for model in models]
    if method == "linear":
        listed = [{**each, "parameters": {"weight": 1.0}} for each in listed]
    section = {"source": str(folder / "donor"), **tokenizer}
    return yaml.safe_dump({"merge_method": method, "models": listed, "tokenizer": section})


def merge(text: str, to: Path, workers: int | None = None) -> Plan:
    plan = make_plan(read_recipe(text), str(to))
    assert plan.problems == ()
    assert Plan.from_json(plan.to_json()) == plan
    run_plan(plan, str(to), workers=workers)
    return plan


def tensor(path: Path, name: str = EMBEDDING) -> Tensor:
    return load_file(path / "model.safetensors")[name].float()


def ids(path: Path) -> dict[str, int]:
    found: dict[str, int] = AutoTokenizer.from_pretrained(path).get_vocab()
    return found


def codes(plan: Plan) -> list[str]:
    return [problem.code for problem in plan.warnings]


def test_a_tokenizer_is_taken_over_whole(folder: Path, tmp_path: Path) -> None:
    plan = merge(recipe(folder, "model", approximate="omp", k=4), tmp_path / "out")

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == ids(folder / "donor")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["vocab_size"] == len(tokenizer) == PLAIN + 5
    assert (config["bos_token_id"], config["eos_token_id"]) == (0, PLAIN + 4)
    assert config["hidden_size"] == 64
    assert config["tie_word_embeddings"]
    tokens = tokenizer("abc xy<|end|>", return_tensors="pt")
    assert len(tokens["input_ids"][0]) == 3
    assert model(**tokens).logits.isfinite().all()
    # The tokens that both have keep their rows, to the bit; the ends of a text are one token by their role.
    own, new = tensor(folder / "model"), tensor(tmp_path / "out")
    assert torch.equal(new[:PLAIN], own)
    assert torch.equal(new[PLAIN + 4], own[1])
    # Everything else is the model's, byte for byte.
    before, after = (load_file(path / "model.safetensors") for path in (folder / "model", tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - {EMBEDDING})
    [warning] = [problem for problem in plan.warnings if problem.code == "approximated-rows"]
    assert "4 by omp" in warning.message


def test_rows_by_omp_are_what_the_donor_says(folder: Path, tmp_path: Path) -> None:
    """The donor's row as a sum of rows of common tokens, and the same sum of the model's rows."""
    merge(recipe(folder, "untied", approximate="omp", k=6), tmp_path / "out")

    common = [*range(PLAIN), PLAIN + 4]  # in the donor; the last is the model's `</s>`
    donor = tensor(folder / "donor")  # its head is tied
    found = omp(donor[PLAIN : PLAIN + 4], donor[common].__getitem__, len(common), 6)
    for name in (EMBEDDING, HEAD):
        own, new = tensor(folder / "untied", name), tensor(tmp_path / "out", name)
        assert new.shape == (PLAIN + 5, 64)
        rows = own[[*range(PLAIN), 1]].double()[found.atoms]
        expected = (found.factors[:, :, None] * rows).sum(1).float()
        torch.testing.assert_close(new[PLAIN : PLAIN + 4], expected, atol=1e-3, rtol=1e-2)
    assert not torch.equal(tensor(tmp_path / "out", HEAD), tensor(tmp_path / "out"))


def test_rows_by_subword_are_averages_of_pieces(folder: Path, tmp_path: Path) -> None:
    merge(recipe(folder, "model", approximate="subword"), tmp_path / "out")

    own, new = tensor(folder / "model"), tensor(tmp_path / "out")
    numbers = ids(folder / "model")
    for token, pieces in {"abc": "abc", "Ġxy": "Ġxy"}.items():
        expected = own[[numbers[piece] for piece in pieces]].mean(0)
        torch.testing.assert_close(new[ids(folder / "donor")[token]], expected, atol=4e-3, rtol=1e-2)


def without_weights(donor: Path, to: Path, config: bool) -> Path:
    """A donor's files but its weights."""
    to.mkdir()
    for file in donor.iterdir():
        if file.name != "model.safetensors" and (config or file.name != "config.json"):
            (to / file.name).write_bytes(file.read_bytes())
    return to


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("rule", [None, "subword", "omp"])
def test_a_donor_may_be_a_tokenizer_without_weights(
    config: bool, rule: str | None, folder: Path, tmp_path: Path
) -> None:
    donor = without_weights(folder / "donor", tmp_path / "tokenizer", config)
    named: dict[str, Any] = {"approximate": rule} if rule else {}

    plan = merge(recipe(folder, "model", source=str(donor), **named), tmp_path / "out")

    merge(recipe(folder, "model", approximate="subword"), tmp_path / "right")
    assert torch.equal(tensor(tmp_path / "out"), tensor(tmp_path / "right"))
    assert ids(tmp_path / "out") == ids(folder / "donor")
    [warning] = [problem for problem in plan.warnings if problem.code == "approximated-rows"]
    assert "4 by subword" in warning.message


def test_a_tokenizer_without_weights_on_the_hub(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.add_user("ann")
    donor = without_weights(folder / "donor", tmp_path / "tokenizer", config=False)
    hub.put("ann/tokenizer", donor)

    merge(recipe(folder, "model", source="ann/tokenizer"), tmp_path / "out")

    merge(recipe(folder, "model", source=str(donor)), tmp_path / "right")
    assert torch.equal(tensor(tmp_path / "out"), tensor(tmp_path / "right"))


def test_a_tokenizer_without_weights_is_no_model_of_a_merge(folder: Path, tmp_path: Path) -> None:
    donor = without_weights(folder / "donor", tmp_path / "tokenizer", config=True)
    text = yaml.safe_load(recipe(folder, "model", "untied", method="linear"))

    as_model = {**text, "tokenizer": {"source": "union"}}
    as_model["models"] = [*text["models"], {"model": str(donor), "parameters": {"weight": 1.0}}]
    giving_rows = {**text, "tokenizer": {"source": str(donor), "tokens": {"abc": {"source": str(donor)}}}}

    for refused, code in ((as_model, "no-weights"), (giving_rows, "unknown-source-token")):
        plan = make_plan(read_recipe(yaml.safe_dump(refused)))
        assert [problem.code for problem in plan.problems] == [code]


def test_rows_by_mean(folder: Path, tmp_path: Path) -> None:
    merge(recipe(folder, "model", approximate="mean"), tmp_path / "out")

    own, new = tensor(folder / "model"), tensor(tmp_path / "out")
    for token in range(PLAIN, PLAIN + 4):
        torch.testing.assert_close(new[token], own.mean(0), atol=4e-3, rtol=1e-2)


def test_vocabularies_that_spell_in_other_ways_have_tokens_in_common(folder: Path, tmp_path: Path) -> None:
    plan = merge(recipe(folder, "pieces", approximate="subword"), tmp_path / "out")

    own, new, numbers = tensor(folder / "pieces"), tensor(tmp_path / "out"), ids(folder / "donor")
    first = 3 + 256  # behind special tokens and bytes: ab, ▁x, ▁, a, b, ...
    letter = first + len(OWN_MERGES) + 1
    for token, row in {
        "ab": first,
        "Ġx": first + 1,
        "Ġ": first + 2,
        "a": letter,
        "Ċ": 3 + 10,
        "<s>": 1,
    }.items():
        assert torch.equal(new[numbers[token]], own[row]), token
    assert torch.equal(new[numbers["<|end|>"]], own[2])  # by its role; `</s>` means the same as well
    expected = {"abc": [first, letter + 2], "Ġxy": [first + 1, letter + 24]}
    for token, rows in expected.items():
        torch.testing.assert_close(new[numbers[token]], own[rows].mean(0), atol=4e-3, rtol=1e-2)
    assert plan.tokenizer
    [of_model, of_donor] = plan.tokenizer.models
    assert of_model.common == PLAIN + 5 - 2
    assert of_donor.common == PLAIN + 5


def test_inside_a_merge_every_model_gets_its_own_rows(folder: Path, tmp_path: Path) -> None:
    """A merge of two models is the merge of their transplants."""
    rule = {"approximate": "omp", "k": 3}
    merge(recipe(folder, "model", "sibling", method="linear", **rule), tmp_path / "both")
    for name in ("model", "sibling"):
        merge(recipe(folder, name, **rule) + "dtype: float32\n", tmp_path / name)

    expected = (tensor(tmp_path / "model") + tensor(tmp_path / "sibling")) / 2
    torch.testing.assert_close(tensor(tmp_path / "both"), expected, atol=1e-2, rtol=1e-2)
    # The token that one of them has is its own row there, not the donor's nor the sibling's.
    number = ids(folder / "donor")["ab"]
    assert torch.equal(
        tensor(tmp_path / "sibling")[number], tensor(folder / "sibling")[ids(folder / "sibling")["ab"]]
    )


def test_a_model_of_the_merge_guides_the_others(folder: Path, tmp_path: Path) -> None:
    text = recipe(
        folder, "model", "sibling", method="linear", source=str(folder / "sibling"), approximate="omp", k=2
    )

    plan = merge(text, tmp_path / "out")

    assert plan.tokenizer
    assert plan.tokenizer.tokens == PLAIN + 1
    assert [model.approximating is not None for model in plan.models] == [True, False]


@pytest.mark.parametrize("rule", ["omp", "nearest", "subword", "mean"])
def test_the_same_bits_for_any_workers_and_blocks(
    rule: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe(folder, "untied", approximate=rule)
    merge(text, tmp_path / "one", workers=1)
    monkeypatch.setattr("merging.engine.workspace.BLOCK", 100)
    merge(text, tmp_path / "three", workers=3)

    one, three = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "three"))
    assert one.keys() == three.keys()
    assert all(torch.equal(one[name], three[name]) for name in one)


def test_from_the_hub_the_bits_are_the_same(hub: Hub, folder: Path, tmp_path: Path) -> None:
    token = hub.add_user("mover")
    for name in ("untied", "donor"):
        hub.put(f"mover/{name}", folder / name)
    local = recipe(folder, "untied", approximate="omp", k=4)
    plan = make_plan(read_recipe(local.replace(str(folder), "mover")), str(tmp_path / "remote"), token=token)

    run_plan(plan, str(tmp_path / "remote"), token=token)
    merge(local, tmp_path / "local")

    remote, here = (load_file(tmp_path / name / "model.safetensors") for name in ("remote", "local"))
    assert all(torch.equal(remote[name], here[name]) for name in here)


def test_a_stop_while_rows_are_approximated_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(read_recipe(recipe(folder, "untied", approximate="omp")), str(tmp_path / "out"))
    cancel, messages = threading.Event(), []

    def watch(progress: Progress) -> None:
        messages.append(progress.message)
        if progress.phase == "approximate":
            cancel.set()

    with pytest.raises(Cancelled):
        run_plan(plan, str(tmp_path / "out"), on_progress=watch, cancel=cancel)

    assert "Approximating rows of" in messages[-1]
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_of_the_model_itself_changes_nothing(folder: Path, tmp_path: Path) -> None:
    merge(recipe(folder, "model", source=str(folder / "model"), approximate="omp"), tmp_path / "out")

    before, after = (load_file(path / "model.safetensors") for path in (folder / "model", tmp_path / "out"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_named_rows_come_first(folder: Path, tmp_path: Path) -> None:
    named = {"kind": "model_token", "model": str(folder / "model"), "token": "z"}
    tokens = {"abc": {"source": named}, "ab": {"source": {"kind": "zero"}}, "<new>": {}}

    merge(recipe(folder, "model", approximate="subword", tokens=tokens), tmp_path / "out")

    own, new, numbers = tensor(folder / "model"), tensor(tmp_path / "out"), ids(tmp_path / "out")
    assert torch.equal(new[numbers["abc"]], own[ids(folder / "model")["z"]])
    assert not new[numbers["ab"]].any()
    pieces = [ids(folder / "model")[character] for character in "<new>"]
    torch.testing.assert_close(new[numbers["<new>"]], own[pieces].mean(0), atol=4e-3, rtol=1e-2)


def test_padding_and_rows_without_a_token_are_averages(folder: Path, tmp_path: Path) -> None:
    merge(recipe(folder, "model", approximate="mean", pad_to_multiple_of=16), tmp_path / "out")

    new = tensor(tmp_path / "out")
    assert new.shape[0] == 272
    torch.testing.assert_close(new[PLAIN + 5], new[: PLAIN + 5].mean(0), atol=4e-3, rtol=1e-2)


def test_a_transplant_is_a_document_of_a_chain(folder: Path, tmp_path: Path) -> None:
    first = "name: moved\n" + recipe(folder, "model", approximate="omp", k=3)
    second = yaml.safe_dump({"merge_method": "passthrough", "models": [{"model": "moved"}]})

    merge(f"{first}---\n{second}", tmp_path / "chain")
    merge(recipe(folder, "model", approximate="omp", k=3), tmp_path / "alone")

    assert torch.equal(tensor(tmp_path / "chain"), tensor(tmp_path / "alone"))
    assert ids(tmp_path / "chain") == ids(folder / "donor")


def test_the_plan_says_what_it_costs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make_plan(read_recipe(recipe(folder, "model", approximate="mean")))
    plan = make_plan(read_recipe(recipe(folder, "model", approximate="omp")))

    assert plan.models[0].approximating
    assert plan.models[0].approximating.operations > 0
    assert plan.peak_memory_bytes > plain.peak_memory_bytes
    assert "slow-approximation" not in codes(plan)
    monkeypatch.setattr("merging.planning.costs.OPERATIONS", 1)
    slow = make_plan(read_recipe(recipe(folder, "model", approximate="omp")))
    [warning] = [problem for problem in slow.warnings if problem.code == "slow-approximation"]
    assert "hours" in warning.message
    assert slow.seconds > 3600


def digits_alone(path: Path) -> None:
    """Let a byte-level tokenizer join digits, as some do."""
    document = json.loads((path / "tokenizer.json").read_text())
    document["model"]["vocab"]["12"] = len(document["model"]["vocab"])
    document["model"]["merges"].append(["1", "2"])
    (path / "tokenizer.json").write_text(json.dumps(document))


def test_the_report_shows_how_numbers_are_split(folder: Path, tmp_path: Path) -> None:
    joins = save_tokenizer(tiny_llama(tmp_path / "joins", 9, vocab_size=PLAIN + 1))
    digits_alone(joins)

    plan = make_plan(read_recipe(recipe(folder, "model", source=str(joins), approximate="subword")))

    assert plan.tokenizer
    assert plan.tokenizer.digits == ("12", "3", "4", "5", "6", "7")
    assert plan.tokenizer.models[0].digits == tuple("1234567")
    [warning] = [problem for problem in plan.warnings if problem.code == "digits-differ"]
    assert "1 2 3 4 5 6 7" in warning.message
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("tokenizer", "code"),
    [
        ({"approximate": "opm"}, "approximate"),
        ({"approximate": 3}, "approximate"),
        ({"approximate": ["omp"]}, "approximate"),
        ({"approximate": "omp", "k": 0}, "neighbours"),
        ({"approximate": "omp", "k": 513}, "neighbours"),
        ({"approximate": "omp", "k": True}, "neighbours"),
        ({"approximate": "omp", "k": "many"}, "neighbours"),
        ({"approximate": "subword", "k": 4}, "k-without-neighbours"),
        ({"k": 4}, "k-without-neighbours"),
    ],
)
def test_what_no_recipe_may_say(tokenizer: dict[str, Any], code: str, folder: Path) -> None:
    with pytest.raises(RecipeError) as error:
        read_recipe(recipe(folder, "model", **tokenizer))

    [problem] = error.value.problems
    assert problem.code == code
    assert problem.message and problem.fix


def problems(text: str) -> Sequence[str]:
    return [problem.code for problem in make_plan(read_recipe(text)).problems]


def test_rows_of_another_width_are_not_copied(folder: Path) -> None:
    assert problems(recipe(folder, "model")) == ["rows-of-other-width"]


def test_vocabularies_without_a_common_token(folder: Path, tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other", 5, vocab_size=2)
    document = {
        "version": "1.0",
        "model": {"type": "WordLevel", "vocab": {"foo": 0, "bar": 1}, "unk_token": "foo"},
    }
    (other / "tokenizer.json").write_text(json.dumps(document))

    assert problems(recipe(folder, "model", source=str(other), approximate="omp")) == ["no-common-tokens"]
    assert problems(recipe(folder, "model", source=str(other), approximate="subword")) == []


def test_a_tokenizer_that_the_library_cannot_run(folder: Path, tmp_path: Path) -> None:
    strange = save_tokenizer(tiny_llama(tmp_path / "strange", 5, vocab_size=PLAIN))
    document = json.loads((strange / "tokenizer.json").read_text())
    document["model"]["merges"] = [["no", "such"]]
    (strange / "tokenizer.json").write_text(json.dumps(document))

    text = recipe(folder, "strange", approximate="subword").replace(str(folder / "strange"), str(strange))

    assert problems(text) == ["tokenizer-not-run"]


def test_the_command_line_offers_the_comparison(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe(folder, "model", approximate="nearest", k=2))

    assert main(["plan", str(tmp_path / "recipe.yaml")]) == 0
    shown = capsys.readouterr()
    assert "in common" in shown.out
    assert main(["run", str(tmp_path / "recipe.yaml"), "--to", str(tmp_path / "out")]) == 0
    assert f"alloy perplexity {tmp_path / 'out'} {folder / 'model'}" in capsys.readouterr().out


@pytest.mark.real_models
def test_a_real_tokenizer_beside_one_trained_here(tmp_path: Path) -> None:
    """A byte-level vocabulary of 49,152 tokens and one with marks: what is common, and what pieces spell."""
    trained = Tokenizer(models.BPE(byte_fallback=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained.decoder = decoders.Metaspace(prepend_scheme="never")
    texts = [(ROOT / f"evaluation/texts/{name}.txt").read_text() for name in ("english", "korean")]
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=3000, special_tokens=["<s>", "<unk>"]))
    count = trained.get_vocab_size()
    donor = tiny_llama(tmp_path / "donor", 0, vocab_size=count)
    trained.save(str(donor / "tokenizer.json"))
    text = yaml.safe_dump(
        {
            "merge_method": "passthrough",
            "models": [{"model": str(model_folder(BASE))}],
            "tokenizer": {"source": str(donor), "approximate": "subword"},
        }
    )

    plan = make_plan(read_recipe(text))

    assert plan.problems == ()
    assert plan.tokenizer and plan.models[0].alignment
    assert plan.tokenizer.models[0].digits == tuple("1234567")
    real = AutoTokenizer.from_pretrained(model_folder(BASE))
    spelled = {number: token.replace("▁", " ") for token, number in trained.get_vocab().items()}
    token, common, cut = 0, 0, 0
    for run in plan.models[0].alignment.rows:
        for number in range(run.count):
            [(model, first)] = run.sources
            if model == 0:
                common += 1
                assert real.decode([first + number]) == spelled[token]
            elif isinstance(approximation := plan.models[0].alignment.approximations[-1 - model], Subword):
                cut += 1
                assert real.decode(approximation.pieces[first + number]) == spelled[token]
            token += 1
    assert token == count
    assert common == plan.tokenizer.models[0].common
    assert common > 500
    assert cut > 500
