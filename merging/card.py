"""The model card of a result: what it was made of, how, and how to use it."""

from __future__ import annotations

from merging.methods import METHODS
from merging.plan import Plan, PlannedAdapter, PlannedModel


def model_card(plan: Plan, name: str) -> str:
    """The README.md of a result.

    Args:
        plan: that made it
        name: of the result, without its owner
    """
    method = METHODS[plan.method]
    parts: list[PlannedModel | PlannedAdapter] = []
    for model in plan.parents:
        parts += [model, *model.adapters]
    on_hub = list(dict.fromkeys(_repository(part) for part in parts if not part.is_folder))
    front = ["---"]
    if on_hub:
        front += ["base_model:", *(f"- {part}" for part in on_hub), "base_model_relation: merge"]
    # Weights without a config, or a part of something else, are no use to transformers.
    loads = '"architectures"' in plan.files.get("config.json", "")
    front += [
        *(["library_name: transformers", "pipeline_tag: text-generation"] if loads else ()),
        "tags:",
        "- merge",
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
            f"# {name}",
            "",
            f"{_made(plan)} with [{method.title}]({method.paper}): {method.summary}",
            "",
            "## Made of",
            "",
            "| model | commit |",
            "|---|---|",
            *merged,
            "",
            "## Recipe",
            "",
            "```yaml",
            plan.recipe.strip(),
            "```",
            "",
            "All arithmetic was done in float32 and rounded once; the same recipe on the same commits gives the",
            f"same bytes{f' (what is random was drawn with seed {plan.seed})' if method.is_random else ''}.",
            "",
            *(_use(name) if loads else ()),
        ]
    )


def _use(name: str) -> list[str]:
    return [
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'name = "{name}"  # or owner/name on the Hub',
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
    return "A model with its adapter merged into it" if plan.parents[0].adapters else "A merge of one model"


def _row(part: PlannedModel | PlannedAdapter, what: str = "") -> str:
    if part.is_folder:
        return f"| {what}`{part.name.rstrip('/').rpartition('/')[2]}` (a folder) | |"
    return f"| {what}[{part.name}](https://huggingface.co/{_repository(part)}) | `{part.version}` |"


def _behind(adapter: PlannedAdapter) -> str:
    return "with the adapter " if adapter.scale == 1 else f"with {adapter.scale:g} times the adapter "
