"""An adapter as PEFT writes it: a small config, and what it adds to or puts in the place of a base's tensors.

base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight      module, part
"""

from __future__ import annotations

import math
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from checkpoints.formats import FORMATS, read_tensors
from checkpoints.formats.header import MAX_SIZE, TensorHeader
from checkpoints.json_value import parse_json
from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories.repository import MAX_CONFIG, Repository, read_bytes, read_small

CONFIG = "adapter_config.json"
WEIGHTS = tuple(form.adapter for form in FORMATS)
# Ways to begin that move part of the base's weights into the adapter: what is saved fits only the changed base.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
KINDS = ("LORA", "LOHA", "LOKR", "IA3", "TRAINABLE_TOKENS")
# These steer the model by its input, and no change of its weights does the same. PEFT does not merge them either.
BESIDE_THE_MODEL = (
    *("ADAPTION_PROMPT", "CARTRIDGE", "CPT", "LILY", "MULTITASK_PROMPT_TUNING", "POLY", "PREFIX_TUNING"),
    *("PROMPT_TUNING", "P_TUNING", "SHADOW", "XLORA"),
)
NEVER_MERGED = ("alora_invocation_tokens", "arrow_config", "layer_replication", "num_virtual_tokens")
# Options that say how an adapter was trained, or that its tensors themselves show.
HARMLESS = {
    "alpha",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "decompose_both",
    "decompose_factor",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "feedforward_modules",
    "inference_mode",
    "init_ia3_weights",
    "init_lora_weights",
    "init_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "module_dropout",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_dropout",
    "rank_dropout_scale",
    "rank_pattern",
    "alpha_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "target_parameters",
    "task_type",
    "token_indices",
    "trainable_token_indices",
    "use_dora",
    "use_effective_conv2d",
    "use_rslora",
    "velora_config",
}


def _is_number(value: Any) -> bool:
    """Whether it is a number of a size that ranks and factors can have."""
    return type(value) in (int, float) and abs(value) <= MAX_SIZE


# Of the options that are used, what they have to be; each may also be missing.
OPTIONS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("r", "alpha", "lora_alpha"), ("number", _is_number)),
    **dict.fromkeys(
        ("rank_pattern", "alpha_pattern"),
        (
            "numbers-by-name",
            lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
        ),
    ),
    **dict.fromkeys(
        ("target_parameters", "modules_to_save"),
        ("names", lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value)),
    ),
    **dict.fromkeys(
        ("trainable_token_indices", "token_indices"),
        (
            "token-numbers",
            lambda value: all(
                isinstance(tokens, list)
                for tokens in (value.values() if isinstance(value, dict) else [value])
            ),
        ),
    ),
    "base_model_name_or_path": ("name", lambda value: isinstance(value, str)),
    "task_type": ("name", lambda value: isinstance(value, str)),
}
PART = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector"
    r"|(?:token_adapter\.)?trainable_tokens_delta)(?:\.default)?(?P<rest>\.weight|\.bias)?"
)
# Parts of the other kinds: LoHa, LoKr and IA3.
OTHER_PART = re.compile(
    r"(?P<module>.+?)\.(?P<part>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|ia3_l)(?:\.default)?"
)
# Bytes of a file of weights on the Hub up to which it is fetched whole: its tensors are small, and each would be a
# request.
WHOLE = 64 * 1024 * 1024
# A pattern of names may come from a stranger: a short one with one wildcard, which repeats no group, cannot keep a
# server busy.
REPEATED_GROUP, QUANTIFIERS, LONGEST_PATTERN = re.compile(r"\)[*+?{]"), re.compile(r"[*+?{]\??"), 200


@dataclass
class LowRank:
    """The parts of one LoRA module: names of the adapter's tensors.

    Args:
        a, b: the factors, of shapes (r, in) and (out, r); of an embedding (r, tokens) and (width, r)
        bias: added to the module's bias
        magnitude: of DoRA, a number for each output
    """

    a: str = ""
    b: str = ""
    bias: str = ""
    magnitude: str = ""


def read_adapter(repository: Repository, revision: str | None, scale: float) -> Adapter:
    """Read the config and the header of an adapter; the arguments are those of `Adapter`.

    Raises:
        CheckpointError: it is of a kind that cannot be applied to tensors one by one, or is not whole.
    """
    config = _read_config(repository)
    _check_options(repository.name, config)
    _check_kind(repository.name, config)
    return Adapter(repository, config, read_tensors(repository, _weights(repository)), revision, scale)


class Adapter:
    """An adapter that can be read: its config and header once it is open, its weights when they are asked for.

    Args:
        repository: its files; closed with the model that it is applied to
        config: the content of adapter_config.json
        tensors: the headers of its weights
        revision: as the user named it
        scale: how much of its change counts: 0 gives the base back, 1 is all of it

    Raises:
        CheckpointError: a part of it is unknown, or missing.
    """

    def __init__(
        self,
        repository: Repository,
        config: Mapping[str, Any],
        tensors: Mapping[str, TensorHeader],
        revision: str | None,
        scale: float,
    ):
        self.repository = repository
        self.name = repository.name
        self.revision = revision
        self.scale = scale
        self.version = repository.version
        self.is_folder = repository.is_folder
        self.is_remote = not all(map(repository.is_local, {header.file for header in tensors.values()}))
        self.is_cached = not (self.is_folder or self.is_remote)
        self.config = config
        self.tensors = tensors
        self._fetching, self._content = threading.Lock(), bytearray()
        self.low_rank: dict[str, LowRank] = {}
        self.others: defaultdict[str, dict[str, str]] = defaultdict(dict)  # module: parts of another kind
        self.rows: dict[str, str] = {}  # module: tensor of trained token rows
        self.saved: dict[str, str] = {}  # tensor of the base: tensor that takes its place
        for key in self.tensors:
            self._sort_in(key)
        for module, parts in self.low_rank.items():
            if not (parts.a and parts.b):
                raise self._error("adapter-factor", {"module": module})

    def option(self, name: str) -> Any:
        return self.config.get(name)

    def scaling(self, module: str, rank: int) -> float:
        """The factor on the product of a module's factors."""
        alpha = self._by_pattern("alpha_pattern", module)
        said = "lora_alpha" if "lora_alpha" in self.config else "alpha"
        alpha = self._number(said) if alpha is None else alpha
        return alpha / (math.sqrt(rank) if self.option("use_rslora") else max(rank, 1))

    def rank(self, module: str) -> int:
        """The rank that the config gives a module, for kinds whose tensors do not show it."""
        rank = self._by_pattern("rank_pattern", module)
        return int(self._number("r") if rank is None else rank)

    def _number(self, option: str) -> float:
        """A number of the config; 8, as in PEFT, where it is missing."""
        value = self.option(option)
        return 8.0 if value is None else float(value)

    def indices(self, module: str) -> list[int]:
        """The tokens whose rows of an embedding were trained, in the order of the rows."""
        given = self.option("trainable_token_indices") or self.option("token_indices") or []
        if isinstance(given, dict):
            given = next((v for k, v in given.items() if module == k or module.endswith(f".{k}")), [])
        if not all(type(index) is int and index >= 0 for index in given):
            raise self._error("adapter-tokens", {})
        return list(given)

    def read(self, names: Iterable[str]) -> dict[str, bytearray]:
        """The bytes of tensors, as they are stored."""
        return {name: self.read_part(name, 0, self.tensors[name].nbytes) for name in names}

    def read_part(self, name: str, start: int, nbytes: int) -> bytearray:
        header = self.tensors[name]
        begin = header.start + start
        if not self.is_remote or self.repository.files[header.file] > WHOLE:
            return read_bytes(self.repository, header.file, begin, nbytes)
        with self._fetching:
            if not self._content:
                size = self.repository.files[header.file]
                self._content = read_bytes(self.repository, header.file, 0, size)
        return self._content[begin : begin + nbytes]

    def _sort_in(self, key: str) -> None:
        name = key.removeprefix("base_model.model.")
        # What stood there before, which PEFT may save along with the new, and what only VeLoRA's training reads.
        if ".original_module." in name or name.endswith(".lora_velora_embed"):
            return
        if other := OTHER_PART.fullmatch(name):
            self.others[other["module"]][other["part"]] = key
            return
        match = PART.fullmatch(name)
        if not match:
            for wrapper in (".base_layer", ".token_adapter", ".modules_to_save.default", ".modules_to_save"):
                name = name.replace(wrapper, "")
            if re.search(r"\.(lora|hada|lokr|ia3)_", name):
                raise self._error("adapter-tensor", {"tensor": key})
            self.saved[name] = key
            return
        module, part = match["module"], match["part"]
        if part.endswith("trainable_tokens_delta"):
            self.rows[module] = key
            return
        parts = self.low_rank.setdefault(module, LowRank())
        if part.endswith("_A"):
            parts.a = key
        elif part.endswith("magnitude_vector"):
            parts.magnitude = key
        elif match["rest"] == ".bias":
            parts.bias = key
        else:
            parts.b = key

    def _by_pattern(self, option: str, module: str) -> float | None:
        """The value of the first pattern that matches the end of a module's name, as PEFT matches them."""
        for pattern, value in (self.option(option) or {}).items():
            try:
                check_pattern(pattern)
                if re.match(rf"(.*\.)?({pattern})$", module):
                    return float(value)
            except (re.error, TypeError, ValueError) as error:
                values = {"pattern": pattern, "option": option, "error": str(error)}
                raise self._error("adapter-pattern", values) from None
        return None

    def _error(self, code: str, values: Mapping[str, Any]) -> CheckpointError:
        return _error(code, self.name, **values)


def check_pattern(pattern: str) -> None:
    """Check that a pattern can be matched in little time.

    Raises:
        re.error: it is too long, or repeats too much.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise re.error(f"{len(pattern)} characters, and up to {LONGEST_PATTERN} are read")
    if REPEATED_GROUP.search(pattern) or len(QUANTIFIERS.findall(pattern)) > 1:
        raise re.error("more than one wildcard")


def _read_config(repository: Repository) -> dict[str, Any]:
    name, files = repository.name, repository.files
    if CONFIG not in files:
        code = "adapter-is-model" if "config.json" in files else "no-adapter-config"
        raise _error(code, name, file=CONFIG)
    try:
        config = parse_json(read_small(repository, CONFIG, MAX_CONFIG))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise _error("damaged-adapter-config", name, file=CONFIG)
    return config


def _check_options(name: str, config: Mapping[str, Any]) -> None:
    for option, (expected, fits) in OPTIONS.items():
        value = config.get(option)
        if value is not None and not fits(value):
            raise _error("adapter-option", name, option=option, value=ascii(value)[:80], expected=expected)


def _check_kind(name: str, config: Mapping[str, Any]) -> None:
    kind = str(config.get("peft_type")).removeprefix("PeftType.")
    never = [option for option in NEVER_MERGED if config.get(option)]
    if kind in BESIDE_THE_MODEL or never:
        raise _error("adapter-never-merges", name, kind=kind, options=never)
    if kind not in KINDS:
        raise _error("adapter-kind", name, kind=kind, known=list(KINDS))
    begin = str(config.get("init_lora_weights")).lower()
    if begin.startswith(CHANGES_BASE):
        raise _error("adapter-changes-base", name, init=begin)
    other = sorted(option for option, value in config.items() if value and option not in HARMLESS)
    if other:
        raise _error("adapter-options", name, options=other)


def _weights(repository: Repository) -> str:
    for file in WEIGHTS:
        if file in repository.files:
            return file
    raise _error("adapter-without-weights", repository.name, file=WEIGHTS[0])


def _error(code: str, name: str, **values: Any) -> CheckpointError:
    return CheckpointError(Problem(code, {"adapter": name, **values}, name))
