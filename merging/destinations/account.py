"""Whether a login may create something on the Hub for an owner, and how much."""

from __future__ import annotations

from typing import Any

import httpx2
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from checkpoints.problems import Problem
from checkpoints.repositories.repository import Token, current_token
from checkpoints.repositories.retry import retry
from merging.destinations.hub_limits import HubLimits, limits_of
from merging.destinations.hub_sink import hub_api


def account_limits(owner: str, name: str, place: str, token: Token) -> HubLimits | Problem:
    """What a login is allowed there, or why it may not write there.

    Args:
        owner: a user or an organization
        name: of what is written to
        place: where the problem is, see `Problem`
        token: whose access to use
    """

    def _problem(code: str, **values: Any) -> Problem:
        return Problem(code, {"repository": name, **values}, place)

    if current_token(token) is False:
        return _problem("no-login")
    try:
        account = retry(lambda: hub_api(token).whoami())
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        status = getattr(getattr(error, "response", None), "status_code", 401)
        return _problem("no-login") if status in (401, 403) else _problem("hub-status", status=status)
    except (httpx2.HTTPError, OSError) as error:
        return _problem("hub-silent", error=type(error).__name__)
    owners = [account["name"], *(org["name"] for org in account.get("orgs", ()))]
    if owner.lower() not in [name.lower() for name in owners]:
        return _problem("not-yours", account=account["name"], owner=owner, owners=owners)
    return limits_of(account, owner)
