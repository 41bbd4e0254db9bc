"""What `from healing import ...` offers."""

from healing.plan import HealPlan, plan_training
from healing.run import Healed, Judgement, run_training
from healing.settings import Arguments, Dataset, Training, read_training
from healing.training import TrainingStep

__all__ = [
    "Arguments",
    "Dataset",
    "HealPlan",
    "Healed",
    "Judgement",
    "Training",
    "TrainingStep",
    "plan_training",
    "read_training",
    "run_training",
]
