"""What the page of a result says: lineage, recipe, scores, what was verified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import constants
from markupsafe import Markup

from checkpoints.names import is_in_bucket, model_name
from checkpoints.repositories.repository import HUB_SCHEME
from ui.gallery.card import chips, drawn, method_title, origin, sample_of, scores
from ui.gallery.hub_merge import HubMerge
from ui.gallery.hub_merges import GalleryMerge
from ui.gallery.sketch import sketch
from ui.languages.translate import t
from ui.merge.job_card import finished_details
from ui.server.jobs import JobStatus
from ui.widgets.html import Content, alert, card, folded, html, link, part, quiet, tag


@dataclass(frozen=True)
class ResultView:
    """A merge whose page is shown.

    Args:
        key: its address: owner/name on the Hub, else the id of the job that made it
        merge: what is known of it
        job: that made it; None if this browser did not ask for it
        can_run: whether chat and scores can read it
        on_hub: whether it is on the Hub
    """

    key: str
    merge: GalleryMerge
    job: JobStatus | None = None
    can_run: bool = True
    on_hub: bool = True

    @property
    def location(self) -> str:
        """What other tabs read it by."""
        if self.job and self.job.result:
            return model_name(self.job.result.location)
        return self.merge.model.name

    @property
    def parents(self) -> tuple[str, ...]:
        return self.job.models if self.job and self.job.models else self.merge.parents

    @property
    def can_heal(self) -> bool:
        """Whether it is one parent with other layers, and its card says that it is worse than that parent."""
        found, gain = self.merge.sketch, self.merge.model.gain
        is_worse = gain is not None and gain.verdict == "worse"
        return is_worse and found is not None and found.stack is not None and len(set(self.parents)) == 1


def view_of_job(job: JobStatus, on_hub: GalleryMerge | None, *, can_run: bool) -> ResultView:
    """The view of a job that is done.

    Args:
        on_hub: what the Hub says of its result; None if it is not there, or the Hub does not say
        can_run: whether chat and scores can read the result
    """
    assert job.result
    location = job.result.location
    is_there = location.startswith(HUB_SCHEME) and not is_in_bucket(location) and "@" not in location
    name = model_name(location) if is_there else job.title
    made = job.request.summaries[-1].parameters if job.request.summaries else 0
    recipe = job.request.recipe
    own = GalleryMerge(
        HubMerge(name, "", parents=job.models, parameters=made, private=job.request.private),
        recipe,
        sketch(recipe),
    )
    return ResultView(name if is_there else job.id, on_hub or own, job, can_run, is_there)


def result_card(view: ResultView) -> Markup:
    """Everything that is known of a merge."""
    model = view.merge.model
    url = f"{constants.ENDPOINT}/{model.name}"
    body: list[Content] = [
        tag.h2(link(url, model.name) if view.on_hub else model.name),
        tag.p(tag.b(method_title(view.merge.sketch)), class_="alloy-made"),
        quiet(t("result.private")) if model.private and view.on_hub else None,
        origin(view.merge),
        drawn(view.merge.sketch),
        [part(t("result.scores")), scores(view.merge)],
        chips(view.merge),
        [part(t("share.sample")), sample_of(model.sample, t("share.sample.source"))]
        if model.sample
        else None,
        [part(t("result.made")), finished_details(view.job)] if view.job else None,
        folded(t("recipe.fold"), tag.pre(view.merge.recipe)) if view.merge.recipe else None,
    ]
    return card(body, "good")


def no_result_card(silent: bool) -> Markup:
    """For an address that leads to nothing that this visitor may see."""
    return alert(t("gallery.silent" if silent else "result.nothing"))


def answers_side_by_side(question: str, names: Sequence[str], answers: Sequence[str]) -> Markup:
    """Answers of a merge and its parents to one question."""
    columns = [
        tag.div(tag.h4(name), tag.p(answer or "…"), class_="alloy-answer")
        for name, answer in zip(names, answers, strict=True)
    ]
    return html(
        part(t("result.answers", question=question)),
        tag.div(columns, class_="alloy-side", role="group", aria_label=question),
    )
