"""The model card of a result: what it was made of, how, and how to use it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from checkpoints.names import is_in_bucket
from checkpoints.repositories.repository import HUB_SCHEME
from merging.methods import METHODS
from merging.plan import Plan, PlannedAdapter, PlannedModel

# Of tensors that are listed.
MOST_ROWS = 20
RECIPE = "## Recipe"
# What the Hub accepts as the name of a licence; any other is `other` with a name.
_ON_THE_HUB = re.compile(
    r"apache-2\.0|mit|bsd(-[23]-clause)?|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.[05]|(a|l)?gpl-[23]\.[01]|mpl-2\.0|"
    r"llama[234](\.[123])?|gemma|openrail(\+\+)?|bigscience-openrail-m|creativeml-openrail-m|unlicense|isc"
)


@dataclass(frozen=True)
class Licence:
    """Under which a result may be passed on: the strictest of its parents'.

    Args:
        name: as the Hub spells it
        of: the parent that it comes from
    """

    name: str
    of: str


def model_card(plan: Plan, name: str, licence: Licence | None = None, found: str = "") -> str:
    """The README.md of a result.

    >>> print(model_card(plan, "owner/merged"))  # doctest: +SKIP

    Args:
        plan: that made it
        name: what transformers loads the result by: `owner/name` on the Hub, else the name of its folder
        licence: that the card states; None: none
        found: how the recipe was found, a section in Markdown; empty if it is not stated
    """
    parts: list[PlannedModel | PlannedAdapter] = []
    for model in plan.parents:
        parts += [model, *model.adapters]
    on_hub = list(dict.fromkeys(_repository(part) for part in parts if part.commit))
    is_copy = _is_copy(plan)
    front = ["---", *base_models(on_hub, "quantized" if is_copy else "merge")]
    if licence:
        front += _licence(licence)
    # Weights without a config, or a part of something else, are no use to transformers.
    loads = '"architectures"' in plan.files.get("config.json", "")
    front += [
        *(["library_name: transformers", "pipeline_tag: text-generation"] if loads else ()),
        "tags:",
        *(() if is_copy else ["- merge"]),
        *(["- moe"] if plan.mixture else ()),
        "- alloy",
        "---",
    ]
    merged = [
        row
        for model in plan.parents
        for row in (_row(model), *(_row(adapter, _behind(adapter)) for adapter in model.adapters))
    ]
    return "\n".join(
        [
            *front,
            "",
            f"# {name.rpartition('/')[2]}",
            "",
            *(["All weights of one model, in another form."] if is_copy else _description(plan)),
            "",
            "## Made of",
            "",
            "| model | commit |",
            "|---|---|",
            *merged,
            "",
            *([found.strip(), ""] if found else ()),
            RECIPE,
            "",
            "```yaml",
            plan.recipe.strip(),
            "```",
            "",
            "All arithmetic was done in float32 and rounded once; the same recipe on the same commits gives the",
            f"same bytes{f' (what is random was drawn with seed {plan.seed})' if _is_random(plan) else ''}.",
            "",
            *(_use(name) if loads else ()),
        ]
    )


def base_models(names: Sequence[str], relation: str) -> list[str]:
    """The lines of a card's metadata that name what a model is made of; none without names.

    Args:
        names: of repositories
        relation: to them, as the Hub calls it, such as `merge`
    """
    return (
        ["base_model:", *(f"- {name}" for name in names), f"base_model_relation: {relation}"] if names else []
    )


def _description(plan: Plan) -> list[str]:
    """What the result is, in a sentence; of a mixture also how it was made, in a table."""
    mixture = plan.mixture
    if not mixture:
        method = METHODS[plan.method]
        return [f"{_made(plan)} with [{method.title}]({method.paper}): {method.summary}"]
    where = "averaged over the experts' models" if mixture.averages else "the base model's"
    shared = f" and through the shared expert `{short_name(mixture.shared)}`" if mixture.shared else ""
    return [
        f"A mixture of {len(mixture.experts)} experts ({mixture.architecture}), made of dense models without training. "
        f"Each token passes through {mixture.per_token} of the experts{shared}. Attention, embeddings and norms are "
        f"{where}. The routers were made by `gate_mode: {mixture.gate_mode}`.",
        "",
        "| expert | MLPs of |",
        "|---|---|",
        *(f"| {number} | `{short_name(name)}` |" for number, name in enumerate(mixture.experts)),
    ]


def short_name(name: str) -> str:
    """A model's name; of a folder the last part alone."""
    return name if name.count("/") == 1 and not name.startswith("/") else name.rstrip("/").rpartition("/")[2]


def _is_random(plan: Plan) -> bool:
    drawn = ("normal", "uniform")
    tensors = (t for model in plan.models if model.generated for t in model.generated.tensors.values())
    return METHODS[plan.method].is_random or any(tensor.kind in drawn for tensor in tensors)


def _licence(licence: Licence) -> list[str]:
    name = re.sub(r"[^a-z0-9.+-]+", "-", licence.name.lower()).strip("-") or "unknown"
    if _ON_THE_HUB.fullmatch(name):
        return [f"license: {name}"]
    linked = re.fullmatch(r"[\w.-]+/[\w.-]+", licence.of)
    link = [f"license_link: https://huggingface.co/{licence.of}"] if linked else []
    return ["license: other", f'license_name: "{name}"', *link]


def with_not_finite(card: str, counts: Mapping[str, int]) -> str:
    """A card that names the tensors with numbers that are infinite or NaN, those with the most of them first.

    Args:
        card: what `model_card` returned
        counts: of such numbers, by tensor
    """
    if not counts:
        return card
    names = sorted(counts, key=lambda name: -counts[name])
    rows = [f"| `{name}` | {counts[name]:,} |" for name in names[:MOST_ROWS]]
    more = len(names) - len(rows)
    section = [
        "## Numbers that are infinite or NaN",
        "",
        f"{sum(counts.values()):,} numbers in {len(names):,} {'tensors' if len(names) > 1 else 'tensor'}. The model",
        "may answer with nothing but NaN.",
        "",
        "| tensor | numbers |",
        "|---|---|",
        *rows,
        *([f"| {more:,} more tensors | |"] if more else ()),
        "",
        RECIPE,
    ]
    return card.replace(f"\n{RECIPE}\n", "\n" + "\n".join(section) + "\n", 1)


def loaded_as(to: str) -> str:
    """What transformers loads a result at `to` by: `owner/name` on the Hub, else the name of its folder."""
    is_on_hub = to.startswith(HUB_SCHEME) and not is_in_bucket(to)
    return to.removeprefix(HUB_SCHEME) if is_on_hub else Path(to).name


def _use(name: str) -> list[str]:
    return [
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'name = "{name}"' + ("" if "/" in name else "  # the folder; owner/name if it is on the Hub"),
        "tokenizer = AutoTokenizer.from_pretrained(name)",
        "model = AutoModelForCausalLM.from_pretrained(name)",
        'messages = [{"role": "user", "content": "What can you do?"}]',
        'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt",',
        "                                       return_dict=True)",
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0]))",
        "```",
        "",
    ]


def _repository(part: PlannedModel | PlannedAdapter) -> str:
    """The repository of a model that may be a place in it."""
    return "/".join(part.name.split("/")[:2])


def _made(plan: Plan) -> str:
    if len(plan.parents) > 1:
        return f"A merge of {len(plan.parents)} models"
    return "A model with its adapter merged into it" if plan.parents[0].adapters else "Made of one model"


def _is_copy(plan: Plan) -> bool:
    """Whether the result is all layers of one model, every tensor as it is and under its own name."""
    if plan.mixture or len(plan.models) != 1:
        return False
    model, layers = plan.models[0], {tensor.layer for tensor in plan.tensors} - {None}
    return (
        len(layers) == model.layers
        and not (model.adapters or model.made_by or model.alignment or model.renamed or model.generated)
        and all(
            len(tensor.inputs) == 1 and not tensor.parameters and tensor.inputs[0].tensor == tensor.name
            for tensor in plan.tensors
        )
    )


def _row(part: PlannedModel | PlannedAdapter, what: str = "") -> str:
    if part.is_folder:
        return f"| {what}`{part.name.rstrip('/').rpartition('/')[2]}` (a folder) | |"
    if part.commit is None:
        return f"| {what}`{part.name}` | |"
    return f"| {what}[{part.name}](https://huggingface.co/{_repository(part)}) | `{part.version}` |"


def _behind(adapter: PlannedAdapter) -> str:
    return "with the adapter " if adapter.scale == 1 else f"with {adapter.scale:g} times the adapter "
