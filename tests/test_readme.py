"""The README is the Space's card, the manual and the map; what it says is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from merging import METHODS, read_recipe
from tests import ROOT
from tests.tiny import tiny_llama

README = ROOT / "README.md"
TABLE = re.compile(r"(<!-- methods: .*?-->\n).*?(<!-- /methods -->)", re.DOTALL)


def front_matter() -> dict[str, object]:
    loaded = yaml.safe_load(README.read_text().split("---\n")[1])
    assert isinstance(loaded, dict)
    return loaded


def methods_table() -> str:
    """The methods in Markdown, made from the registry."""
    rows = ["| method | what it does | parameters |", "|---|---|---|"]
    for method in METHODS.values():
        parameters = "; ".join(
            f"`{p.name}`{'' if p.required else f' ({str(p.default).lower()})'}: {p.help}"
            for p in method.parameters
        )
        formula = method.formula.replace("|", "\\|")
        rows.append(f"| [`{method.name}`]({method.paper}) | {method.summary} `{formula}` | {parameters} |")
    return "\n".join(rows) + "\n"


def test_the_methods_table_is_the_registry() -> None:
    text = README.read_text()
    written = TABLE.sub(lambda match: match[1] + methods_table() + match[2], text)
    if written != text:
        README.write_text(written)

    assert written == text, "the table was out of date; it is written anew, so look at it and commit it"


def test_the_front_matter_is_one_that_a_space_takes() -> None:
    card = front_matter()

    assert card["sdk"] == "gradio"
    assert f"gradio=={card['sdk_version']}\n" in (ROOT / "constraints.txt").read_text()
    assert (ROOT / str(card["app_file"])).exists()
    assert card["license"] == "apache-2.0"
    assert len(str(card["short_description"])) <= 60
    assert card["hf_oauth"] is True
    # The least that will do: make repositories and push to those, read gated parents, list organizations, and see how
    # much of ZeroGPU's quota is left.
    assert set(card["hf_oauth_scopes"]) == {  # type: ignore[call-overload]
        "contribute-repos",
        "gated-repos",
        "read-billing",
        "read-memberships",
    }


def test_a_space_installs_neither_gradio_nor_spaces_by_us() -> None:
    names = re.findall(r"^[\w-]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)

    assert not {"gradio", "spaces"} & set(names)


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL))
def test_a_recipe_in_the_readme_reads(text: str) -> None:
    assert read_recipe(text).merge_method


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = next(code for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL))
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        tiny_llama(tmp_path / name, seed)
    models = "[{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]"
    (tmp_path / "recipe.yaml").write_text(f"merge_method: linear\nmodels: {models}")

    exec(compile(example, "README.md", "exec"), {})

    assert (tmp_path / "merged/model.safetensors").exists()


def test_the_map_names_every_module_of_merging() -> None:
    text = README.read_text()
    for path in (ROOT / "merging").iterdir():
        if path.suffix == ".py" and not path.name.startswith("__"):
            assert path.name in text, path.name
        if path.is_dir() and path.name != "__pycache__":
            assert f"{path.name}/" in text, path.name
