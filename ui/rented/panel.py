"""The offer to work on a rented machine: what each would cost, and the button."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import gradio as gr
import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from markupsafe import Markup

from checkpoints.memory import machine_memory
from merging import MergeError, Plan, Problem
from merging.rented_machines import Needs, Offer, RentedMachine, machines, offers
from ui.host import Host
from ui.hub.account import Account, account
from ui.hub.sign_in import ALLOW_JOBS, go_to
from ui.languages.translate import in_each_language, t
from ui.widgets.events import NETWORK, PRIVATE, Updates
from ui.widgets.html import (
    column,
    count,
    duration,
    figure,
    html,
    quiet,
    scrolling,
    size,
    status,
    table,
    table_row,
    tag,
)

# Seconds for which the Hub's list of machines is kept.
KEPT_SECONDS = 600.0


class RentPanel:
    """The offers, made inside the page's Blocks, folded until work does not fit on this machine.

    Args:
        button: the words of the button, by their key
        visible: whether it is there at all

    Attributes:
        needs: what the work takes, or None
        machine: the chosen one's name
        go: rents it
        allow: asks for the permission to rent one, where a sign-in has none
        command: what rents it from a shell, where this page may not
        message: what went wrong
    """

    def __init__(self, host: Host, button: str = "rent.button", *, visible: bool = True) -> None:
        self.host = host
        self._kept: tuple[float, list[RentedMachine]] = (float("-inf"), [])
        self._lock = threading.Lock()
        self.needs = gr.State(None)
        with gr.Accordion(t("rent.heading"), open=False, visible=visible) as self.box:
            self.offers = gr.HTML(in_each_language(_about))
            self.machine = gr.Radio([], label=t("rent.machine"), visible=False)
            self.go = gr.Button(t(button), visible=False)
            self.allow = gr.Button(t("rent.allow"), visible=False)
            self.command = gr.Code(label=t("jobs.rented"), language="shell", visible=False, wrap_lines=True)
            self.message = gr.HTML()

    @property
    def outputs(self) -> list[Any]:
        """What `show` may update."""
        return [self.box, self.offers, self.machine, self.go, self.allow, self.command, self.message]

    def wire(self) -> None:
        """Show offers whenever the needs change."""
        self.needs.change(self._shown, self.needs, self.outputs, **{**NETWORK, "show_progress": "hidden"})
        self.allow.click(None, None, None, js=go_to(ALLOW_JOBS), **PRIVATE)

    def _shown(self, needs: Needs | None, oauth: gr.OAuthToken | None) -> Updates:
        return self.show(needs, account(self.host, oauth))

    def show(self, needs: Needs | None, who: Account) -> Updates:
        """Offer machines for a plan."""
        nothing: Updates = {
            self.message: "",
            self.go: _hidden(),
            self.allow: _hidden(),
            self.machine: _hidden(),
            self.command: _hidden(),
        }
        if needs is None:
            return {self.offers: _about(), **nothing}
        there = self.there(who)
        found = offers(needs, there)
        if not found:
            words = t("rent.too_large", size=size(needs.memory)) if there else t("rent.unknown")
            return {self.offers: status(words), **nothing}
        asks = self.asks(who)
        permission = quiet(t("rent.allow.info")) if asks else None
        names = [(_title(offer), offer.machine.name) for offer in found]
        return {
            **nothing,
            self.box: gr.update(open=True) if needs.memory > machine_memory() else gr.update(),
            self.offers: html(quiet(t("rent.info")), _table(found), quiet(t("rent.estimate")), permission),
            self.machine: gr.update(choices=names, value=names[0][1], visible=True),
            self.go: gr.update(visible=self.host.rents and not asks),
            self.allow: gr.update(visible=asks),
        }

    def asks(self, who: Account) -> bool:
        """Whether a visitor has to allow it first."""
        return self.host.asks_for_jobs and not who.may_rent

    def offer(self, needs: Needs | None, name: str, who: Account) -> Offer:
        """The offer of a machine.

        Raises:
            MergeError: nothing is planned, or the machine is no longer offered for it.
        """
        for offer in offers(needs, self.there(who)) if needs else ():
            if offer.machine.name == name:
                return offer
        raise MergeError(Problem("rented-hub", {"status": 404}))

    def there(self, who: Account) -> list[RentedMachine]:
        """The machines that the Hub rents out; none if it does not say."""
        with self._lock:
            when, kept = self._kept
            if time.monotonic() - when < KEPT_SECONDS:
                return kept
            try:
                kept = machines(HfApi(token=who.for_hub))
            except (HfHubHTTPError, httpx2.HTTPError, OSError, KeyError, TypeError):
                return []
            self._kept = (time.monotonic(), kept)
            return kept


def needs_of(plan: Plan) -> Needs | None:
    """What a plan takes; None of one with problems."""
    return Needs.of(plan) if plan.ok else None


def _title(offer: Offer) -> str:
    return t("rent.choice", machine=offer.machine.title, dollars=dollars(offer.dollars))


def dollars(amount: float) -> str:
    """An amount of money, for people."""
    return f"${amount:.2f}" if amount >= 0.01 else "< $0.01"


def _table(found: Sequence[Offer]) -> Markup:
    columns = [
        column(t("rent.machine")),
        column(t("rent.cpus"), of_figures=True),
        column(t("plan.memory"), of_figures=True),
        column(t("rent.hour"), of_figures=True),
        column(t("plan.time"), of_figures=True),
        column(t("rent.cost"), of_figures=True),
    ]
    rows = [
        table_row(
            [offer.machine.title, tag.small(tag.code(offer.machine.name))],
            figure(count(offer.machine.cpus)),
            figure(size(offer.machine.memory)),
            figure(dollars(60 * offer.machine.dollars)),
            figure(duration(offer.seconds)),
            figure(dollars(offer.dollars)),
        )
        for offer in found
    ]
    return scrolling(table(columns, rows), focusable=True)


def _hidden() -> Any:
    return gr.update(visible=False)


def _about() -> str:
    return status(t("rent.about"))
