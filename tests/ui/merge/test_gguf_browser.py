"""GGUF files on the page, in a real browser: beside a merge, of a finished one, and of any model."""

from __future__ import annotations

import re

import pytest
from huggingface_hub import HfApi
from playwright.sync_api import Browser, Page, expect

from tests.ui.conftest import Site, visit
from tests.ui.test_browser import SECOND, SLOW, open_preset, quiet

pytestmark = [pytest.mark.browser, pytest.mark.real_models, pytest.mark.nightly, pytest.mark.timeout(1200)]

NAME = "with-gguf"
FILES = f"demo/{NAME}-GGUF"
SIZED = re.compile(r"^\s*Q8_0 · 14\d MB$")


def types(page: Page) -> list[str]:
    """What the row of types offers."""
    return page.locator("fieldset", has_text="Also make GGUF files").locator("label").all_inner_texts()


def test_gguf_files_beside_a_merge_of_it_and_of_any_model(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        open_preset(page, "Linear average", "linear")
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()

        # The row has the sizes of the plan. Files are made from the same reading as the merge.
        page.get_by_label(SIZED).check()
        assert [text.strip().partition(" ")[0] for text in types(page)] == [
            "BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M"
        ]  # fmt: skip
        assert all(re.search(r" · [\d.]+ MB$", text) for text in types(page))
        page.get_by_label("Name of the new model").fill(NAME)
        page.get_by_role("button", name="Merge", exact=True).click()
        expect(page.get_by_role("heading", name=f"Done: {NAME}")).to_be_visible(timeout=SLOW)
        link = page.get_by_role("link", name=f"GGUF files (Q8_0): {FILES}")
        assert link.get_attribute("href") == f"{site.hub.endpoint}/{FILES}"
        assert site.hub.repo(FILES).private
        file = site.hub.read(FILES, f"{NAME}-Q8_0.gguf")
        assert file.startswith(b"GGUF")
        assert 140e6 < len(file) < 150e6

        # The way to make the same elsewhere stands beside it.
        page.get_by_text("The same merge elsewhere").click()
        expect(page.get_by_text(f"--to hf://demo/{NAME} --gguf=Q8_0")).to_be_visible()

        # Of the finished merge: what is there is not overwritten, and made where it is not.
        page.get_by_role("button", name="Make GGUF").locator("visible=true").first.click()
        expect(page.get_by_role("heading", name=f"Failed: {NAME}-GGUF")).to_be_visible(timeout=SLOW)
        HfApi(endpoint=site.hub.endpoint, token=site.token).delete_repo(FILES)
        page.get_by_role("button", name="Make GGUF").locator("visible=true").first.click()
        expect(page.get_by_role("heading", name=f"Done: {NAME}-GGUF")).to_be_visible(timeout=SLOW)
        expect(page.get_by_role("link", name=f"GGUF files (Q8_0): {FILES}")).to_have_count(2)
        again = site.hub.read(FILES, f"{NAME}-Q8_0.gguf")
        assert again[-1_000_000:] == file[-1_000_000:]  # the numbers; its keys name another base

        # Of any model.
        page.get_by_role("button", name="GGUF files of any model").click()
        any_model = page.locator(".alloy-gguf").get_by_role("textbox").first
        any_model.fill("alloy/there-is-none")
        any_model.press("Enter")
        refused = page.locator(".alloy-gguf").get_by_text("alloy/there-is-none was not found")
        expect(refused.locator("visible=true").first).to_be_visible()
        any_model.fill(SECOND)
        shell = page.get_by_text(f"alloy gguf {SECOND} --to hf://demo/")
        expect(shell.locator("visible=true").first).to_contain_text("--types=Q8_0")
        any_model.press("Enter")
        name = SECOND.rpartition("/")[2]
        expect(page.get_by_role("heading", name=f"Done: {name}-GGUF")).to_be_visible(timeout=SLOW)
        assert site.hub.read(f"demo/{name}-GGUF", f"{name}-Q8_0.gguf").startswith(b"GGUF")
        assert "ollama run" in site.hub.read(f"demo/{name}-GGUF", "README.md").decode()
        quiet(seen)
