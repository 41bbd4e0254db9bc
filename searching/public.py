"""What `from searching import ...` offers."""

from searching.optimiser import SearchError
from searching.plan import Measured, SearchPlan, measure, plan_search
from searching.report import Comparison, SearchReport
from searching.run import SearchProgress, SearchResult, join_search, run_search
from searching.space import Axis, Space
from searching.space_reader import read_space

__all__ = [
    "Axis",
    "Comparison",
    "Measured",
    "SearchError",
    "SearchPlan",
    "SearchProgress",
    "SearchReport",
    "SearchResult",
    "Space",
    "join_search",
    "measure",
    "plan_search",
    "read_space",
    "run_search",
]
