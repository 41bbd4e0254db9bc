"""The files of a result beside its weights: which are written, with what text, and which are copied from a parent.

    config.json              the donor's, with dtype, layers, ties, size of the vocabulary and ids of its tokens
    generation_config.json   the donor's, with ids of its tokens
    tokenizer files          of the model whose tokenizer it is: copied, or with added tokens
    processors, pooling      the donor's
    code                     that one of these files names, where it is beside it
    chat_template.jinja      where the recipe asks for one
    *.index.json             where the weights are in several files
    mergekit_config.yml      the recipe; of a mixture of experts it is mergekit_moe_config.yml

What each of the first two says is in `configs` (and `stacks`, of layers); which model it comes from is decided here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from checkpoints import Checkpoint, Token, read_json
from checkpoints.architecture import INPUT_EMBEDDING, OUTPUT_HEAD, Layout, says_tied, untie
from checkpoints.checkpoint import read_mapping
from checkpoints.problems import Problem
from checkpoints.repositories.repository import MAX_SMALL_FILE
from checkpoints.tokenizer_files import (
    PROCESSOR,
    WITHOUT_VOCABULARY,
    companion_files,
    has_vocabulary,
    is_data,
    is_template,
    tokenizer_files,
)
from checkpoints.wording import few
from merging.fp8 import FP8
from merging.plan import PlannedShard
from merging.planning import configs
from merging.planning.code_files import CodeFiles, CodeSource
from merging.planning.config_differences import differences
from merging.planning.mixtures import MixtureTensors
from merging.planning.result_tensors import ResultTensors
from merging.planning.scaled_tensors import plain_modules
from merging.planning.stacks import NewStack, stack_config
from merging.recipe.chat_templates import TEMPLATES
from merging.recipe.recipe import ModelReference
from merging.tokenizers.report import TokenizerReport, chat_template, digits_differ, tokenizer_report
from merging.tokenizers.tokenizer import OTHER_FORMS, TOKENIZER, special_tokens


class ResultFiles:
    """The files beside the weights.

    Args:
        tensors: of the result, laid out
        keep_code: copy code in other repositories that the config names
        token: for these

    Attributes:
        problems, warnings: what prevents the merge, and what the user should know of the files
    """

    def __init__(self, tensors: ResultTensors, keep_code: bool, token: Token):
        self.tensors = tensors
        self.parents = tensors.parents
        self.recipe = tensors.recipe
        self.vocabulary = tensors.vocabulary
        self.donor = tensors.parents.donor
        self.code = CodeFiles(keep_code, token)
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    @property
    def stem(self) -> str:
        return configs.stem(self.parents.checkpoints[self.donor])

    def texts(self, shards: Sequence[PlannedShard]) -> dict[str, str]:
        """The files that are written, with their text."""
        reference = self.donor
        donor = self.parents.checkpoints[reference]
        plain = [tensor for tensor in self.tensors.tensors if not tensor.scales]
        dtype = configs.main_dtype((tensor.dtype, tensor.bytes) for tensor in plain)
        config = configs.merged_config(donor.config, dtype)
        if isinstance(self.tensors, MixtureTensors):
            config = self.tensors.config(config)
        elif not self.recipe.models:
            self.problems += self.stacked(config, self.parents.layouts[reference])
        if self.denies_ties(config):
            untie(config)
        if self.vocabulary:
            configs.set_vocabulary(config, self.vocabulary.own_rows[reference], self.vocabulary.size)
            self.set_token_ids("config.json", config)
        if len(plain) < len(self.tensors.tensors):
            config["quantization_config"] = FP8[str(self.recipe.out_dtype)].settings(plain_modules(plain))
        name = "mergekit_moe_config.yml" if self.recipe.mixture else "mergekit_config.yml"
        files = {name: self.recipe.text}
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

    def denies_ties(self, config: Mapping[str, Any]) -> bool:
        """Whether a parent had a head of its own, so that the result has one, which a tied config would throw away."""
        tensors = self.tensors.tensors
        # A matrix with the name of a head but another shape reads no tokens.
        embeddings = {tensor.shape for tensor in tensors if INPUT_EMBEDDING.search(tensor.name)}
        if not any(OUTPUT_HEAD.search(tensor.name) and tensor.shape in embeddings for tensor in tensors):
            return False
        said = says_tied(config)
        names = self.parents.checkpoints[self.donor].tensors
        return not any(map(OUTPUT_HEAD.search, names)) if said is None else said

    def stacked(self, config: dict[str, Any], donor: Layout) -> list[Problem]:
        """Let the config describe the new stacks of layers, in place; what it cannot say of them."""
        tensors = self.tensors
        stacks = [NewStack(donor.modules[name], layers) for name, layers in tensors.layer_sources.items()]
        shapes = {
            id(self.parents.layouts[reference]): {name: t.shape for name, t in checkpoint.tensors.items()}
            for reference, checkpoint in self.parents.checkpoints.items()
        }
        outside = {tensor.name: tensor.shape for tensor in tensors.tensors if tensor.layer is None}
        return [
            self._cause(problem, stacks) for problem in stack_config(config, donor, stacks, shapes, outside)
        ]

    def _cause(self, problem: Problem, stacks: Sequence[NewStack]) -> Problem:
        """A layer that would be built as another kind is no matter of order if its model's settings differ."""
        if problem.code != "layer-kinds":
            return problem
        layer = problem.values["layer"]
        sources = [stack.sources[layer][0] for stack in stacks if layer < len(stack.sources)]
        for reference, layout in self.parents.layouts.items():
            found = differences(self.parents.checkpoints[self.donor].config, layout.config)
            if found and any(layout is source for source in sources):
                settings = [f"{key}: {ours} and {theirs}" for key, (ours, theirs) in sorted(found.items())]
                values = {"model": str(reference), "donor": str(self.donor), "settings": settings}
                return Problem("layer-settings", values, str(reference))
        return problem

    def set_token_ids(self, name: str, config: dict[str, Any]) -> None:
        """Let a config name tokens by their numbers in the result, in place."""
        vocabulary = self.vocabulary
        if not vocabulary:
            return
        start = self.parents.checkpoints[vocabulary.start.model]
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
        return self.vocabulary.start.model if self.vocabulary else self.donor

    def tokenizer_texts(self) -> dict[str, str]:
        """The files of the tokenizer that are rewritten, with their text."""
        checkpoint = self.parents.checkpoints[self.tokenizer_reference()]
        written = self.vocabulary.documents(checkpoint) if self.vocabulary else {}
        if "tokenizer_config.json" not in written and "tokenizer_config.json" in checkpoint.files:
            written["tokenizer_config.json"] = read_mapping(checkpoint, "tokenizer_config.json")
        template = self.chat_template
        if template is not None and "tokenizer_config.json" in written:
            written["tokenizer_config.json"].pop("chat_template", None)
        texts = {name: configs.as_json(configs.without_traces(text)) for name, text in written.items()}
        return texts if template is None else {**texts, "chat_template.jinja": template}

    def report(self) -> TokenizerReport | None:
        """What becomes of the tokenizers, where the recipe touches them."""
        vocabulary = self.vocabulary
        if not vocabulary:
            return None
        start = self.parents.checkpoints[vocabulary.start.model]
        template = self.chat_template or chat_template(start)
        found = tokenizer_report(vocabulary, self.parents.checkpoints, template, self.tensors.transplant)
        if found.trouble:
            self.warnings.append(found.trouble)
        self.warnings += digits_differ(found)
        return found

    @cached_property
    def chat_template(self) -> str | None:
        """The template that the recipe asks for; None leaves the tokenizer its own."""
        wanted = self.recipe.chat_template
        if wanted not in ("auto", None):
            return TEMPLATES.get(wanted, wanted)
        if wanted is None and not self.vocabulary:
            return None
        merged = {source.model: None for source in self.recipe.sources()}
        found = [chat_template(self.parents.checkpoints[reference]) for reference in merged]
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
        """The files that are copied, with the number of the model they come from.

        Args:
            written: names of the files that are rewritten
        """
        reference = self.tokenizer_reference()
        checkpoint = self.parents.checkpoints[reference]
        found = tokenizer_files(checkpoint.files)
        if self.stem == "model" and not self._has_tokenizer(checkpoint):
            self.warnings.append(Problem("result-without-tokenizer", {"model": checkpoint.name}))
        left_out = {*written}
        if TOKENIZER in left_out:
            left_out |= {*OTHER_FORMS}
        if "chat_template.jinja" in left_out:
            left_out |= {file for file in found if is_template(file)}
        own = {file: self.parents.indices[reference] for file in found if file not in left_out}
        return self._companions(reference) | self._companions(self.donor) | own

    def _has_tokenizer(self, checkpoint: Checkpoint) -> bool:
        """Whether there is a vocabulary, or a tokenizer that needs none, or one with code of its own."""
        if has_vocabulary(checkpoint.files):
            return True
        if "tokenizer_config.json" not in checkpoint.files:
            return False
        settings = read_json(checkpoint, "tokenizer_config.json")
        is_mapping = isinstance(settings, dict)
        return is_mapping and (
            "auto_map" in settings or settings.get("tokenizer_class") in WITHOUT_VOCABULARY
        )

    def _companions(self, reference: ModelReference) -> dict[str, int]:
        """The files of a model that loaders read besides config, tokenizer and weights, as far as they are data."""
        checkpoint = self.parents.checkpoints[reference]
        found = companion_files(checkpoint.files)
        taken = [file for file in found if is_data(file) and checkpoint.files[file] <= MAX_SMALL_FILE]
        if left := [file for file in found if file not in taken]:
            self._warn("left-behind", {"model": checkpoint.name, "files": few(left)})
        if weights := [file for file in taken if file.endswith(".safetensors")]:
            self._warn("not-merged", {"model": checkpoint.name, "files": few(weights)})
        return dict.fromkeys(taken, self.parents.indices[reference])

    def _warn(self, code: str, values: dict[str, Any]) -> None:
        problem = Problem(code, values)
        self.warnings += [] if problem in self.warnings else [problem]

    def with_code(
        self, files: Mapping[str, str], copied: Mapping[str, int]
    ) -> tuple[dict[str, str], dict[str, int]]:
        """The files that are written and those that are copied, with the code that they name, and no other named.

        Args:
            files: that are written, with their text
            copied: with the number of the model they come from
        """
        written, models = dict(files), list(self.parents.checkpoints)
        sources = {"config.json": self.donor, "tokenizer_config.json": self.tokenizer_reference()}
        places = {name: model for name, model in sources.items() if name in files}
        places |= {name: models[index] for name, index in copied.items() if PROCESSOR.fullmatch(name)}
        for name, reference in places.items():
            checkpoint = self.parents.checkpoints[reference]
            document = json.loads(files[name]) if name in files else read_json(checkpoint, name)
            source = CodeSource(reference.name, checkpoint.files, checkpoint.read_file)
            if self.code.settle(name, document, source, self.parents.indices[reference]):
                written[name] = configs.as_json(document)
        self.warnings += self.code.warnings
        written = self.code.texts | written
        kept = {name: index for name, index in (self.code.own | dict(copied)).items() if name not in written}
        return written, kept
