"""The whole way in Firefox: a merge, answers, a vote and a score. Chromium has all the other tests."""

from __future__ import annotations

import pytest

from tests.ui.conftest import Site
from tests.ui.firefox import FIREFOX, firefox

pytestmark = [pytest.mark.nightly, pytest.mark.browser, pytest.mark.real_models, pytest.mark.timeout(1800)]


@pytest.mark.skipif(not FIREFOX, reason="NOT RUN: there is no Firefox here; Debian's package is firefox-esr")
def test_a_merge_is_made_asked_and_scored(site: Site) -> None:
    with firefox(site.url) as page:
        page.until_said("Ready to merge")
        page.fill("Name of the new model", "by-firefox")
        page.click("Merge", ".alloy-go button")
        page.until_said("Done: by-firefox")
        assert {"config.json", "model.safetensors"} <= site.hub.repo("demo/by-firefox").files("main").keys()

        page.click("Chat with it")
        page.fill("Your message", "Who are you?")
        page.click("Send")
        page.click("A is better")
        page.until_said("Your votes: demo/by-firefox: 1,")

        page.click("Score", "[role=tab]")
        page.click("Score", "[role=tabpanel] button")
        page.until("document.querySelectorAll('.alloy-overview tbody td').length === 6")

        for tab in ("Search", "Gallery", "Methods", "Merge"):
            page.click(tab, "[role=tab]")
        assert not page.complaints
