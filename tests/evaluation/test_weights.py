"""Weights looked at: by hand, against mergelens, by ranges from the Hub, and what the doctor says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mergelens.compare import metrics
from mergelens.utils.tensor_ops import effective_rank
from safetensors.torch import load_file, save_file

from evaluation.__main__ import CANNOT_BE_JUDGED, DONE, main
from evaluation.weights import DIRECTIONS, _spectrum, look, open_weights
from tests.evaluation.conftest import make_network
from tests.hub import Hub

MakeFolder = Callable[..., Path]
QUERY = "model.layers.1.self_attn.q_proj.weight"


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], **config: Any) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


@pytest.fixture
def family(make_folder: MakeFolder) -> dict[str, Path]:
    """A base, two fine-tunes, and their average."""
    folders = {"base": make_folder(name="base")}
    base = load_file(folders["base"] / "model.safetensors")
    for seed, name in enumerate("ab", 1):
        folders[name] = make_folder(name=name)
        torch.manual_seed(seed)  # after the folder, whose model is seeded too
        edit(
            folders[name],
            lambda weights: weights.update({k: v + 0.01 * torch.randn_like(v) for k, v in base.items()}),
        )
    a, b = (load_file(folders[name] / "model.safetensors") for name in "ab")
    folders["merge"] = edit(
        make_folder(name="merge"),
        lambda weights: weights.update({key: (a[key] + b[key]) / 2 for key in a}),
    )
    return folders


def test_the_signals_are_those_of_mergelens(family: dict[str, Path]) -> None:
    opened = {name: open_weights(folder) for name, folder in family.items()}
    held = {name: load_file(folder / "model.safetensors")[QUERY] for name, folder in family.items()}

    found = look(opened["merge"], [opened["a"], opened["b"]], base=opened["base"], sample=None)

    [tensor] = [one for one in found.tensors if one.name == QUERY]
    against = tensor.against[str(family["a"])]
    between = tensor.between[f"{family['a']} | {family['b']}"]
    tasks = [held[name] - held["base"] for name in "ab"]
    assert against.cosine == pytest.approx(metrics.cosine_similarity(held["merge"], held["a"]), abs=1e-6)
    assert against.distance == pytest.approx(metrics.l2_distance(held["merge"], held["a"]), rel=1e-4)
    assert against.effective_rank == pytest.approx(effective_rank(held["merge"] - held["a"]), rel=1e-4)
    assert against.energy == pytest.approx(
        metrics.centered_task_vector_energy(held["merge"] - held["a"]), rel=1e-5
    )
    assert between.sign_conflict == pytest.approx(metrics.sign_disagreement_rate(tasks), abs=1e-3)
    assert between.task_cosine == pytest.approx(metrics.cosine_similarity(*tasks), abs=1e-5)
    assert against.change == pytest.approx(
        float((held["merge"] - held["a"]).norm() / held["a"].norm()), rel=1e-5
    )


def test_overlap_is_that_of_mergelens(make_folder: MakeFolder) -> None:
    """Two changes of rank 2 that share one of their directions."""
    wide = torch.eye(32)
    base = make_folder(name="base")
    changes = [torch.outer(wide[0], wide[1]) * 5 + torch.outer(wide[2], wide[place]) for place in (2, 3)]
    folders = []
    for name, change in zip("ab", changes, strict=True):
        folder = make_folder(name=name)
        folders.append(
            edit(folder, lambda weights, change=change: weights.update({QUERY: weights[QUERY] + change}))
        )

    found = look(
        open_weights(base), [open_weights(folder) for folder in folders], base=open_weights(base), sample=None
    )

    [tensor] = [one for one in found.tensors if one.name == QUERY]
    held = [load_file(folder / "model.safetensors")[QUERY] for folder in (base, *folders)]
    expected = metrics.tsv_interference_score([held[1] - held[0], held[2] - held[0]])
    assert tensor.between[f"{folders[0]} | {folders[1]}"].overlap == pytest.approx(expected, abs=1e-4)
    assert tensor.against[str(folders[0])].effective_rank == pytest.approx(1.57, abs=0.01)


def test_a_large_matrix_is_estimated_with_its_error() -> None:
    """1100 x 1100 of known singular values: 80 that fall, and a floor of noise."""
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(1100, 1100))[0] for _ in range(2))
    values = torch.full((1100,), 0.05)
    values[:80] = torch.linspace(10, 1, 80)

    rank, energy, missed = _spectrum(left * values @ right)

    total = float(values.square().sum())
    assert rank is None
    assert energy == pytest.approx(float(values[:DIRECTIONS].square().sum()) / total, rel=1e-3)
    assert missed == pytest.approx(1 - float(values[:80].square().sum()) / total, abs=1e-3)


def test_a_sample_is_near_the_whole(family: dict[str, Path]) -> None:
    model, parent = open_weights(family["merge"]), open_weights(family["a"])

    whole, part = (look(model, [parent], sample=sample) for sample in (None, 1024))

    by_name = {tensor.name: tensor for tensor in part.tensors}
    for tensor in whole.tensors:
        seen = by_name[tensor.name]
        assert seen.share == pytest.approx(min(1, 1024 / (torch.Size(tensor.shape).numel())), rel=0.01)
        assert seen.against[str(family["a"])].change == pytest.approx(
            tensor.against[str(family["a"])].change, rel=0.3
        )


def test_from_the_hub_only_ranges_are_read(hub: Hub, make_folder: MakeFolder) -> None:
    hub.add_user("ann")
    folder = make_folder(make_network(vocab_size=4000))
    hub.put("ann/model", folder)
    expected = look(open_weights(folder), sample=2048)

    hub.log.clear()
    found = look(open_weights("ann/model", token=False), sample=2048)

    assert [tensor.digest for tensor in found.tensors] == [tensor.digest for tensor in expected.tensors]
    asked = [exchange for exchange in hub.log if exchange.path.endswith("model.safetensors")]
    assert asked
    assert all(exchange.range for exchange in asked)
    assert sum(exchange.bytes_out for exchange in asked) < (folder / "model.safetensors").stat().st_size


def test_readers_together_find_the_same_in_few_requests(hub: Hub, make_folder: MakeFolder) -> None:
    hub.add_user("ann")
    hub.put("ann/model", make_folder(make_network(vocab_size=4000)))
    model = open_weights("ann/model", token=False)
    one = look(model, [model], sample=2048, places=2)
    requests = sum(1 if tensor.share == 1 else 2 for tensor in one.tensors)

    hub.log.clear()
    several = look(model, [model], sample=2048, places=2, readers=4)

    assert several == one
    asked = [exchange for exchange in hub.log if exchange.range and exchange.status == 206]
    assert len(asked) == requests


def untied(folder: Path) -> Path:
    return edit(
        folder,
        lambda weights: weights.update({"lm_head.weight": weights["model.embed_tokens.weight"] + 1}),
        tie_word_embeddings=True,
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (untied, "lm_head is untied in the weights but tied in config.json"),
        (
            lambda f: edit(f, lambda w: w[QUERY].__setitem__((0, 0), torch.nan)),
            "hold NaN or Inf, such as model.layers.1",
        ),
        (
            lambda f: edit(f, lambda w: w[QUERY].__setitem__(3, 0)),
            "1 row(s) are all zero, 1 of them in model.layers.1",
        ),
        (lambda f: edit(f, lambda w: None, vocab_size=500), "vocab_size 500, and the embedding has 400 rows"),
        (lambda f: edit(f, lambda w: None, num_hidden_layers=3), "says 3 layers, and the weights have 2"),
        (lambda f: f, "equals that of"),
    ],
)
def test_the_doctor_finds(make_folder: MakeFolder, spoil: Callable[[Path], Path], words: str) -> None:
    parent = make_folder(name="parent")

    found = look(open_weights(spoil(make_folder())), [open_weights(parent)], sample=None)

    assert words in " ".join(found.doctor())


def test_the_doctor_finds_nothing_in_a_sound_model(family: dict[str, Path]) -> None:
    found = look(open_weights(family["merge"]), [open_weights(family["a"])], sample=None)

    assert found.doctor()[0].startswith("Nothing wrong was found")
    assert found.duplicates == []


def test_copied_layers_are_duplicates(make_folder: MakeFolder) -> None:
    folder = edit(make_folder(), lambda w: w.update({QUERY: w[QUERY.replace("1", "0")].clone()}))

    assert look(open_weights(folder)).duplicates == [(QUERY.replace("1", "0"), QUERY)]


def test_weights_on_the_command_line(
    family: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(family[name]) for name in ("merge", "a", "b", "base")]

    assert main(["weights", names[0], "--against", *names[1:3], "--base", names[3]]) == DONE
    told = capsys.readouterr().out
    assert "Nothing wrong was found" in told
    assert "model.layers.*.self_attn.q_proj.weight" in told
    assert "sign conflicts" in told

    assert main(["weights", names[0], "--json", "--whole"]) == DONE
    assert json.loads(capsys.readouterr().out)["tensors"][0]["share"] == 1.0
    assert main(["weights", str(tmp_path / "nothing")]) == CANNOT_BE_JUDGED
