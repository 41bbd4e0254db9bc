"""`python app.py` on a laptop without network and without login: a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.tiny import tiny_llama
from tests.ui.conftest import ROOT, free_port, visit, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

# Python runs it before anything else: whoever asks for an address or connects beyond this machine is noted.
WATCH = """
import os, socket

def note(where):
    with open(os.environ["WATCHED"], "a") as file:
        file.write(str(where) + "\\n")

def watched(name, host_of):
    plain = getattr(socket.socket, name)
    def call(self, address, *rest):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not host_of(address).startswith(("127.", "::1")):
            note(address)
        return plain(self, address, *rest)
    setattr(socket.socket, name, call)

for name in ("connect", "connect_ex"):
    watched(name, lambda address: str(address[0]))
resolve = socket.getaddrinfo

def getaddrinfo(host, *rest, **more):
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name not in ("None", "localhost", "0.0.0.0") and not name.startswith(("127.", "::")):
        note(name)
    return resolve(host, *rest, **more)

socket.getaddrinfo = getaddrinfo
"""


@dataclass(frozen=True)
class Laptop:
    """The app on a laptop without network.

    Attributes:
        url: ends with a slash
        folder: where it was started
        log: what it wrote
        watched: where it wanted to go beyond this machine, a line each
    """

    url: str
    folder: Path
    log: Path
    watched: Path


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    """The app as `python app.py` starts it, on the port that GRADIO_SERVER_PORT says."""
    folder = tmp_path_factory.mktemp("laptop")
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    laptop = Laptop(f"http://127.0.0.1:{free_port()}/", folder, folder / "log", folder / "watched")
    laptop.watched.touch()
    strange = re.compile("SPACE_|OAUTH_|HF_|ALLOY_|GRADIO_|HUGGING|.*_(proxy|PROXY)$")
    environment = {name: value for name, value in os.environ.items() if not strange.match(name)}
    environment |= {
        "GRADIO_SERVER_PORT": laptop.url.rstrip("/").rpartition(":")[2],
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}",  # nobody listens there
        "HF_HOME": str(folder / "hf"),
        "PYTHONPATH": f"{folder / 'watch'}{os.pathsep}{ROOT}",
        "WATCHED": str(laptop.watched),
    }
    with laptop.log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py")], cwd=folder, env=environment, stdout=output, stderr=output
        )
        try:
            wait_for(process, laptop.url, laptop.log)
            yield laptop
        finally:
            process.terminate()
            process.wait(timeout=30)


def test_without_network_and_login_the_page_says_what_is_out_of_reach(
    laptop: Laptop, browser: Browser
) -> None:
    with visit(browser, laptop.url) as seen:
        page = seen.page
        # Whose account: nobody's, so that results go into a folder.
        expect(page.get_by_text("No Hugging Face login on this machine")).to_be_visible()
        expect(page.get_by_role("radio", name="Folder on this machine")).to_be_checked()
        # The recipe that the page opens on is of models on the Hub, which is out of reach.
        expect(page.get_by_text(re.compile("cannot be reached|did not answer")).first).to_be_visible()
        page.get_by_role("tab", name="Methods").click()
        expect(page.get_by_role("img", name=re.compile("The result lies at"))).to_be_visible()
        page.get_by_role("tab", name="Chat").click()
        page.get_by_label("Your message").fill("Hello!")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("alert").locator("visible=true")).to_contain_text("cannot be reached")
        expect(page.get_by_label("Your message")).to_have_value("Hello!")
        assert seen.complaints == []
        assert seen.strangers == []
    assert laptop.watched.read_text() == ""
    assert "Traceback" not in laptop.log.read_text()


def test_without_network_models_in_folders_are_merged(laptop: Laptop, browser: Browser) -> None:
    one = tiny_llama(laptop.folder / "one", 1)
    two = tiny_llama(laptop.folder / "two", 2, one)
    with visit(browser, laptop.url) as seen:
        page = seen.page
        expect(page.get_by_text(re.compile("cannot be reached|did not answer")).first).to_be_visible()
        page.locator(".alloy-yaml .cm-content").click()
        page.keyboard.press("Control+A")
        models = "".join(f"  - {{model: {folder}, parameters: {{weight: 1}}}}\n" for folder in (one, two))
        page.keyboard.insert_text(f"merge_method: linear\nmodels:\n{models}")
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        page.get_by_label("Name of the new model").fill("mine")
        page.get_by_role("button", name="Merge", exact=True).click()
        expect(page.get_by_role("heading", name="Done: mine")).to_be_visible()
        assert seen.complaints == []
    assert (laptop.folder / "merged" / "mine" / "model.safetensors").is_file()
    assert laptop.watched.read_text() == ""
