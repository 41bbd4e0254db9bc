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
from evaluation.spectra import DIRECTIONS, empty_matrix, overlap, spectrum
from evaluation.weights import inspect_weights, open_weights
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

    found = inspect_weights(opened["merge"], [opened["a"], opened["b"]], base=opened["base"], sample=None)

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

    found = inspect_weights(
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

    found = spectrum(left * values @ right)

    total = float(values.square().sum())
    shares = values.double() / values.double().sum()
    exact = float(torch.exp(-(shares * shares.log()).sum()))
    assert abs(found.effective_rank - exact) < 2 * found.effective_rank_error < 0.05 * exact
    assert found.energy == pytest.approx(float(values[:DIRECTIONS].square().sum()) / total, rel=1e-3)
    assert found.energy_missed == pytest.approx(1 - float(values[:80].square().sum()) / total, abs=1e-3)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


@pytest.mark.parametrize(
    "matrix",
    [
        drawn(512, 512),
        drawn(900, 200),
        drawn(200, 900),
        drawn(500, 16) @ drawn(16, 400),
        (drawn(500, 16) @ drawn(16, 400)).bfloat16().float(),
        drawn(500, 81) @ drawn(81, 400),
        drawn(500, 300) @ drawn(300, 400),
        drawn(500, 400) * 0.98 ** torch.arange(400),
        torch.diag(1 / torch.arange(1.0, 401)),
        torch.diag(1 / torch.arange(1.0, 401) ** 2),
    ],
    ids=[
        "square",
        "tall",
        "wide",
        "rank 16",
        "rank 16, rounded",
        "rank 81",
        "rank 300",
        "falls",
        "1/k",
        "1/k²",
    ],
)
def test_an_estimated_effective_rank_is_within_its_error(
    matrix: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = spectrum(matrix)
    monkeypatch.setattr("evaluation.spectra._EXACT_SIDE", 64)

    found = spectrum(matrix)

    assert exact.effective_rank_error == 0
    assert found.effective_rank_error <= 0.1 * exact.effective_rank
    assert found.effective_rank == pytest.approx(
        exact.effective_rank, abs=2 * found.effective_rank_error + 0.01 * exact.effective_rank
    )


@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
def test_a_matrix_too_large_for_memory_has_the_same_spectrum(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    one, two = torch.randn(2, *shape)
    expected = spectrum(one), overlap(one[:, :3] @ two[:3], two[:, :5] @ two[:5])
    monkeypatch.setattr("evaluation.spectra._ELEMENTS_IN_MEMORY", 100)
    monkeypatch.setattr("evaluation.spectra._BLOCK", 100)

    large = empty_matrix(*shape)
    large.copy_(one)
    found = spectrum(large), overlap(one[:, :3] @ two[:3], two[:, :5] @ two[:5])

    assert found[0].effective_rank == pytest.approx(expected[0].effective_rank, rel=1e-5)
    assert found[0].energy == pytest.approx(expected[0].energy, rel=1e-6)
    assert found[1] == pytest.approx(expected[1], rel=1e-3)


def test_a_full_disk_is_an_error_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evaluation.spectra._ELEMENTS_IN_MEMORY", 100)
    monkeypatch.setattr("os.posix_fallocate", full)

    with pytest.raises(OSError, match="No space"):
        empty_matrix(20, 20)


def raw(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    """A checkpoint of a few tensors, which no program could run."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return folder


def test_a_spectrum_of_some_rows_is_not_shown_as_that_of_the_tensor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    parent = torch.randn(128, 96)
    change = 0.01 * torch.randn(128, 96)
    one = open_weights(raw(tmp_path / "one", {"w": parent + change}))
    two = open_weights(raw(tmp_path / "two", {"w": parent}))

    whole, part = (
        inspect_weights(one, [two, one], base=two, sample=sample, places=4).tensors[0]
        for sample in (None, 4096)
    )

    exact = torch.linalg.svdvals(change)
    found = whole.against[two.structure.name]
    assert found.energy == pytest.approx(float(exact[:64].square().sum() / exact.square().sum()), rel=1e-4)
    assert found.effective_rank == pytest.approx(effective_rank(change), rel=1e-4)
    for versus in part.against.values():
        assert (versus.effective_rank, versus.energy) == (None, None)
    for pair in part.between.values():
        assert pair.overlap is None
    assert part.against[two.structure.name].change == pytest.approx(found.change, rel=0.2)


def test_the_doctor_says_how_much_was_read(tmp_path: Path) -> None:
    weights = torch.randn(4096, 512)
    weights[140, 0] = torch.nan
    weights[1001] = 0
    model = open_weights(raw(tmp_path / "m", {"model.layers.0.w.weight": weights}))

    half, whole = (inspect_weights(model, sample=sample) for sample in (1 << 20, None))

    assert half.sound
    assert half.doctor()[0].startswith("Nothing wrong was found in the 50.00% that was read of 1 tensor:")
    assert [line[:35] for line in whole.doctor()] == [
        "1 tensor holds NaN or Inf, such as ", "1 row is all zero, 1 of them in mod",
    ]  # fmt: skip


def test_a_fault_in_what_was_read_says_that_the_rest_was_not(tmp_path: Path) -> None:
    model = open_weights(raw(tmp_path / "m", {"w": torch.zeros(4096, 512)}))

    found = inspect_weights(model, sample=1 << 20).doctor()

    assert found[-1] == "That is from 50.00% of the weights, which were read."


@pytest.mark.parametrize(
    ("dtype", "share"),
    [
        (torch.int64, 1),
        (torch.uint8, 1),
        (torch.bool, 1),
        (torch.float8_e4m3fn, 1),
        (torch.float8_e5m2, 1),
        (torch.float64, 1),
        (torch.complex64, 0),
    ],
)
def test_an_unusual_dtype_stops_nothing(dtype: torch.dtype, share: int, tmp_path: Path) -> None:
    values = torch.tensor([[0, 1], [1, 0], [0, 0]]).to(dtype)
    sound = torch.ones(3, 2)
    one, two = (
        open_weights(raw(tmp_path / name, {"odd": values.clone(), "w": sound.clone()})) for name in "ab"
    )

    found = {tensor.name: tensor for tensor in inspect_weights(one, [two]).tensors}

    odd, even = found["odd"], found["w"]
    assert (even.share, even.against[two.structure.name].change) == (1.0, 0.0)
    assert odd.share == share
    assert odd.norm == pytest.approx(2**0.5 * share)
    assert bool(odd.against) == bool(share)
    report = inspect_weights(one)
    assert ("Tensors of C64 were not read." in report.doctor()) == (not share)


def sizes(count: int, prefix: str = "model.layers.") -> dict[str, torch.Tensor]:
    return {f"{prefix}{number}.mlp.up_proj.weight": torch.ones(4, 2) + number for number in range(count)}


TABLE = torch.arange(1.0, 17).reshape(8, 2)
PADDED = torch.cat([TABLE[:6], torch.zeros(2, 2)])
NO_ALARM: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]] = {
    "a vision tower with more layers": (
        {
            "model.language_model.embed_tokens.weight": TABLE,
            **sizes(2, "model.language_model.layers."),
            **sizes(4, "model.visual.blocks."),
        },
        {"text_config": {"num_hidden_layers": 2, "vocab_size": 8}, "vision_config": {"depth": 4}},
    ),
    "a layer that predicts further tokens": (
        {
            "model.embed_tokens.weight": TABLE,
            **sizes(3),
            "model.layers.2.embed_tokens.weight": TABLE + 1,
            "model.layers.2.eh_proj.weight": torch.ones(2, 4),
        },
        {"num_hidden_layers": 2, "num_nextn_predict_layers": 1, "vocab_size": 8},
    ),
    "prediction of further tokens apart": (
        {"model.embed_tokens.weight": TABLE, **sizes(2), **sizes(1, "mtp.layers.")},
        {"num_hidden_layers": 2, "vocab_size": 8},
    ),
    "rows that pad a vocabulary": (
        {"model.embed_tokens.weight": PADDED, "lm_head.weight": PADDED + 0, **sizes(2)},
        {"num_hidden_layers": 2, "vocab_size": 8},
    ),
    "the row of the padding token": (
        {"model.embed_tokens.weight": torch.cat([torch.zeros(1, 2), TABLE[1:]]), **sizes(2)},
        {"num_hidden_layers": 2, "vocab_size": 8, "pad_token_id": 0},
    ),
    "a mask of GPT-2": (
        {"wte.weight": TABLE, **sizes(2, "h."), "h.0.attn.bias": torch.tril(torch.ones(1, 1, 3, 3), -1)},
        {"n_layer": 2, "vocab_size": 8},
    ),
    "an encoder and a decoder": (
        {"shared.weight": TABLE, **sizes(2, "encoder.block."), **sizes(3, "decoder.block.")},
        {"num_layers": 2, "num_decoder_layers": 3, "vocab_size": 8},
    ),
    "an encoder of more layers": (
        {
            "d.embed_tokens.weight": TABLE,
            **sizes(4, "model.encoder.layers."),
            **sizes(2, "model.decoder.layers."),
        },
        {"encoder_layers": 4, "decoder_layers": 2, "num_hidden_layers": 4, "vocab_size": 8},
    ),
    "packed numbers": (
        {**sizes(2), "model.layers.0.mlp.up_proj.qzeros": torch.zeros(3, 2, dtype=torch.int32)},
        {"num_hidden_layers": 2},
    ),
}


@pytest.mark.parametrize("what", NO_ALARM)
def test_the_doctor_raises_no_false_alarm(what: str, tmp_path: Path) -> None:
    tensors, config = NO_ALARM[what]

    found = inspect_weights(open_weights(raw(tmp_path / "m", tensors, **config)), sample=None)

    assert found.doctor()[0].startswith("Nothing wrong"), found.doctor()


@pytest.mark.parametrize(
    ("embedding", "head", "layers"),
    [
        ("transformer.wte.weight", "lm_head.weight", "transformer.h."),
        ("transformer.word_embeddings.weight", "lm_head.weight", "transformer.h."),
        ("gpt_neox.embed_in.weight", "embed_out.weight", "gpt_neox.layers."),
    ],
    ids=["GPT-2", "Falcon", "GPT-NeoX"],
)
def test_the_doctor_knows_embedding_and_head_of_other_families(
    embedding: str, head: str, layers: str, tmp_path: Path
) -> None:
    hole = TABLE.clone()
    hole[3] = 0
    tensors = {embedding: hole, head: TABLE + 1, **sizes(2, layers)}
    folder = raw(tmp_path / "m", tensors, num_hidden_layers=3, vocab_size=9, tie_word_embeddings=True)

    found = inspect_weights(open_weights(folder), sample=None).doctor()

    assert [line.partition(":")[0] for line in found] == [
        f"{head.removesuffix('.weight')} is untied in the weights but tied in config.json",
        "config.json says vocab_size 9, and the embedding has 8 rows.",
        "config.json says 3 layers, and the weights have 2.",
        f"1 row is all zero, 1 of them in {embedding}.",
    ]


def test_rows_of_packed_experts_are_counted_within_each(tmp_path: Path) -> None:
    experts = torch.ones(3, 4, 2)
    experts[1, 2:] = 0

    found = inspect_weights(
        open_weights(raw(tmp_path / "m", {"model.layers.0.mlp.experts.down_proj": experts})), sample=None
    )

    assert found.tensors[0].dead_rows == 2


def test_layers_beyond_those_of_the_config_are_said(tmp_path: Path) -> None:
    folder = raw(tmp_path / "m", sizes(4), num_hidden_layers=2)

    assert "says 2 layers, and the weights have 4" in inspect_weights(open_weights(folder)).doctor()[0]


def test_pickled_weights_are_read_without_running_them(tmp_path: Path) -> None:
    tensors = {"w": torch.arange(6.0).reshape(3, 2)}
    safe = open_weights(raw(tmp_path / "safe", tensors))
    folder = raw(tmp_path / "pickled", tensors)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")

    [found] = inspect_weights(open_weights(folder), [safe], sample=None).tensors

    assert found.against[safe.structure.name].change == 0.0


def test_a_sample_is_near_the_whole(family: dict[str, Path]) -> None:
    model, parent = open_weights(family["merge"]), open_weights(family["a"])

    whole, part = (inspect_weights(model, [parent], sample=sample) for sample in (None, 1024))

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
    expected = inspect_weights(open_weights(folder), sample=2048)

    hub.log.clear()
    found = inspect_weights(open_weights("ann/model", token=False), sample=2048)

    assert [tensor.digest for tensor in found.tensors] == [tensor.digest for tensor in expected.tensors]
    sent = [exchange for exchange in hub.log if exchange.method == "GET"]
    asked = [exchange for exchange in sent if exchange.path.endswith("model.safetensors")]
    assert asked
    assert all(exchange.range for exchange in asked)
    assert sum(exchange.bytes_out for exchange in asked) < (folder / "model.safetensors").stat().st_size


def test_readers_together_find_the_same_in_few_requests(hub: Hub, make_folder: MakeFolder) -> None:
    hub.add_user("ann")
    hub.put("ann/model", make_folder(make_network(vocab_size=4000)))
    model = open_weights("ann/model", token=False)
    one = inspect_weights(model, [model], sample=2048, places=2)
    requests = sum(1 if tensor.share == 1 else 2 for tensor in one.tensors)

    hub.log.clear()
    several = inspect_weights(model, [model], sample=2048, places=2, readers=4)

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
            "holds NaN or Inf, such as model.layers.1",
        ),
        (
            lambda f: edit(f, lambda w: w[QUERY].__setitem__(3, 0)),
            "1 row is all zero, 1 of them in model.layers.1",
        ),
        (lambda f: edit(f, lambda w: None, vocab_size=500), "vocab_size 500, and the embedding has 400 rows"),
        (lambda f: edit(f, lambda w: None, num_hidden_layers=3), "says 3 layers, and the weights have 2"),
        (lambda f: f, "equals that of"),
    ],
)
def test_the_doctor_finds(make_folder: MakeFolder, spoil: Callable[[Path], Path], words: str) -> None:
    parent = make_folder(name="parent")

    found = inspect_weights(open_weights(spoil(make_folder())), [open_weights(parent)], sample=None)

    assert words in " ".join(found.doctor())


def test_the_doctor_finds_nothing_in_a_sound_model(family: dict[str, Path]) -> None:
    found = inspect_weights(open_weights(family["merge"]), [open_weights(family["a"])], sample=None)

    assert found.doctor()[0].startswith("Nothing wrong was found")
    assert found.duplicates == []


def test_copied_layers_are_duplicates(make_folder: MakeFolder) -> None:
    folder = edit(make_folder(), lambda w: w.update({QUERY: w[QUERY.replace("1", "0")].clone()}))

    assert inspect_weights(open_weights(folder)).duplicates == [(QUERY.replace("1", "0"), QUERY)]


def test_weights_on_the_command_line(
    family: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(family[name]) for name in ("merge", "a", "b", "base")]

    assert main(["weights", names[0], "--against", *names[1:3], "--base", names[3]]) == DONE
    shown = capsys.readouterr().out
    assert "Nothing wrong was found" in shown
    assert "model.layers.*.self_attn.q_proj.weight" in shown
    assert "sign conflicts" in shown

    assert main(["weights", names[0], "--json", "--whole"]) == DONE
    assert json.loads(capsys.readouterr().out)["tensors"][0]["share"] == 1.0
    assert main(["weights", str(tmp_path / "nothing")]) == CANNOT_BE_JUDGED
