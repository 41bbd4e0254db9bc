"""A sign-in that asks for little, and a second one that asks for the permission to rent machines: Gradio's own routes
and callback, with a provider of identities on loopback.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import gradio as gr
import pytest
from gradio.routes import App
from joserfc import jwk, jwt
from starlette.testclient import TestClient

from ui.host import Host
from ui.hub.account import account
from ui.hub.sign_in import ALLOW_JOBS, SIGN_IN, hold_back, sign_in_routes

SPACE = {
    "SYSTEM": "spaces",
    "SPACE_ID": "you/alloy",
    "SPACE_HOST": "you-alloy.hf.space,alloy.example",
    "OAUTH_CLIENT_ID": "client",
    "OAUTH_CLIENT_SECRET": "secret",
    "OAUTH_SCOPES": "openid profile contribute-repos jobs",
}
KEY = jwk.RSAKey.generate_key(2048, {"kid": "one"})


class Provider:
    """What the Hub does of OpenID: it grants whatever is asked for.

    Attributes:
        asked: the parameters of the last visit to its page of consent
    """

    def __init__(self) -> None:
        self.asked: dict[str, str] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(provider.known() if "well-known" in self.path else {"keys": [KEY.as_dict()]})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self._answer(provider.token())

            def _answer(self, content: object) -> None:
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def known(self) -> dict[str, object]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/oauth/authorize",
            "token_endpoint": f"{self.url}/oauth/token",
            "jwks_uri": f"{self.url}/jwks",
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def token(self) -> dict[str, object]:
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": "client", "sub": "1", "iat": now, "exp": now + 600, "nonce": self.asked["nonce"],
            "name": "Ann", "preferred_username": "ann", "profile": "", "picture": "",
        }  # fmt: skip
        return {
            "access_token": "hf_oauth_token",
            "token_type": "bearer",
            "expires_in": 600,
            "scope": self.asked["scope"],
            "id_token": jwt.encode({"alg": "RS256", "kid": "one"}, claims, KEY),
        }


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    threading.Thread(target=made.server.serve_forever, daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def visitor(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """A browser on a Space whose page has an event that says what its visitor may do."""
    environment = {**SPACE, "OPENID_PROVIDER_URL": provider.url}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    host = Host.from_environment(environment)
    hold_back(environment)
    for name in ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL"):
        monkeypatch.setattr(f"gradio.oauth.{name}", environment[name])  # as when Gradio is imported

    def may_rent(oauth: gr.OAuthToken | None) -> bool:
        return account(host, oauth).may_rent

    # Its annotations are names of this function's scope, which Gradio could not look up.
    may_rent.__annotations__ = {"oauth": gr.OAuthToken | None, "return": bool}
    with gr.Blocks() as page:
        gr.LoginButton(visible=False)
        shown = gr.Checkbox()
        page.load(may_rent, None, shown, api_name="may_rent", queue=False)
    app = App.create_app(page, app_kwargs={"routes": sign_in_routes(host)})
    return TestClient(app, base_url="https://you-alloy.hf.space", follow_redirects=False)


def consent(visitor: TestClient, provider: Provider, address: str) -> str:
    """Sign in by an address, and consent to what is asked for; where the visitor comes back to."""
    sent = urlsplit(visitor.get(address).headers["location"])
    assert f"{sent.scheme}://{sent.netloc}{sent.path}" == f"{provider.url}/oauth/authorize"
    provider.asked = {name: values[0] for name, values in parse_qs(sent.query).items()}
    back = visitor.get(f"{provider.asked['redirect_uri']}&code=1&state={provider.asked['state']}")
    assert back.status_code in (302, 307), back.text
    return str(back.headers["location"])


def may_rent(visitor: TestClient) -> bool:
    answer: Any = visitor.post("/gradio_api/run/may_rent", json={"data": []})
    assert answer.status_code == 200, answer.text
    return bool(answer.json()["data"][0])


def test_the_permission_to_rent_is_asked_for_later(visitor: TestClient, provider: Provider) -> None:
    assert not may_rent(visitor)

    assert consent(visitor, provider, SIGN_IN) == "/"
    assert provider.asked["scope"] == "openid profile contribute-repos"
    assert not may_rent(visitor)

    assert consent(visitor, provider, f"{ALLOW_JOBS}?_target_url=/%3Frecipe=1") == "/?recipe=1"
    assert provider.asked["scope"] == "openid profile contribute-repos jobs"
    assert provider.asked["redirect_uri"].startswith("https://you-alloy.hf.space/login/callback?")
    assert may_rent(visitor)


def test_a_visitor_comes_back_to_the_space_alone(visitor: TestClient, provider: Provider) -> None:
    assert consent(visitor, provider, f"{ALLOW_JOBS}?_target_url=https://elsewhere.example/x") == "/x"


def test_a_space_without_the_scope_asks_for_nothing() -> None:
    kept = {**SPACE, "OAUTH_SCOPES": "openid profile"}
    host = Host.from_environment(kept)

    hold_back(kept)

    assert not host.rents
    assert sign_in_routes(host) == []
    assert kept["OAUTH_SCOPES"] == "openid profile"
