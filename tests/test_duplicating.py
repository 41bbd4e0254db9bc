"""Whoever duplicates the Space needs no secret and no edit: what its files claim is what the platform takes.

The platform's facts are those of Hugging Face's own documentation (spaces-config-reference, spaces-oauth,
spaces-zerogpu), as of August 2026.
"""

from __future__ import annotations

import re
from importlib.metadata import version

from packaging.requirements import Requirement

from tests import ROOT
from tests.test_readme import front_matter

COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
KEYS = {
    "title", "emoji", "colorFrom", "colorTo", "sdk", "python_version", "sdk_version", "suggested_hardware", "app_file",
    "app_build_command", "app_port", "base_path", "fullWidth", "header", "short_description", "models", "datasets",
    "tags", "thumbnail", "pinned", "hf_oauth", "hf_oauth_scopes", "hf_oauth_expiration_minutes",
    "hf_oauth_authorized_org", "disable_embedding", "startup_duration_timeout", "custom_headers", "preload_from_hub",
    "license",
}  # fmt: skip
SCOPES = {
    "openid", "profile", "email", "read-repos", "gated-repos", "contribute-repos", "write-repos", "manage-repos",
    "read-memberships", "read-billing", "inference-api", "jobs", "webhooks", "write-discussions", "read-collections",
    "write-collections",
}  # fmt: skip
# ZeroGPU's own: 3.12.12 and 3.10.13, and of torch almost all from 2.8.0 on.
ZERO_GPU_PYTHON, ZERO_GPU_TORCH = {"3.12", "3.12.12"}, ("2.8.0", "2.9.1", "2.10.0", "2.11.0")
# Earlier ones end in a circle of redirections when a visitor signs in inside the Hub's frame (gradio#13777).
FIRST_GRADIO_THAT_SIGNS_IN = (6, 26)
# Set by whoever starts it, or by the platform. Each has a default, and none is a secret, but those of OAuth, which the
# platform sets for every Space whose card says `hf_oauth`.
VARIABLES = {
    "OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL", "SPACE_HOST",
    "ALLOY_BENCHMARKS", "ALLOY_BROWSER_KEY", "ALLOY_DEMO", "ALLOY_DOWNLOADS", "ALLOY_JOBS", "ALLOY_RESULTS",
    "ALLOY_TASKS", "DISABLE_MULTIPROC", "HF_HOME", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "LD_LIBRARY_PATH",
    "OMP_WAIT_POLICY", "RAY_ADDRESS", "RAY_USAGE_STATS_ENABLED", "SPACE_ID", "XDG_CACHE_HOME",
}  # fmt: skip


def requirements(file: str, python: str) -> dict[str, Requirement]:
    """The lines of a file that hold for a version of Python, by name."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    found = [Requirement(line) for line in filter(None, lines)]
    where = {"python_version": python, "python_full_version": f"{python}.12"}
    return {one.name.lower(): one for one in found if one.marker is None or one.marker.evaluate(where)}


def test_the_front_matter_says_nothing_that_a_space_does_not_know() -> None:
    card = front_matter()

    assert set(card) <= KEYS
    assert {card["colorFrom"], card["colorTo"]} <= COLOURS
    assert card["emoji"]
    assert set(card["hf_oauth_scopes"]) <= SCOPES  # type: ignore[call-overload]
    # A merge may take hours, and pushes at its end with the token of the sign-in.
    assert 480 <= int(str(card["hf_oauth_expiration_minutes"])) <= 43_200
    assert isinstance(card["python_version"], str)  # else YAML makes 3.1 of 3.10
    assert card["python_version"] in ZERO_GPU_PYTHON


def test_gradio_is_the_one_that_was_tested_and_can_sign_in() -> None:
    wanted = str(front_matter()["sdk_version"])

    assert wanted == version("gradio")
    assert tuple(map(int, wanted.split(".")[:2])) >= FIRST_GRADIO_THAT_SIGNS_IN


def test_what_a_space_installs_can_be_had_there() -> None:
    python = str(front_matter()["python_version"])
    wanted = requirements("requirements.txt", python)

    # The platform brings these; a second claim breaks the build.
    assert not {"gradio", "gradio-client", "spaces"} & wanted.keys()
    assert all(one.url is None for one in wanted.values())
    torch = wanted["torch"].specifier
    assert [one for one in ZERO_GPU_TORCH if one in torch][-1] == ZERO_GPU_TORCH[-1]
    # No newer one is taken either: nobody says that ZeroGPU knows it.
    assert not [minor for minor in range(12, 20) if f"2.{minor}.0" in torch]
    tested = requirements("constraints.txt", python)
    assert str(tested["torch"].specifier).removeprefix("==") in ZERO_GPU_TORCH
    for name, one in wanted.items():
        pin = str(tested[name.replace("_", "-") if name not in tested else name].specifier).removeprefix("==")
        assert pin in one.specifier, f"{name}: tested with {pin}, asked for {one.specifier}"


def test_the_lock_pins_what_was_tested_with_hashes() -> None:
    python = str(front_matter()["python_version"])
    text = (ROOT / "requirements.lock").read_text()
    entries = [entry for entry in re.split(r"\n(?=\S)", text) if entry.strip()]
    found = {one.name.lower().replace("_", "-"): one for one in map(_pinned, entries)}

    for file in ("requirements.txt", "constraints.txt"):
        for name, one in requirements(file, python).items():
            pinned = found.get(name.replace("_", "-"))
            assert pinned or file == "constraints.txt", f"{name} is not in requirements.lock: make lock"
            if pinned:
                [version_here] = [it.version for it in pinned.specifier]
                assert version_here in one.specifier, f"{pinned}, but {file} asks for {one}: make lock"
    assert not [entry for entry in entries if "--hash=sha256:" not in entry]
    assert "://" not in text


def _pinned(entry: str) -> Requirement:
    return Requirement(entry.partition(" \\")[0])


def test_no_secret_is_asked_for() -> None:
    # Not what is set for a library.
    read = re.compile(r"""environ\w*(?:\.get\(|\.setdefault\(|\[)"([A-Z_]+)"(?!\] = )""")
    modules = [
        path
        for folder in ("alloy", "checkpoints", "ui", "searching", "healing", "merging", "evaluation")
        for path in (ROOT / folder).rglob("*.py")
    ]

    found = {name for path in [ROOT / "app.py", *modules] for name in read.findall(path.read_text())}

    assert "SPACE_ID" in found
    assert found <= VARIABLES
