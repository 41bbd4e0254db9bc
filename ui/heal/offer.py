"""Whether a result of one parent with other layers predicts worse than that parent, and what healing it would take."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from checkpoints import Token
from checkpoints.names import model_name
from checkpoints.problems import ProblemError
from evaluation.remark import Remark
from healing.data import PYTHON_TOPICS
from healing.price import needs_of
from merging.rented_machines import Offer, offers
from ui.hub.account import Account
from ui.languages.translate import remark_words, t
from ui.rented.panel import RentPanel, dollars
from ui.server.heals import HealService, chain_of
from ui.server.in_memory_merges import default_bytes
from ui.server.internal_error import log_unexpected
from ui.server.jobs import JobStatus
from ui.server.model_process import MODELS
from ui.server.work import watched
from ui.widgets.html import duration, html, quiet, tag

# Steps of the training that the button begins: two to three minutes for the demo's small model on two cores.
USUAL_STEPS = 60
# Results whose comparison is kept.
MOST_KEPT = 64


@dataclass(frozen=True)
class HealOffer:
    """A result beside its parent, and a training that would bring it nearer.

    Args:
        perplexity, of_parent: on the bundled English text
        remark: the difference, with its interval
        worse: whether the whole interval says that the result is worse
        seconds: that the training is estimated to take on this machine; None where it is not worse, or cannot be
            trained here
        rented: the cheapest rented machine for it; None where this page rents none
    """

    perplexity: float
    of_parent: float
    remark: Remark
    worse: bool
    seconds: float | None = None
    rented: Offer | None = None

    @property
    def can_heal(self) -> bool:
        """Whether the page offers to heal it."""
        return self.worse and self.seconds is not None


def usual_chain(recipe: str) -> str:
    """A recipe with the training that the button begins."""
    return chain_of(recipe, datasets=[PYTHON_TOPICS], steps=USUAL_STEPS)


def may_heal(job: JobStatus) -> bool:
    """Whether a result is one parent with other layers, which training may bring nearer to that parent."""
    return (
        job.state == "done"
        and job.result is not None
        and not job.request.training
        and len(job.models) == 1
        and "slices:" in job.request.recipe
        and not (job.request.download or job.request.only_gguf)
    )


class HealOffers:
    """Compares results with their parents, one after the other, beside the page.

    Args:
        heals: plans trainings
        rented: knows what machines cost
    """

    def __init__(self, heals: HealService, rented: RentPanel) -> None:
        self.heals = heals
        self.rented = rented
        self._lock = threading.Lock()
        self._comparing = threading.Lock()
        self._kept: OrderedDict[str, HealOffer | None] = OrderedDict()
        self._pending: set[str] = set()

    def of(self, job: JobStatus, who: Account, visitor: str) -> HealOffer | None:
        """What is known of a job's result; None while it is compared, and where it cannot be."""
        if not may_heal(job) or not self._is_small(job):
            return None
        with self._lock:
            if job.id in self._kept or job.id in self._pending:
                return self._kept.get(job.id)
            self._pending.add(job.id)
        threading.Thread(target=self._compare, args=(job, who, visitor), daemon=True).start()
        return None

    def is_pending(self, job: JobStatus) -> bool:
        """Whether a job's result is being compared."""
        with self._lock:
            return job.id in self._pending

    def _is_small(self, job: JobStatus) -> bool:
        """Strangers compare no model here that they may not have in memory to try."""
        assert job.result
        return not self.heals.host.on_space or job.result.bytes_out <= default_bytes()

    def _compare(self, job: JobStatus, who: Account, visitor: str) -> None:
        found = None
        try:
            with self._comparing:
                found = self._compared(job, who)
            if found and found.worse:
                found = self._with_cost(found, job, who, visitor)
        except ProblemError:
            pass  # it cannot be loaded or trained here, so nothing is offered
        except Exception as error:
            log_unexpected(error, who.token)
        finally:
            with self._lock:
                self._pending.discard(job.id)
                self._kept[job.id] = found
                while len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)

    def _compared(self, job: JobStatus, who: Account) -> HealOffer | None:
        assert job.result
        result, [parent] = model_name(job.result.location), job.models
        folders = self.heals.host.allow_folders
        with closing(MODELS.stream(compared, result, parent, who.for_hub, folders)) as news:
            *_, found = news
        return found if isinstance(found, HealOffer) else None

    def _with_cost(self, found: HealOffer, job: JobStatus, who: Account, visitor: str) -> HealOffer:
        plan = self.heals.plan(usual_chain(job.request.recipe), who, visitor)
        if not plan.ok:
            return found
        there = offers(needs_of(plan), self.rented.there(who)) if self.rented.host.rents else []
        return replace(found, seconds=plan.seconds, rented=there[0] if there else None)


def compared(
    result: str, parent: str, token: Token, allow_folders: bool
) -> Generator[HealOffer | None, None, None]:
    """Score a result and its parent on the bundled English text; runs where models are loaded."""
    from evaluation import difference, load_model, perplexity
    from evaluation.text import bundled_text

    def work(_: Callable[[Any], None], cancel: threading.Event) -> HealOffer:
        texts = bundled_text("english")
        own, other = (
            perplexity(load_model(name, token=token, allow_folders=allow_folders), texts, cancel=cancel)
            for name in (result, parent)
        )
        found = difference(own, other, texts)
        return HealOffer(own.perplexity, other.perplexity, found.remarks[0], found.verdict == "worse")

    return watched(work)


def offer_lines(offer: HealOffer) -> Markup:
    """A result beside its parent, and what healing it would take, for its card."""
    values = {"own": f"{offer.perplexity:.2f}", "parent": f"{offer.of_parent:.2f}"}
    said = t("heal.offer.worse" if offer.worse else "heal.offer.not_worse", **values)
    words: list[Any] = [tag.p(said), quiet(remark_words(offer.remark))]
    if offer.can_heal:
        assert offer.seconds is not None
        words.append(tag.p(t("heal.offer.here", steps=USUAL_STEPS, time=duration(max(offer.seconds, 60.0)))))
        if offer.rented:
            machine, price = offer.rented.machine.title, dollars(offer.rented.dollars)
            time = duration(offer.rented.seconds)
            words.append(quiet(t("heal.offer.rented", machine=machine, dollars=price, time=time)))
    return html(words)
