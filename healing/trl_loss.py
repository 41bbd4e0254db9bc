"""The losses of TRL's trainers: they prepare the rows and compute the loss; the steps are taken by `healing.training`.

So a run of any kind has the same state, without pickles, and continues with the same bits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from checkpoints.problems import Problem
from evaluation import EvaluationError, LanguageModel
from healing.data import Row, is_conversation
from healing.settings import Training


@dataclass
class TrlLoss:
    """The loss of one of TRL's trainers.

    Args:
        trainer: holds the network and the prepared rows
        device: of the network
    """

    trainer: Any
    device: str

    @property
    def count(self) -> int:
        """Of rows."""
        return len(self.trainer.train_dataset)

    def loss(self, chosen: Sequence[int]) -> Tensor:
        """Of the rows with these numbers."""
        trainer = self.trainer
        batch = trainer.data_collator([trainer.train_dataset[number] for number in chosen])
        inputs = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
        with _refusals_named():
            found: Tensor = trainer.compute_loss(trainer.model, inputs)
        return found


def trl_loss(
    training: Training,
    student: LanguageModel,
    network: Any,
    rows: Sequence[Row],
    folder: Path,
    teacher: LanguageModel | None = None,
) -> TrlLoss:
    """Let TRL prepare rows for a kind of training.

    Args:
        training: its kind and numbers.
        student: whose tokenizer is used.
        network: that is trained, see `healing.weights.prepare`.
        rows: all of one form.
        folder: for a tokenizer on the way.
        teacher: for `gold`.

    Raises:
        EvaluationError: TRL is not installed, or refuses rows or arguments; or the model has no chat template.
    """
    from datasets import Dataset, disable_progress_bars

    if student.tokenizer.chat_template is None and is_conversation(rows[0]):
        raise EvaluationError(Problem("rows-without-template", {"columns": list(rows[0])}))
    try:
        make = _MAKERS[training.kind.name]
        disable_progress_bars()
        tokenizer = copy.deepcopy(student.tokenizer)  # TRL sets its padding
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        common = {
            "processing_class": tokenizer,
            "train_dataset": Dataset.from_list([dict(row) for row in rows]),
        }
        with _refusals_named():
            trainer = make(network, common, _arguments(training, student.device, folder), teacher)
    except ImportError as error:
        raise EvaluationError(Problem("no-trl", {"kind": training.kind.name})) from error
    if not len(trainer.train_dataset):
        raise EvaluationError(Problem("rows-too-short", {"rows": len(rows)}))
    return TrlLoss(trainer, student.device)


@contextmanager
def _refusals_named() -> Iterator[None]:
    """Turn what TRL says of rows and arguments into an `EvaluationError`."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        words = " ".join(str(error).split())[:300]
        raise EvaluationError(Problem("trl-refused", {"words": words})) from error


def _arguments(training: Training, device: str, folder: Path) -> dict[str, Any]:
    """For TRL's config. Its own defaults are for whole models on a GPU."""
    given = training.arguments
    return {
        "output_dir": str(folder),
        "max_length": given.max_length,
        "per_device_train_batch_size": given.per_device_train_batch_size,
        "seed": given.seed,
        "use_cpu": device == "cpu",
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        **training.loss,
    }


def _sft(network: Any, common: Mapping[str, Any], arguments: Mapping[str, Any], _: Any) -> Any:
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    return SFTTrainer(network, SFTConfig(**{"loss_type": "nll", **arguments}), **common)


def _dpo(network: Any, common: Mapping[str, Any], arguments: Mapping[str, Any], _: Any) -> Any:
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    # Without an adapter that can be switched off, the model before the training is a copy.
    reference = None if hasattr(network, "peft_config") else copy.deepcopy(network).requires_grad_(False)
    return DPOTrainer(network, reference, DPOConfig(**arguments), **common)


def _orpo(network: Any, common: Mapping[str, Any], arguments: Mapping[str, Any], _: Any) -> Any:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return ORPOTrainer(network, ORPOConfig(**arguments), **common)


def _gold(network: Any, common: Mapping[str, Any], arguments: Mapping[str, Any], teacher: Any) -> Any:
    from trl.experimental.gold import GOLDConfig, GOLDTrainer

    # TRL reads the teacher's tokenizer from a folder.
    folder = Path(arguments["output_dir"]) / "tokenizer"
    teacher.tokenizer.save_pretrained(folder)
    given = {
        "use_uld_loss": True,
        "teacher_tokenizer_name_or_path": str(folder),
        "lmbda": 0.0,  # the rows as they are, and no answers of the student
        "max_completion_length": arguments["max_length"] // 2,
        **arguments,
    }
    return GOLDTrainer(network, teacher.network, GOLDConfig(**given), **common)


_MAKERS: dict[str, Callable[..., Any]] = {"sft": _sft, "dpo": _dpo, "orpo": _orpo, "gold": _gold}
