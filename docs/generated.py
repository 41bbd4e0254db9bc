"""Files that are written from the code: `make docs` writes them, and a test compares.

python -m docs.generated
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperGroup
from typer.main import get_command

import alloy.__main__
from merging import METHODS

ROOT = Path(__file__).parent.parent


def requirements() -> str:
    """What a Space installs: all that pyproject.toml lists for the page, but what the platform brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    elsewhere = ("alloy-merge", "gradio", "spaces")
    of_the_page = [
        one
        for extra in ("search", "gguf", "llama", "app")
        for one in extras[extra]
        if not one.startswith(elsewhere)
    ]
    wanted = project["dependencies"] + extras["evaluation"] + of_the_page
    lines = [
        "# What a Space installs. Written by `make docs` from pyproject.toml: change the list there.",
        "# gradio and spaces are not here: the platform brings them, gradio at the sdk_version of README.md.",
        *sorted((line.replace("'", '"') for line in wanted), key=str.lower),
    ]
    return "\n".join(lines) + "\n"


def methods_table() -> str:
    """The methods in Markdown."""
    rows = ["| method | what it does | parameters |", "|---|---|---|"]
    for method in METHODS.values():
        parameters = "; ".join(
            f"`{p.name}`{'' if p.required else f' ({str(p.default).lower()})'}: {p.help}"
            for p in method.parameters
        )
        formula = method.formula.replace("|", "\\|")
        rows.append(f"| [`{method.name}`]({method.paper}) | {method.summary} `{formula}` | {parameters} |")
    return "\n".join(rows) + "\n"


def commands() -> str:
    """Every command of `alloy` in Markdown, with its arguments and options."""
    group = get_command(alloy.__main__.app)
    assert isinstance(group, TyperGroup)
    return "\n".join(_command(name, command) for name, command in _all(group))


def _all(group: TyperGroup, before: str = "") -> Iterator[tuple[str, Any]]:
    """The commands of a group and of the groups in it, each with its whole name."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _all(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def _command(name: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
    usage = " ".join(
        ["alloy", name, *(one.metavar for one in arguments), *(["[OPTIONS]"] if options else [])]
    )
    lines = [f"## alloy {name}", "", f"    {usage}", "", command.help.strip(), ""]
    if arguments or options:
        lines += ["| argument or option | meaning |", "|---|---|"]
        lines += [f"| `{one.metavar}` | {one.help} |" for one in arguments]
        lines += [f"| {_option(one)} | {_meaning(one)} |" for one in options]
        lines.append("")
    return "\n".join(lines)


def _option(option: Any) -> str:
    names = " / ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
    return f"`{names}{value}`".replace("|", "\\|")


def _meaning(option: Any) -> str:
    known = option.default is not None and not option.is_flag
    if option.required:
        return f"{option.help} Required."
    return f"{option.help} Default: {option.default}." if known else str(option.help)


METHODS_PAGE = """# Merge methods

Written by `make docs` from the methods' declarations. `alloy methods` prints the same, `alloy methods --json` as data.

In the formulas θ is the result, θ₀ the base, θᵢ the models, δᵢ = θᵢ − θ₀ their task vectors, wᵢ `weight`, λ `lambda`,
d `density`, and δ̂ what is left of δ after sparsification. Operations are elementwise. A value in parentheses is the
parameter's default.

{table}
For `chat_vector`, `base_model:` is the model that both others were trained from, and `models:` lists two: first the
one that receives, whose config, tokenizer and vocabulary the result has, then the chat model that gives.

To write a method of your own, see [CONTRIBUTING.md](../CONTRIBUTING.md#a-merge-method).
"""

COMMANDS_PAGE = """# Command line

Written by `make docs` from the commands' declarations. `alloy COMMAND --help` prints the same.

`pip install .` installs `alloy`. In a clone without installation, `python -m alloy` is the same command.
`python -m merging` has the commands that merge (`plan`, `run`, `extract-lora`, `cut`, `stack`, `methods`), and
`python -m evaluation` those that judge (`perplexity`, `compare`, `weights`, `influence`, `benchmark`, `chat`,
`independent`). `python -m searching` is `alloy search`, and `python -m healing` is `alloy heal`.

| exit status | meaning |
|--:|---|
| 0 | done |
| 2 | the recipe, space, model or text cannot be merged, searched or judged, or an argument is wrong: stderr says why |
| 3 | `run --strict`: the result has numbers that are infinite or NaN; `heal run`: it did not heal, and is not written |
| 1 | anything else, such as a lost connection or a stop |

Results go to stdout, and problems, warnings and progress to stderr. With `--json` stdout is one JSON document.
[Recipes](recipes.md) explains what RECIPE contains, and [Judging a merge](judging.md) what the numbers mean.

{commands}"""

PAGES: dict[str, Callable[[], str]] = {
    "requirements.txt": requirements,
    "docs/methods.md": lambda: METHODS_PAGE.format(table=methods_table()),
    "docs/command-line.md": lambda: COMMANDS_PAGE.format(commands=commands()),
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (ROOT / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
