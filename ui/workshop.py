"""What a visitor may ask for: the plan of a recipe, a merge, a look at a job. Buttons and API both ask here."""

from __future__ import annotations

import threading
from collections.abc import Callable

from merging import MergeError, Plan, Problem, Progress, Result, make_plan, read_recipe, run_plan
from ui.account import Account
from ui.defect import told
from ui.host import Host
from ui.jobs import JobBoard, Snapshot
from ui.texts import t


class Workshop:
    """The merging of one server, as its visitors may use it.

    Args:
        host: what the machine allows
        board: where the jobs run
    """

    def __init__(self, host: Host, board: JobBoard):
        self.host = host
        self.board = board

    def plan(self, recipe: str, to: str | None, who: Account, *, overwrite: bool = False) -> Plan:
        """The plan of a recipe; it has problems rather than raising, even for a text that is no recipe."""
        try:
            return make_plan(
                read_recipe(recipe),
                to,
                token=who.for_hub,
                overwrite=overwrite,
                allow_folders=self.host.allow_folders,
            )
        except MergeError as error:
            return Plan(recipe=recipe, method="", problems=error.problems)
        except Exception as error:
            message = t("plan.unexpected", error=told(error, who.token))
            return Plan(
                recipe=recipe, method="", problems=(Problem("defect", message, t("plan.unexpected.fix")),)
            )

    def merge(
        self, plan: Plan, to: str, who: Account, visitor: str, *, private: bool, overwrite: bool
    ) -> str:
        """Put a good plan in line.

        Returns:
            The job's id.

        Raises:
            MergeError: the plan has problems, or the line is full.
        """
        if not plan.ok:
            raise MergeError(plan.problems)

        def work(on_progress: Callable[[Progress], None], cancel: threading.Event) -> Result:
            return run_plan(
                plan,
                to,
                token=who.for_hub,
                private=private,
                overwrite=overwrite,
                device="cpu",
                on_progress=on_progress,
                cancel=cancel,
            )

        title = (
            to.removeprefix("hf://").rpartition("/")[2]
            if self.host.allow_folders
            else to.removeprefix("hf://")
        )
        return self.board.submit(visitor, title, tuple(model.name for model in plan.models), work)

    def job(self, job_id: str) -> Snapshot:
        """A job as it stands.

        Raises:
            MergeError: there is none with this id.
        """
        snapshot = self.board.snapshot(job_id)
        if snapshot is None:
            raise MergeError(Problem("no-job", t("jobs.unknown"), t("jobs.unknown.fix")))
        return snapshot
