"""The model card of a result: what it was made of, how, and how to use it."""

from __future__ import annotations

from merging.methods import METHODS
from merging.plan import Plan


def model_card(plan: Plan, name: str) -> str:
    """The README.md of a result.

    Args:
        plan: that made it
        name: of the result, without its owner
    """
    method = METHODS[plan.method]
    hub_models = [model for model in plan.models if not model.is_folder]
    front = ["---"]
    if hub_models:
        front += ["base_model:", *(f"- {model.name}" for model in hub_models), "base_model_relation: merge"]
    front += [
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- merge",
        "- alloy",
        "---",
    ]
    merged = [
        f"| [{model.name}](https://huggingface.co/{model.name}) | `{model.version}` |"
        if not model.is_folder
        else f"| `{model.name.rstrip('/').rpartition('/')[2]}` (a folder) | |"
        for model in plan.models
    ]
    return "\n".join(
        [
            *front,
            "",
            f"# {name}",
            "",
            f"A merge of {len(plan.models)} models with [{method.title}]({method.paper}): {method.summary}",
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
    )
