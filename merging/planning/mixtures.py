"""The tensors of a mixture of experts: nearly all of them are copies of the dense models', under other names.

Attention, embeddings and norms are the base model's, or an average. The MLP of each expert's model becomes an expert of
the same layer. The routers are drawn or computed (`merging.experts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from checkpoints import Checkpoint, TensorHeader
from checkpoints.adapters.adapted import AdaptedCheckpoint
from checkpoints.architecture import DERIVED, Layout, Stack, model_class
from checkpoints.problems import CheckpointError, Problem
from checkpoints.renamed import RenamedCheckpoint
from checkpoints.wording import few
from merging.experts.architectures import (
    ARCHITECTURES,
    DEEPSEEK,
    DENSE_TYPES,
    MATRICES,
    Architecture,
    is_deepseek,
    named,
    window,
)
from merging.experts.generated import GeneratedCheckpoint, planned
from merging.plan import (
    Gates,
    Generated,
    GeneratedTensor,
    Input,
    PlannedMixture,
    PlannedModel,
    PlannedTensor,
    PromptedExpert,
    Value,
)
from merging.planning.prompts import PromptReader
from merging.planning.result_tensors import Names, ResultTensors
from merging.planning.runs import Run
from merging.recipe.gradients import ConditionalParameter
from merging.recipe.mixture import Expert, Mixture
from merging.recipe.recipe import ModelReference, Parameters, Recipe, Source

# Of an average of the weights outside the experts.
EQUALLY: Parameters = {"weight": (ConditionalParameter(1.0),)}
OUTSIDE = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
LAYERS = "model.layers."
MLP = "mlp."
NORM = "input_layernorm.weight"


class MixtureTensors(ResultTensors):
    """Collects the tensors of a mixture, and problems where something does not fit.

    Args:
        recipe: of a mixture
        checkpoints: the models that it names, open

    Attributes:
        generated: the tensors that no file holds
    """

    def __init__(self, recipe: Recipe, checkpoints: Mapping[ModelReference, Checkpoint]):
        super().__init__(recipe, checkpoints)
        assert recipe.mixture
        self.mixture: Mixture = recipe.mixture
        self.base = self.parents.donor
        self.architecture: Architecture = ARCHITECTURES[0]
        self.generated: dict[str, GeneratedTensor] = {}
        self.gates: Gates | None = None
        self.widths: dict[ModelReference, int] = {}

    @property
    def per_token(self) -> int:
        """Through how many experts a token passes."""
        return min(self.mixture.experts_per_token, len(self.mixture.experts))

    @property
    def layout(self) -> Layout:
        """The base's."""
        return self.parents.layouts[self.base]

    @property
    def stack(self) -> Stack:
        """The base's layers."""
        assert self.layout.main.stack
        return self.layout.main.stack

    def norm(self, layer: int) -> TensorHeader:
        """The norm at the beginning of a layer of the base: as long as the hidden states are wide."""
        return self.parents.checkpoints[self.base].tensors[self.stack.join(layer, NORM)]

    def planned(self) -> tuple[PlannedModel, ...]:
        models = super().planned()
        return (*models, planned(Generated(self.generated, self.gates))) if self.generated else models

    def opened(self) -> list[Checkpoint]:
        """The models of the plan; what is computed cannot be read."""
        own = super().opened()
        generated = Generated(self.generated, self.gates)
        return [*own, GeneratedCheckpoint(generated, self.recipe.seed)] if self.generated else own

    def description(self) -> PlannedMixture:
        mixture = self.mixture
        return PlannedMixture(
            self.architecture.model_class,
            tuple(str(expert.model) for expert in mixture.experts),
            "".join(str(expert.model) for expert in mixture.shared_experts),
            self.per_token,
            mixture.gate_mode,
            mixture.shared_weights == "average",
        )

    # -- the whole -------------------------------------------------------------------------------------

    def lay_out(self) -> None:
        self.check_checkpoints()
        self.check_base()
        if self.problems:
            return
        self.find_architecture()
        for expert in self.mixture.all_experts():
            self.check_expert(expert)
        self.check_widths()
        self.find_gates()
        if self.problems:
            return
        run = self.shared_run()
        self.outside_layers(run, self.stack.count, before=True)
        for number in range(self.stack.count):
            self.layer(run, number)
            self.experts_of(number)
            if self.is_too_large():
                return
        self.outside_layers(run, self.stack.count, before=False)
        self.report_misfits()
        self.check_names()
        self.check_settings()
        self.check_places()
        self.warn()

    def config(self, base: dict[str, Any]) -> dict[str, Any]:
        """The config of the result.

        Args:
            base: the dense model's, without what does not concern the weights
        """
        [width] = {self.widths[expert.model] for expert in self.mixture.experts}
        shared = [self.widths[expert.model] for expert in self.mixture.shared_experts]
        return self.architecture.config(
            base,
            experts=len(self.mixture.experts),
            per_token=self.per_token,
            width=width,
            shared_width=shared[0] if shared else None,
            is_tied=self.layout.is_tied,
        )

    # -- checks ----------------------------------------------------------------------------------------

    def check_base(self) -> None:
        """The base must be a dense model of a known kind: the result is its attention in another class."""
        config = self.layout.config
        stack = self.layout.main.stack
        is_known = config.get("model_type") in DENSE_TYPES and model_class(config).endswith("ForCausalLM")
        names = self.parents.checkpoints[self.base].tensors
        norms = stack and all(stack.join(layer, NORM) in names for layer in range(stack.count))
        if not is_known or stack is None or stack.prefix != LAYERS or not norms:
            values = {"model": str(self.base), "architecture": model_class(config), "known": [*DENSE_TYPES]}
            self.problems.append(Problem("mixture-base", values, str(self.base)))

    def find_architecture(self) -> None:
        wanted, count = self.mixture.architecture, len(self.mixture.shared_experts)
        kind = str(self.layout.config["model_type"])
        if wanted and is_deepseek(wanted):
            self.problems.append(Problem("deepseek-mixture", {"name": DEEPSEEK}))
            return
        found = named(wanted) if wanted else list(ARCHITECTURES)
        if not found:
            known = [architecture.name for architecture in ARCHITECTURES]
            self.problems.append(Problem("mixture-architecture", {"name": wanted, "known": known}))
            return
        fitting = [each for each in found if kind in each.bases]
        if not fitting:
            values = {
                "name": found[0].name,
                "model": str(self.base),
                "type": kind,
                "known": [*found[0].bases],
            }
            self.problems.append(Problem("mixture-of-others", values))
            return
        suitable = [each for each in fitting if each.takes_shared == (count > 0)]
        if not suitable:
            code = "no-shared-expert" if count else "needs-shared-expert"
            self.problems.append(Problem(code, {"name": fitting[0].name, "model": str(self.base)}))
            return
        self.architecture = suitable[0]
        if not self.architecture.takes_window and window(self.layout.config):
            values = {"name": self.architecture.name, "model": str(self.base)}
            self.problems.append(Problem("mixture-window", values))

    def check_expert(self, expert: Expert) -> None:
        """The model must have an MLP of three matrices in each of as many layers as the base, and nothing else."""
        if expert.model in self.widths:
            return
        checkpoint, layout = self.parents.checkpoints[expert.model], self.parents.layouts[expert.model]
        name, stack = str(expert.model), layout.main.stack
        count = stack.count if stack else 0
        if count != self.stack.count:
            values = {"model": name, "layers": count, "base": str(self.base), "wanted": self.stack.count}
            self.problems.append(Problem("expert-layers", values, expert.where))
            return
        assert stack
        places = [(place, own) for own in layout.names if (place := stack.split(own))]
        wanted = [f"{MLP}{matrix}.weight" for matrix in MATRICES]
        own = {place for place, _ in places if place[1].startswith(MLP) and not DERIVED.search(place[1])}
        expected = {(layer, rest) for layer in range(count) for rest in wanted}
        if odd := sorted(own ^ expected):
            tensors = few([stack.join(*place) for place in odd])
            self.problems.append(Problem("not-dense", {"model": name, "tensors": tensors}, expert.where))
            return
        self.check_shapes_of(expert, checkpoint, stack)
        act = checkpoint.config.get("hidden_act", "silu")
        if act != (expected_act := self.layout.config.get("hidden_act", "silu")):
            values = {"model": name, "found": act, "base": str(self.base), "expected": expected_act}
            self.problems.append(Problem("expert-activation", values, expert.where))

    def check_shapes_of(self, expert: Expert, checkpoint: Checkpoint, stack: Stack) -> None:
        hidden = self.norm(0).shape[0]
        width = checkpoint.tensors[stack.join(0, f"{MLP}up_proj.weight")].shape[0]
        for layer in range(stack.count):
            for matrix in MATRICES:
                found = checkpoint.tensors[stack.join(layer, f"{MLP}{matrix}.weight")]
                shape = (hidden, width) if matrix == "down_proj" else (width, hidden)
                if found.shape != shape:
                    values = {"name": found.name, "found": list(found.shape), "expected": list(shape)}
                    tensors = few([{"phrase": "shape-instead", **values}])
                    about = {"model": str(expert.model), "base": str(self.base), "tensors": tensors}
                    self.problems.append(Problem("expert-shape", about, expert.where))
                    return
        self.widths[expert.model] = width

    def check_widths(self) -> None:
        """The experts of a router are of one width; the shared one may have another."""
        known = [expert for expert in self.mixture.experts if expert.model in self.widths]
        for expert in known[1:]:
            first, width = known[0].model, self.widths[expert.model]
            if width != self.widths[first]:
                values = {
                    "model": str(expert.model),
                    "width": width,
                    "other": str(first),
                    "expected": self.widths[first],
                }
                self.problems.append(Problem("expert-width", values, expert.where))

    def check_places(self) -> None:
        """The result must have every tensor of its class, and no other."""
        expected = {*OUTSIDE} - ({OUTSIDE[-1]} if self.layout.is_tied else set())
        expected |= {
            self.stack.join(layer, rest)
            for layer in range(self.stack.count)
            for rest in self.architecture.layer
        }
        found = {tensor.name for tensor in self.tensors}
        found -= {name for name in found if (place := self.stack.split(name)) and self.is_own(place[1])}
        allowed = expected | {*OUTSIDE}
        if lacking := sorted(expected - found):
            values = {"model": str(self.base), "tensors": few(lacking), "name": self.architecture.name}
            self.problems.append(Problem("mixture-lacks", values, str(self.base)))
        if odd := sorted(found - allowed):
            values = {"model": str(self.base), "tensors": few(odd), "name": self.architecture.name}
            self.problems.append(Problem("mixture-has-no-place", values, str(self.base)))

    def is_own(self, rest: str) -> bool:
        """Whether a tensor of a layer is of experts or routers, by the end of its name."""
        return rest.startswith((MLP, "block_sparse_moe."))

    def warn(self) -> None:
        """Say what makes a mixture useless, as far as headers tell."""
        if not self.mixture.is_computed:
            self.warnings.append(Problem("random-routers", {"mode": self.mixture.gate_mode}))
        for expert in self.mixture.all_experts():
            adapters = list(_unused_adapters(self.parents.checkpoints[expert.model]))
            if adapters and self.mixture.shared_weights == "base":
                values = {"model": expert.model.name, "adapters": adapters}
                self.warnings.append(Problem("adapter-outside-experts", values, expert.where))
        count = len(self.mixture.experts)
        if self.per_token == count > 1:
            self.warnings.append(Problem("every-expert", {"count": count}))

    # -- tensors ---------------------------------------------------------------------------------------

    def shared_run(self) -> Run:
        """What the weights outside the experts are made of."""
        models = [self.base]
        if self.mixture.shared_weights == "average":
            models = [*dict.fromkeys(expert.model for expert in self.mixture.all_experts())]
        sources = tuple(Source(model, parameters=EQUALLY) for model in models)
        modules = tuple(self.parents.layouts[model].main for model in models)
        count = self.stack.count
        return Run(self.layout.main, sources, modules, (0,) * len(models), count, ({},), "", False)

    def tensor(self, run: Run, name: str, names: Names, position: float, layer: int | None) -> None:
        """Plan a tensor outside the experts; the dense models' MLPs have no place there."""
        place = self.stack.split(name)
        if not (place and place[1].startswith(MLP)) and not DERIVED.search(name):
            super().tensor(run, name, names, position, layer)

    def experts_of(self, layer: int) -> None:
        """Plan the experts and the router of a layer, and biases that the base has none of."""
        architecture, dtype = self.architecture, self.router_dtype(layer)
        for number, expert in enumerate(self.mixture.experts):
            for matrix in MATRICES:
                name = self.stack.join(layer, architecture.expert_name(number, matrix))
                self.expert_tensor(name, expert, layer, matrix)
        kind, scale = self.row_kind()
        hidden, count = self.norm(layer).shape[0], len(self.mixture.experts)
        self.generate(architecture.router, layer, GeneratedTensor(kind, (count, hidden), scale, layer), dtype)
        for expert in self.mixture.shared_experts:
            for matrix in MATRICES:
                name = self.stack.join(layer, architecture.shared.format(matrix=matrix))
                self.expert_tensor(name, expert, layer, matrix)
            kind = "shared gate" if kind == "router" else kind
            gate = GeneratedTensor(kind, (1, hidden), scale, layer)
            self.generate(architecture.shared_gate, layer, gate, dtype)
        self.fill_in(layer, dtype)

    def expert_tensor(self, name: str, expert: Expert, layer: int, matrix: str) -> None:
        """Plan a matrix of an expert: as it is, or with noise, or scaled."""
        own = self.parents.layouts[expert.model].main.stack
        assert own
        header = self.parents.checkpoints[expert.model].tensors[own.join(layer, f"{MLP}{matrix}.weight")]
        inputs: tuple[Input, ...] = (Input(self.parents.indices[expert.model], header.name),)
        dtype = self.output_dtype({header.stored_dtype})
        scale = expert.residual_scale if matrix == "down_proj" else 1.0
        if not expert.noise_scale and scale == 1:
            self.taken(name, header, inputs, dtype, layer)
            return
        weights = [scale]
        if expert.noise_scale:
            noise = f"noise of {name}"
            self.generated[noise] = GeneratedTensor("normal", header.shape, 1.0, layer)
            inputs = (*inputs, Input(self.generated_index, noise))
            weights.append(scale * expert.noise_scale)
        values: dict[str, Value] = {"weight": weights, "normalize": False}
        self.tensors.append(PlannedTensor(name, dtype, header.shape, inputs, values, None, layer))

    @property
    def generated_index(self) -> int:
        """The number of what no file holds, behind the models."""
        return len(self.parents.checkpoints)

    def generate(self, rest: str, layer: int, tensor: GeneratedTensor, dtype: str) -> None:
        """Plan a tensor that no file holds."""
        name = self.stack.join(layer, rest)
        self.generated[name] = tensor
        inputs = (Input(self.generated_index, name),)
        self.tensors.append(PlannedTensor(name, dtype, tensor.shape, inputs, {}, None, layer))

    def fill_in(self, layer: int, dtype: str) -> None:
        """Plan zeros for the biases that the architecture has and the models have not."""
        planned = {tensor.name for tensor in self.tensors if tensor.layer == layer}
        for rest in self.architecture.filled:
            weight = self.parents.checkpoints[self.base].tensors.get(
                self.stack.join(layer, rest.replace(".bias", ".weight"))
            )
            if weight and self.stack.join(layer, rest) not in planned:
                self.generate(rest, layer, GeneratedTensor("zeros", weight.shape[:1], 1.0, layer), dtype)

    def router_dtype(self, layer: int) -> str:
        """That of the layer's norm: no router is more exact than what it reads."""
        return self.output_dtype({self.norm(layer).stored_dtype})

    # -- routers ---------------------------------------------------------------------------------------

    def row_kind(self) -> tuple[str, float]:
        """How rows are generated, and the scale of what is drawn."""
        if self.mixture.is_computed:
            return "router", 1.0
        hidden = self.norm(0).shape[0]
        return ("uniform", hidden**-0.5) if self.mixture.gate_mode == "uniform_random" else ("normal", 1.0)

    def find_gates(self) -> None:
        """The prompts as tokens, where routers are computed from them."""
        if not self.mixture.is_computed:
            return
        try:
            reader = PromptReader(str(self.base), self.parents.checkpoints[self.base], self.layout)
            prompted = tuple(
                PromptedExpert(
                    str(expert.model),
                    tuple(map(reader.read, expert.positive_prompts)),
                    tuple(map(reader.read, expert.negative_prompts)),
                    expert in self.mixture.shared_experts,
                )
                for expert in self.mixture.all_experts()
            )
        except CheckpointError as error:
            self.problems += error.problems
            return
        index = self.parents.indices[self.base]
        self.gates = Gates(self.mixture.gate_mode, index, self.stack.count, prompted)


def _unused_adapters(checkpoint: Checkpoint) -> list[str]:
    """The adapters of a model that change no MLP."""
    found = []
    while isinstance(checkpoint, AdaptedCheckpoint | RenamedCheckpoint):
        if isinstance(checkpoint, RenamedCheckpoint):
            checkpoint = checkpoint.own
            continue
        if not any(f".{MLP}" in name for name in checkpoint.changes):
            found.append(checkpoint.adapter.name)
        checkpoint = checkpoint.base
    return found
