"""Recipes from elsewhere: a link that holds one, a merged model on the Hub, a file."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qs, quote, urlsplit

import gradio as gr
import httpx2
from huggingface_hub import constants, get_session

from checkpoints.yaml import RECIPE, YamlError, load
from merging import MergeError, Problem
from ui.host import Host
from ui.hub.account import Account

QUERY = "recipe"
# Copies a link to the clipboard.
COPY = "(link) => { navigator.clipboard?.writeText(link).catch(() => {}); }"
SECONDS_TO_WAIT = 10
RECIPE_FILES = ("mergekit_config.yml", "mergekit_config.yaml", "mergekit_moe_config.yml")
# Of these a recipe has one at its top.
_TELLING = ("merge_method", "experts")
_MODEL = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(?:(?:/(?:tree|blob|resolve)/|@)(?P<revision>[\w.-]+))?(?:/.*)?"
)
_FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def query_of(recipe: str) -> str:
    """The recipe as the query of a link: `recipe=...`, compressed."""
    return f"{QUERY}={base64.urlsafe_b64encode(zlib.compress(recipe.encode(), 9)).decode().rstrip('=')}"


def page_address(host: Host, headers: Mapping[str, str], scheme: str = "http") -> str:
    """The address under which this server answers, without a slash at its end.

    Args:
        headers: of a request from whoever gets the address
        scheme: of that request
    """
    if host.space_id:
        # As the Hub makes it; huggingface.co/spaces/... shows the page in a frame, without its pictures.
        return f"https://{re.sub(r'[^a-z0-9]', '-', host.space_id.lower())}.hf.space"
    return headers.get("origin") or f"{scheme}://{headers.get('host')}"


def link_to(host: Host, recipe: str, request: gr.Request) -> str:
    """A link that holds the recipe, to the page that says what it is."""
    return f"{page_address(host, request.headers)}/share?{query_of(recipe)}"


def recipe_of(link: str) -> str | None:
    """The recipe in a link, or in a link's query value; None if there is none, or it is damaged."""
    value = parse_qs(urlsplit(link).query).get(QUERY, [link.removeprefix(f"{QUERY}=")])[0]
    try:
        packed = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
        # A link must not unpack to gigabytes.
        unpacked = zlib.decompressobj().decompress(packed, RECIPE)
        return unpacked.decode()
    except (binascii.Error, zlib.error, UnicodeError, ValueError):
        return None


def recipe_in(text: str) -> str | None:
    """The recipe in a text: all of it, or the first fenced block that is one."""
    return next((candidate for candidate in _candidates(text[:RECIPE]) if _is_recipe(candidate)), None)


def find_recipe(source: str, who: Account) -> tuple[str, str]:
    """The recipe for a model's name, a page's address, a link or the text itself.

    Returns:
        The recipe, and the model's name, which is empty for links and texts.

    Raises:
        MergeError: there is none.
    """
    source = source.strip()
    if "\n" in source and (recipe := recipe_in(source)):
        return recipe, ""
    if f"{QUERY}=" in source and (recipe := recipe_of(source)):
        return recipe, ""
    path = source
    for start in (constants.ENDPOINT, "https://huggingface.co", "https://hf.co", "huggingface.co", "hf:/"):
        path = path.removeprefix(f"{start}/")
    match = _MODEL.fullmatch(path.partition("?")[0].strip("/"))
    if match is None:
        raise MergeError(Problem("source", {"source": source[:120]}))
    name, revision = match["name"], match["revision"] or "main"
    for file in (*RECIPE_FILES, "README.md"):
        text = text_file(name, revision, file, who)
        if text and (recipe := recipe_in(text)):
            return recipe, name
    raise MergeError(Problem("no-recipe", {"name": name}))


def text_file(name: str, revision: str, file: str, who: Account) -> str | None:
    """The beginning of a text file of a model; None if it has none of that name.

    Raises:
        MergeError: this account may not read the model, or the Hub does not answer.
    """
    url = f"{constants.ENDPOINT}/{name}/resolve/{quote(revision, safe='')}/{file}"
    headers = {"authorization": f"Bearer {who.token}"} if who.token else {}
    try:
        with get_session().stream(
            "GET", url, headers=headers, timeout=SECONDS_TO_WAIT, follow_redirects=True
        ) as response:
            if response.status_code == 404 and response.headers.get("x-error-code") == "EntryNotFound":
                return None
            if response.status_code != 200:
                raise MergeError(Problem("not-found", {"name": name, "status": response.status_code}))
            text = b""
            for piece in response.iter_bytes():
                text += piece
                if len(text) > RECIPE:
                    break
            return text.decode(errors="replace")
    except (httpx2.HTTPError, OSError) as error:
        raise MergeError(Problem("silent")) from error


def _candidates(text: str) -> Iterator[str]:
    yield text
    for block in _FENCED.finditer(text):
        yield block[1]


def _is_recipe(text: str) -> bool:
    if not any(key in text for key in _TELLING):
        return False
    try:
        recipe = load(text)
    except YamlError:
        return False
    return isinstance(recipe, dict) and any(key in recipe for key in _TELLING)
