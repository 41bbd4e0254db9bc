"""The Hugging Face account that a request acts for.

On a Space: the visitor's own, from the sign-in, or none. On a laptop: the machine's login. The token is read again for
each request; it never reaches the page, the browser, a log or a file.
"""

from __future__ import annotations

import hashlib
import ipaddress
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

import gradio as gr
import httpx2
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError
from starlette.requests import HTTPConnection

from ui.host import JOBS, Host
from ui.languages.translate import t


@dataclass(frozen=True)
class Account:
    """Who asks.

    Args:
        source: "visitor" (signed in, or an API caller's own token), "machine" (its login), "nobody" (anonymous)
        token: for the Hub; kept only for the lifetime of the request, its job or its merge in memory
        may_rent: the visitor's sign-in includes the permission to rent machines
    """

    source: Literal["visitor", "machine", "nobody"]
    token: str | None = field(default=None, repr=False)
    may_rent: bool = False

    @property
    def for_hub(self) -> str | Literal[False]:
        """The token as huggingface_hub takes it: False means anonymous, never the machine's login."""
        return self.token or False


@dataclass(frozen=True)
class Identity:
    """The names an account may write under.

    Args:
        name: user name; empty if nobody is signed in or the Hub did not answer
        organizations: that the user belongs to
        trouble: a sentence if the Hub refused or could not be reached
    """

    name: str = ""
    organizations: tuple[str, ...] = ()
    trouble: str = ""

    @property
    def owners(self) -> tuple[str, ...]:
        return (self.name, *self.organizations) if self.name else ()


def account(host: Host, oauth: gr.OAuthToken | None) -> Account:
    """The account of one request; `oauth` is what Gradio injects."""
    if oauth is not None:
        return Account("visitor", oauth.token, JOBS in oauth.scope.split())
    if host.on_space or host.sign_in:
        # The Space's own token must never serve a visitor.
        return Account("nobody")
    token = get_token()
    return Account("machine", token) if token else Account("nobody")


def identify(account: Account) -> Identity:
    """Ask the Hub whose account this is."""
    if account.token is None:
        return Identity()
    try:
        answer = HfApi(token=account.token).whoami()
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else "?"
        return Identity(trouble=t("account.refused", code=code))
    except (httpx2.HTTPError, OSError):
        return Identity(trouble=t("account.unreachable"))
    organizations = tuple(str(org["name"]) for org in answer.get("orgs", ()) if org.get("name"))
    return Identity(str(answer.get("name", "")), organizations)


class _UserNames:
    """The user names behind tokens, so that the Hub is asked once for each. Tokens are kept as digests."""

    MOST = 1000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, str] = OrderedDict()

    def of(self, account: Account) -> str:
        """The name of a visitor's account; empty if the Hub does not confirm it."""
        if account.source != "visitor" or not account.token:
            return ""
        digest = hashlib.sha256(account.token.encode()).digest()
        with self._lock:
            if name := self._known.get(digest):
                return name
        name = identify(account).name
        if name:
            with self._lock:
                self._known[digest] = name
                if len(self._known) > self.MOST:
                    self._known.popitem(last=False)
        return name


_user_names = _UserNames()


def visitor(who: Account, request: gr.Request | None) -> str:
    """Who a request counts for in the line: the user, whatever token came with it, or else the network address.

    Anyone can make up tokens, and has a great many addresses of IPv6: what counts is a name that the Hub confirms, or
    the network (/64) that a provider gives to one customer.
    """
    if name := _user_names.of(who):
        return f"@{name}"
    return network(request) if request else ""


def network(request: gr.Request | HTTPConnection) -> str:
    """The address that a request comes from, or for IPv6 its /64; empty where the connection has none."""
    address = _address(request)
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def _address(request: gr.Request | HTTPConnection) -> str:
    """The address that a request comes from."""
    # On a Space the connection comes from its proxy, the same for all visitors. Each proxy appends the address that it
    # received the request from, so the last public address is one that a visitor cannot make up.
    for entry in reversed(str(request.headers.get("x-forwarded-for") or "").split(",")):
        address = _without_port(entry.strip())
        try:
            if ipaddress.ip_address(address).is_global:
                return address
        except ValueError:
            continue
    return str(request.client.host) if request.client else ""


def _without_port(entry: str) -> str:
    """The address in an entry of a proxy: some write `8.8.4.4:443`, and `[2001:db8::1]:443` or `[2001:db8::1]`."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    host, _, port = entry.partition(":")
    return host if "." in host and port.isdecimal() else entry
