"""Heals what was cut, stacked or merged: trains it to predict what its parent does, and judges the result.

    from healing import plan_training, run_training

    plan = plan_training(open("heal.yaml").read())
    healed = run_training(plan, "folder", work=Path("folder.training"))
    print(healed.judgement.gain.words)

`healing.public` lists what it offers, and is imported when that is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from checkpoints.lazy import offer

if TYPE_CHECKING:
    from healing.public import *  # noqa: F403

offer(__name__)
