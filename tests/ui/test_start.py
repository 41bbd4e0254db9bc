"""`python app.py`, a process of its own: on a laptop without network and login, and as a Space that was duplicated."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, expect

from tests import ROOT
from tests.tiny import tiny_llama
from tests.ui.conftest import free_port, visit, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

# Python runs it before anything else: it notes who asks for an address or connects beyond this machine, and who
# writes anywhere but into the folder for what is temporary.
WATCH = """
import os, socket, sys, tempfile

ALLOWED = (os.path.realpath(tempfile.gettempdir()) + os.sep, "/dev/", "/proc/")
WRITING = {"open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree"}

def note(where):
    descriptor = os.open(os.environ["WATCHED"], os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, f"{where}\\n".encode())
    os.close(descriptor)

def look(event, arguments):
    if event not in WRITING or not isinstance(arguments[0], (str, bytes)):
        return
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    path = os.path.realpath(os.fsdecode(arguments[0]))
    if not path.startswith(ALLOWED) and path != os.path.realpath(os.environ["WATCHED"]):
        note(f"{event} {path}")

sys.addaudithook(look)

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
class Started:
    """The app, without network.

    Attributes:
        url: ends with a slash
        folder: where it was started, and where its home and its temporary files are
        log: what it wrote
        watched: where it wanted to go beyond this machine or to write elsewhere, a line each
    """

    url: str
    folder: Path
    log: Path
    watched: Path


@contextmanager
def started(folder: Path, **more: str) -> Iterator[Started]:
    """The app as `python app.py` starts it, on the port that GRADIO_SERVER_PORT says."""
    for name in ("watch", "tmp", "home"):
        (folder / name).mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    site = Started(f"http://127.0.0.1:{free_port()}/", folder, folder / "log", folder / "watched")
    site.watched.touch()
    strange = re.compile("SPACE_|OAUTH_|HF_|ALLOY_|GRADIO_|HUGGING|SYSTEM$|.*_(proxy|PROXY)$")
    environment = {name: value for name, value in os.environ.items() if not strange.match(name)}
    environment |= {
        "GRADIO_SERVER_PORT": site.url.rstrip("/").rpartition(":")[2],
        "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}",  # nobody listens there
        "HOME": str(folder / "home"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": f"{folder / 'watch'}{os.pathsep}{ROOT}",
        "TMPDIR": str(folder / "tmp"),
        "WATCHED": str(site.watched),
        **more,
    }
    with site.log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py")], cwd=folder, env=environment, stdout=output, stderr=output
        )
        try:
            wait_for(process, site.url, site.log)
            yield site
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with started(tmp_path_factory.mktemp("laptop")) as site:
        yield site


def beyond(site: Started) -> list[str]:
    """Where it wanted to go beyond this machine."""
    return [line for line in site.watched.read_text().splitlines() if " /" not in line]


def test_without_network_and_login_the_page_says_what_is_out_of_reach(
    laptop: Started, browser: Browser
) -> None:
    with visit(browser, laptop.url) as seen:
        page = seen.page
        # Whose account: nobody's, so that results go into a folder.
        expect(page.get_by_text("No Hugging Face login on this machine")).to_be_visible()
        expect(page.get_by_role("radio", name="Folder on this machine")).to_be_checked()
        # The recipe that the page opens on is of models on the Hub, which is out of reach.
        expect(page.get_by_text(re.compile("cannot be reached|did not answer")).first).to_be_visible()
        page.get_by_role("tab", name="Methods").click()
        expect(page.get_by_role("img", name=re.compile("The result is at"))).to_be_visible()
        page.get_by_role("tab", name="Chat").click()
        page.get_by_label("Your message").fill("Hello!")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("alert").locator("visible=true")).to_contain_text("did not answer")
        expect(page.get_by_label("Your message")).to_have_value("Hello!")
        assert seen.complaints == []
        assert seen.strangers == []
    assert beyond(laptop) == []
    assert "Traceback" not in laptop.log.read_text()


def test_without_network_models_in_folders_are_merged(laptop: Started, browser: Browser) -> None:
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
    assert beyond(laptop) == []


def test_a_duplicated_space_starts_without_secrets_and_writes_nothing_but_temporary_files(
    tmp_path: Path,
) -> None:
    # What the platform sets for any Space whose card says `hf_oauth`; nobody has to enter any of it.
    platform = {
        "SYSTEM": "spaces",
        "SPACE_ID": "somebody/copy",
        "SPACE_HOST": "somebody-copy.hf.space",
        "SPACE_AUTHOR_NAME": "somebody",
        "SPACE_TITLE": "copy",
        "OAUTH_CLIENT_ID": "given-by-the-platform",
        "OAUTH_CLIENT_SECRET": "given-by-the-platform",
        "OAUTH_SCOPES": "openid profile contribute-repos",
        "OPENID_PROVIDER_URL": "https://huggingface.co",
    }
    with started(tmp_path, **platform) as site:
        config = httpx2.get(f"{site.url}config").json()

        assert config["space_id"] == "somebody/copy"
        assert "Sign in with Hugging Face" in json.dumps(config)
        assert site.watched.read_text() == ""
        assert "Traceback" not in site.log.read_text()
        assert "given-by-the-platform" not in json.dumps(config)
