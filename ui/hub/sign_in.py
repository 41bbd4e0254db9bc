"""Signing in to a Space, and one permission that is asked for later: to rent machines.

The Space's application may ask for every scope in `hf_oauth_scopes` of README.md, which the platform passes on as
OAUTH_SCOPES. Gradio's sign-in asks for all scopes that it finds there when it is imported, so `jobs` is taken out
before. Whoever wants to rent a machine signs in again by the route here, which asks for all of them: the Hub shows what
is new, and Gradio's own callback puts the new sign-in in place of the old one.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ui.host import JOBS, Host

SIGN_IN, SIGN_OUT, ALLOW_JOBS = "/login/huggingface", "/logout", "/login/jobs"
# As Gradio's own button does it: the Space's frame may scroll from then on, the recipe has a moment to be saved, and
# the query, which may hold a recipe, is kept.
_GO = """() => {
    window.parent?.postMessage({ type: "SET_SCROLLING", enabled: true }, "*");
    setTimeout(() => location.assign("ADDRESS?_target_url=/" + location.search), 500);
}"""


def go_to(address: str) -> str:
    """The script of a button that leaves the page for one of these addresses, from where the visitor comes back."""
    return _GO.replace("ADDRESS", address)


def hold_back(environment: MutableMapping[str, str] = os.environ) -> None:
    """Take what is asked for later out of what the sign-in asks for. Call this before anything imports Gradio."""
    if scopes := environment.get("OAUTH_SCOPES"):
        environment["OAUTH_SCOPES"] = " ".join(scope for scope in scopes.split() if scope != JOBS)


def sign_in_routes(host: Host) -> list[Route]:
    """The route that asks for all permissions; none where the Space may not ask for more."""
    if not host.asks_for_jobs:
        return []

    async def ask(request: Request) -> Response:
        from authlib.integrations.starlette_client import OAuth

        oauth = OAuth()
        # By the name of Gradio's client, whose callback answers.
        oauth.register(
            name="huggingface",
            client_id=os.environ["OAUTH_CLIENT_ID"],
            client_secret=os.environ["OAUTH_CLIENT_SECRET"],
            client_kwargs={"scope": host.scopes},
            server_metadata_url=f"{os.environ['OPENID_PROVIDER_URL']}/.well-known/openid-configuration",
        )
        back = urlencode({"_target_url": request.query_params.get("_target_url", "/")})
        space = os.environ["SPACE_HOST"].split(",")[0]  # more than one for a Space with a domain of its own
        redirect: Response = await oauth.huggingface.authorize_redirect(
            request, f"https://{space}/login/callback?{back}"
        )
        return redirect

    return [Route(ALLOW_JOBS, ask, methods=["GET"])]
