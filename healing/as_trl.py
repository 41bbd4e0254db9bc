"""A training as the YAML that `trl sft --config` and `trl dpo --config` read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import yaml

from checkpoints.problems import PlanError, Problem
from healing.settings import Training

# Kinds that TRL has a command for.
COMMANDS = ("sft", "dpo")


def as_trl_config(training: Training, model: str = "MODEL") -> str:
    """The same training for TRL's command line, which trains a model that was merged before.

    Args:
        training: of a kind in `COMMANDS`
        model: folder or "owner/name" of the merged model

    Raises:
        PlanError: TRL has no command for it.
    """
    if training.kind.name not in COMMANDS:
        raise PlanError(Problem("training-kind", {"given": training.kind.name, "known": list(COMMANDS)}))
    given = asdict(training.arguments)
    datasets: list[dict[str, Any]] = []
    for dataset in training.datasets:
        if dataset.path.endswith((".jsonl", ".txt")):
            kind = "json" if dataset.path.endswith(".jsonl") else "text"
            datasets.append({"path": kind, "data_files": dataset.path})
        else:
            datasets.append({"path": dataset.path, "name": dataset.name, "split": dataset.split})
    config = {
        "model_name_or_path": model,
        "datasets": datasets,
        "use_peft": training.weights in (None, "lora"),
        "lora_target_modules": "all-linear",
        **given,
        **training.loss,
        "lr_scheduler_type": "linear",
        "save_strategy": "steps",
        "output_dir": f"{training.name or 'result'}-trl",
    }
    return yaml.safe_dump(config, sort_keys=False)
