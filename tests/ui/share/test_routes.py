"""Shared links: the landing, its picture, and the badge, as a browser or another site asks for them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import httpx2
import pytest
from PIL import Image, ImageChops
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tests.hub import Hub
from tests.ui.gallery.test_hub_merges import CARD, put
from tests.ui.test_cards import EVIL
from ui.gallery.figures import Gain
from ui.gallery.hub_merge import HubMerge
from ui.gallery.hub_merges import GalleryMerge, HubMerges
from ui.host import Host
from ui.hub.account import Account
from ui.hub.recipes import find_recipe, page_address, query_of
from ui.languages.korean import KOREAN
from ui.page import build_page, launch_settings
from ui.share.badge import badge_in_markdown
from ui.share.landing import Shared
from ui.share.picture import BESIDE_CURVE, EDGE, TALL, WIDE, Pictured, cut, picture
from ui.share.routes import share_routes

RECIPE = """\
merge_method: slerp
base_model: a/one
models: [{model: a/one}, {model: a/two}]
parameters: {t: [0, 0.5, 1]}
"""


def client_of(**environment: str) -> TestClient:
    host = Host.from_environment(environment)
    return TestClient(Starlette(routes=share_routes(host, HubMerges())), base_url="http://alloy.test")


@pytest.fixture
def client(hub: Hub) -> Iterator[TestClient]:
    with client_of() as client:
        yield client


def test_a_recipe_lands_on_what_it_is_with_a_button_to_remix_it(client: TestClient) -> None:
    answer = client.get(f"/share?{query_of(RECIPE)}")

    assert answer.status_code == 200
    assert "<h1>one + two</h1>" in answer.text and "SLERP" in answer.text
    assert f'href="./?{query_of(RECIPE)}"' in answer.text and "Remix this" in answer.text
    assert "t, from the first layer to the last" in answer.text
    [picture_of_it] = re.findall('property="og:image" content="([^"]+)"', answer.text)
    assert picture_of_it.startswith("http://alloy.test/share/picture.png?recipe=")
    drawn = client.get(picture_of_it.replace("&amp;", "&"))
    assert drawn.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(drawn.content)).size == (WIDE, TALL)


def test_a_merge_lands_with_scores_licence_and_a_sample_answer(client: TestClient, hub: Hub) -> None:
    hub.add_user("ann")
    put(hub, "ann/merged", card=CARD)

    answer = client.get("/share?merge=ann/merged")

    for words in ("ann/merged", "Task Arithmetic", "apache-2.0", "Better than its best parent", "Ahoy!"):
        assert words in answer.text
    assert client.get("/share/picture.png?merge=ann/merged").status_code == 200


def test_it_speaks_the_readers_language(client: TestClient) -> None:
    answer = client.get(f"/share?{query_of(RECIPE)}", headers={"accept-language": "ko-KR,en"})

    assert '<html lang="ko">' in answer.text
    assert str(KOREAN.page["share.remix"]) in answer.text and "Remix this" not in answer.text


def test_a_private_merge_is_as_good_as_none(
    client: TestClient, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = hub.add_user("ann")
    monkeypatch.setenv("HF_TOKEN", token)  # the machine's login, which may see it
    put(hub, "ann/closed", private=True)

    closed, missing = (client.get(f"/share?merge=ann/{name}") for name in ("closed", "missing"))

    assert (closed.status_code, closed.text) == (404, missing.text)
    assert client.get("/share/picture.png?merge=ann/closed").status_code == 404


@pytest.mark.parametrize(
    "query",
    ["", "recipe=", "recipe=AAAA", "recipe=%00", "merge=../etc", "merge=http://127.0.0.1:1/x", "merge=a",
     f"recipe={'A' * 60_000}", "other=1"],
)  # fmt: skip
def test_a_link_to_nothing_says_so(client: TestClient, query: str) -> None:
    answer = client.get(f"/share?{query}")

    assert answer.status_code == 404 and "leads to no recipe" in answer.text
    assert client.get(f"/share/picture.png?{query}").status_code == 404


@pytest.mark.parametrize(
    "recipe",
    [
        f"merge_method: linear\nmodels: [{{model: {EVIL!r}}}]\n",
        f"# </pre><script>alert(1)</script>\nmerge_method: '{EVIL[:20]}'\n",
        "</textarea></style><script>alert(1)</script>",
        "merge_method: linear\nmodels:\n"
        + "- {model: '\"><script>x</script>', parameters: {weight: 1}}\n" * 9,
    ],
)
def test_what_a_stranger_wrote_is_text(client: TestClient, recipe: str) -> None:
    answer = client.get(f"/share?{query_of(recipe)}")

    assert answer.status_code == 200
    assert "<script" not in answer.text and "<img" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert client.get(f"/share/picture.png?{query_of(recipe)}").status_code == 200


def test_a_hub_that_does_not_answer_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")

    with client_of() as client:
        assert client.get("/share?merge=ann/merged").status_code == 503
        assert client.get("/share/picture.png?merge=ann/merged").status_code == 503
        assert client.get(f"/share?{query_of(RECIPE)}").status_code == 200  # asks nobody


def test_the_badge_leads_to_the_landing(client: TestClient) -> None:
    answer = client.get("/share/badge.svg")

    assert answer.headers["content-type"].startswith("image/svg+xml")
    root = ElementTree.fromstring(answer.content)
    assert root.attrib["aria-label"] == "Made with Alloy: remix"
    line = badge_in_markdown("https://alloy.test", "ann/merged")
    assert line == (
        "[![Made with Alloy: remix](https://alloy.test/share/badge.svg)](https://alloy.test/share?merge=ann/merged)"
    )


def test_a_space_is_linked_where_it_answers_without_a_frame() -> None:
    host = Host.from_environment({"SPACE_ID": "Some.Owner/my_alloy"})

    assert page_address(host, {"host": "evil.test", "origin": "https://evil.test"}) == (
        "https://some-owner-my-alloy.hf.space"
    )


def test_a_landing_is_a_link_that_the_page_opens() -> None:
    link = f"https://alloy.test/share?{query_of(RECIPE)}"

    assert find_recipe(link, Account("nobody")) == (RECIPE, "")


@pytest.mark.parametrize("name", ["x" * 500, "한국어", "\n\t\0", "", "/"])
def test_a_picture_is_drawn_of_any_names(name: str) -> None:
    shown = Pictured(name, name, (name,) * 9, (("rest", (0.0,)), ("odd", (0.0, 1.0))), name, (name, name))

    assert Image.open(io.BytesIO(picture(shown))).size == (WIDE, TALL)
    assert len(cut(name, 20)) <= 20 and cut(name, 20).isascii()


def test_a_figure_is_whole_on_the_picture_beside_a_curve() -> None:
    other = "ann/" + "long-name-" * 9
    gain = Gain(other, "bits_per_byte", "a data set " * 9, 0.0123, (0.01, 0.02))
    merge = GalleryMerge(HubMerge("ann/merged", "0" * 40, parents=(other,), gains=(gain,)))
    said = Shared("", "", "", None, merge).pictured().said

    assert said[1].endswith(": +0.012")
    lines = (("rest", (0.0, 1.0)),)
    with_words, without = (
        Image.open(io.BytesIO(picture(Pictured("one", "SLERP", ("a/one",), lines, said=words))))
        for words in (said, ())
    )
    changed = ImageChops.difference(with_words.convert("RGB"), without.convert("RGB")).getbbox()
    assert changed and changed[2] <= EDGE + BESIDE_CURVE and changed[3] <= TALL


def test_the_pages_own_server_has_the_routes(tmp_path: Path) -> None:
    host = Host.from_environment({"ALLOY_RESULTS": str(tmp_path)})
    page = build_page(host)
    try:
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_settings(page, host))
        assert httpx2.get(f"{url}share/badge.svg").status_code == 200
        assert "Remix this" in httpx2.get(f"{url}share?{query_of(RECIPE)}").text
    finally:
        page.close()
