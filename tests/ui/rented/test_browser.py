"""A merge on a rented machine in a real browser: from the offer to the result, over a reload of the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.ui.conftest import Site, visit
from tests.ui.rented.rooms import furnish
from tests.ui.test_browser import BROKEN_OFF, SLOW, quiet, until_recipe

pytestmark = [
    pytest.mark.browser,
    pytest.mark.real_models,
    pytest.mark.nightly,
    pytest.mark.timeout(1200),
]


def test_a_machine_is_rented_and_watched(site: Site, browser: Browser, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    furnish(site.hub, tmp_path, f"while [ ! -e {gate} ]; do sleep 0.05; done")
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        page.get_by_label("Name of the new model").fill("rented")
        page.get_by_role("button", name="Check the plan").click()
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        page.get_by_role("button", name="On a rented machine").click()
        offer = page.get_by_role("row", name=re.compile("CPU Upgrade"))
        expect(offer).to_contain_text("32 GB")
        expect(page.get_by_role("row", name=re.compile("T4"))).to_have_count(0)  # a merge needs no GPU
        page.get_by_label(re.compile("CPU Upgrade, about")).check()

        page.get_by_role("button", name="Rent it and merge").click()
        expect(page.get_by_text("On a rented machine: cpu-upgrade")).to_be_visible()
        assert "demo/rented" not in site.hub.repos
        quiet(seen)
        page.reload()
        seen.complaints[:] = [it for it in seen.complaints if not BROKEN_OFF.search(it)]
        expect(page.get_by_role("heading", name=re.compile("demo.rented"))).to_be_visible()
        gate.touch()
        expect(page.get_by_role("heading", name="Done: demo/rented")).to_be_visible(timeout=SLOW)

        expect(page.get_by_text("Verified").first).to_be_visible()
        link = page.get_by_role("link", name="Open demo/rented")
        assert link.get_attribute("href") == f"{site.hub.endpoint}/demo/rented"
        assert site.token not in page.content() + str(page.evaluate("JSON.stringify(localStorage)"))
        quiet(seen)
    [job] = site.hub.rented.jobs.values()
    assert (job.stage, job.spec["flavor"]) == ("COMPLETED", "cpu-upgrade")
    assert site.hub.repo("demo/rented").private
    assert site.hub.repo("demo/alloy-code").private
    assert site.token not in site.log.read_text() + repr(job.lines)
    site.hub.rented.stop()
