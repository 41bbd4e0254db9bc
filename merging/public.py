"""What `from merging import ...` offers."""

from checkpoints.problems import (
    Cancelled,
    CheckpointError,
    DestinationError,
    MergeError,
    PlanError,
    Problem,
    RecipeError,
)
from merging.engine.cluster import RayEngine
from merging.engine.result import Progress, Result
from merging.engine.run import merge_into_memory, run_plan
from merging.engine.several import run_plans
from merging.experts.routing import Routing
from merging.licences import licence_of
from merging.methods import METHODS, MergeMethod, Parameter
from merging.plan import Plan
from merging.planning.make import make_plan
from merging.prompt_routing import route_prompts
from merging.recipe.reader import read_recipe
from merging.recipe.recipe import Recipe
from merging.result_card import Licence, model_card
from merging.shaping import cut_recipe, stack_recipe

__all__ = [
    "METHODS",
    "Cancelled",
    "CheckpointError",
    "DestinationError",
    "Licence",
    "MergeError",
    "MergeMethod",
    "Parameter",
    "Plan",
    "PlanError",
    "Problem",
    "Progress",
    "RayEngine",
    "Recipe",
    "RecipeError",
    "Result",
    "Routing",
    "cut_recipe",
    "licence_of",
    "make_plan",
    "merge_into_memory",
    "model_card",
    "read_recipe",
    "route_prompts",
    "run_plan",
    "run_plans",
    "stack_recipe",
]
