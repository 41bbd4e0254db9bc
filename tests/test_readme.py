"""The README is the Space's card and the first page of the manual; what it says is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests import ROOT
from tests.tiny import tiny_llama

README = ROOT / "README.md"
KOREAN = ROOT / "README.ko.md"


def front_matter() -> dict[str, object]:
    loaded = yaml.safe_load(README.read_text().split("---\n")[1])
    assert isinstance(loaded, dict)
    return loaded


def test_the_front_matter_is_one_that_a_space_takes() -> None:
    card = front_matter()

    assert card["sdk"] == "gradio"
    assert f"gradio=={card['sdk_version']}\n" in (ROOT / "constraints.txt").read_text()
    assert (ROOT / str(card["app_file"])).exists()
    assert card["license"] == "apache-2.0"
    assert len(str(card["short_description"])) <= 60
    assert card["hf_oauth"] is True
    # The least that will do: make repositories and push to those, read gated parents, list organizations, and see how
    # much of ZeroGPU's quota is left. The sign-in does not ask for `jobs`: see `ui.hub.sign_in`.
    assert set(card["hf_oauth_scopes"]) == {  # type: ignore[call-overload]
        "contribute-repos",
        "gated-repos",
        "jobs",
        "read-billing",
        "read-memberships",
    }


def test_a_space_installs_neither_gradio_nor_spaces_by_us() -> None:
    names = re.findall(r"^[\w-]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)

    assert not {"gradio", "spaces"} & set(names)


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


def skeleton(page: Path) -> dict[str, list[str]]:
    """What a translation shares with its original: levels of headings, code without comments, terms and links."""
    text = re.sub(r"\A---\n.*?\n---\n", "", page.read_text(), flags=re.DOTALL)
    code = re.findall(r"```.*?```|^    .*?$", text, re.DOTALL | re.MULTILINE)
    return {
        "headings": re.findall(r"^#+(?= )", text, re.MULTILINE),
        "code": [re.sub(r"\s*# .*", "", piece) for piece in code],
        "terms": re.findall(r"`[^`\n]+`", text),
        "links": re.findall(r"\]\(([^)]+)\)", text)[1:],  # after the link to the other language
    }


def test_the_korean_front_page_is_in_step() -> None:
    english, korean = skeleton(README), skeleton(KOREAN)

    assert len(english["headings"]) > 5 and len(english["code"]) > 10
    for what, expected in english.items():
        assert sorted(korean[what]) == sorted(expected), what


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = next(code for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL))
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        tiny_llama(tmp_path / name, seed)
    models = "[{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]"
    (tmp_path / "recipe.yaml").write_text(f"merge_method: linear\nmodels: {models}")

    exec(compile(example, "README.md", "exec"), {})

    assert (tmp_path / "merged/model.safetensors").exists()
