"""The small files of a result, for a plan: which are written, with what text, and which are taken over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from checkpoints import read_json
from checkpoints.architecture import OUTPUT_HEAD, Layout, is_tied
from checkpoints.problems import Problem
from checkpoints.tokenizer_files import is_template, tokenizer_files
from merging.plan import PlannedShard
from merging.planning import configs
from merging.planning.layout import Draft
from merging.planning.stacks import NewStack, stack_config
from merging.recipe.chat_templates import TEMPLATES
from merging.recipe.recipe import ModelReference
from merging.tokenizers.report import TokenizerReport, chat_template, tokenizer_report
from merging.tokenizers.tokenizer import OTHER_FORMS, TOKENIZER, special_tokens


class ResultFiles:
    """The files beside the weights.

    Args:
        draft: that is laid out; what people should know of the files is added to `warnings`
    """

    def __init__(self, draft: Draft):
        self.draft = draft
        self.donor = draft.donor_reference()
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    @property
    def stem(self) -> str:
        return configs.stem(self.draft.checkpoints[self.donor])

    def texts(self, shards: Sequence[PlannedShard]) -> dict[str, str]:
        """The files that are written, with their text."""
        reference = self.donor
        donor = self.draft.checkpoints[reference]
        dtype = configs.main_dtype((tensor.dtype, tensor.bytes) for tensor in self.draft.tensors)
        config = configs.merged_config(donor.config, dtype)
        if not self.draft.recipe.models:
            self.problems += self.stacked(config, self.draft.layouts[reference])
        if is_tied(config) and any(OUTPUT_HEAD.search(tensor.name) for tensor in self.draft.tensors):
            # A parent had a head of its own, so the result has one; a tied config would throw it away.
            config["tie_word_embeddings"] = False
        if self.draft.vocabulary:
            configs.set_vocabulary(
                config, self.draft.vocabulary.own_rows[reference], self.draft.vocabulary.size
            )
            self.set_token_ids("config.json", config)
        files = {"mergekit_config.yml": self.draft.recipe.text}
        if donor.config:
            files["config.json"] = configs.as_json(config)
        if "generation_config.json" in donor.files:
            generation = configs.without_traces(read_json(donor, "generation_config.json"))
            self.set_token_ids("generation_config.json", generation)
            files["generation_config.json"] = configs.as_json(generation)
        elif self.stem == "model":
            self.warnings.append(Problem("no-generation-config", {"model": donor.name}))
        files |= self.tokenizer_texts()
        if len(shards) > 1:
            files[f"{self.stem}.safetensors.index.json"] = configs.index(shards)
        return files

    def stacked(self, config: dict[str, Any], donor: Layout) -> list[Problem]:
        """Let the config describe the new stacks of layers, in place; what it cannot say of them."""
        draft = self.draft
        stacks = [NewStack(donor.modules[name], layers) for name, layers in draft.layer_sources.items()]
        shapes = {
            id(draft.layouts[reference]): {name: t.shape for name, t in checkpoint.tensors.items()}
            for reference, checkpoint in draft.checkpoints.items()
        }
        outside = {tensor.name: tensor.shape for tensor in draft.tensors if tensor.layer is None}
        return stack_config(config, donor, stacks, shapes, outside)

    def set_token_ids(self, name: str, config: dict[str, Any]) -> None:
        """Let a config name tokens by their numbers in the result, in place."""
        vocabulary = self.draft.vocabulary
        if not vocabulary:
            return
        start = self.draft.checkpoints[vocabulary.start.model]
        own = start.config
        if name != "config.json" and name in start.files:
            own = {**own, **read_json(start, name)}
        lost = configs.set_token_ids(config, vocabulary.translate, own)
        if vocabulary.start.model != self.donor:
            roles = special_tokens(start)
            named = {
                f"{role}_id": vocabulary.ids[roles[role]] for role in roles if roles[role] in vocabulary.ids
            }
            configs.follow_tokenizer(config, own, named, keep_ends=name != "config.json")
        if lost := [key for key in lost if config.get(key) is None]:
            values = {"keys": lost, "file": name, "model": str(self.donor)}
            self.warnings.append(Problem("lost-token", values))

    def tokenizer_reference(self) -> ModelReference:
        """The model whose tokenizer the result's is, or begins with."""
        return self.draft.vocabulary.start.model if self.draft.vocabulary else self.donor

    def tokenizer_texts(self) -> dict[str, str]:
        """The files of the tokenizer that are written anew, with their text."""
        checkpoint = self.draft.checkpoints[self.tokenizer_reference()]
        written = self.draft.vocabulary.documents(checkpoint) if self.draft.vocabulary else {}
        if "tokenizer_config.json" not in written and "tokenizer_config.json" in checkpoint.files:
            written["tokenizer_config.json"] = read_json(checkpoint, "tokenizer_config.json")
        template = self.chat_template
        if template is not None and "tokenizer_config.json" in written:
            written["tokenizer_config.json"].pop("chat_template", None)
        texts = {name: configs.as_json(configs.without_traces(text)) for name, text in written.items()}
        return texts if template is None else {**texts, "chat_template.jinja": template}

    def report(self) -> TokenizerReport | None:
        """What becomes of the tokenizers, where the recipe touches them."""
        vocabulary = self.draft.vocabulary
        if not vocabulary:
            return None
        start = self.draft.checkpoints[vocabulary.start.model]
        template = self.chat_template or chat_template(start)
        found = tokenizer_report(vocabulary, self.draft.checkpoints, template)
        if found.trouble:
            self.warnings.append(found.trouble)
        return found

    @cached_property
    def chat_template(self) -> str | None:
        """The template that the recipe asks for; None leaves the tokenizer its own."""
        wanted = self.draft.recipe.chat_template
        if wanted not in ("auto", None):
            return TEMPLATES.get(wanted, wanted)
        if wanted is None and not self.draft.vocabulary:
            return None
        merged = {source.model: None for source in self.draft.recipe.sources()}
        found = [chat_template(self.draft.checkpoints[reference]) for reference in merged]
        count = Counter(template.strip() for template in found if template)
        if wanted is None:
            if len(count) > 1:
                values = {"count": len(count), "model": str(self.tokenizer_reference())}
                self.warnings.append(Problem("templates-differ", values))
            return None
        if not count:
            self.warnings.append(Problem("no-chat-template"))
            return None
        return count.most_common(1)[0][0]

    def copied(self, written: Iterable[str]) -> dict[str, int]:
        """The files that are taken over as they are, with the model they come from.

        Args:
            written: names of the files that are written anew
        """
        reference = self.tokenizer_reference()
        checkpoint = self.draft.checkpoints[reference]
        found = tokenizer_files(checkpoint.files)
        if not found and self.stem == "model":
            self.warnings.append(Problem("result-without-tokenizer", {"model": checkpoint.name}))
        left_out = {*written}
        if TOKENIZER in left_out:
            left_out |= {*OTHER_FORMS}
        if "chat_template.jinja" in left_out:
            left_out |= {file for file in found if is_template(file)}
        return {file: self.draft.indices[reference] for file in found if file not in left_out}
