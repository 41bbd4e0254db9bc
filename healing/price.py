"""What a training costs: nothing on this machine, and on each machine that Hugging Face rents out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from checkpoints import Token
from checkpoints.repositories.repository import current_token
from merging.engine.workspace import default_workers
from merging.rented_machines import Needs, Offer, machines, offers

if TYPE_CHECKING:
    from healing.plan import HealPlan


def needs_of(plan: HealPlan) -> Needs:
    """What a training takes of a rented machine, by what it takes here."""
    return Needs.scaled(plan.memory_bytes, plan.seconds, default_workers())


def rented_offers(plan: HealPlan, token: Token = None) -> list[Offer]:
    """The rented machines that a training fits on, the cheapest first; none if the Hub does not say."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        there = machines(HfApi(token=current_token(token)))
    except (HfHubHTTPError, httpx2.HTTPError, OSError, KeyError, TypeError):
        return []
    return offers(needs_of(plan), there)


def prices(found: list[Offer]) -> list[dict[str, Any]]:
    """Offers as JSON."""
    return [
        {
            "machine": offer.machine.name,
            "title": offer.machine.title,
            "seconds": offer.seconds,
            "dollars": round(offer.dollars, 4),
        }
        for offer in found
    ]
