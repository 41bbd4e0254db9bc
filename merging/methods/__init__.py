"""Merge methods: the arithmetic, one short file a family. See `method` for what a method is.

A new file is listed here, and its methods are in the registry, the tables, the form and the tests. The order
is the order in which people are shown them.
"""

from merging.methods import (  # noqa: F401  # isort: skip
    linear,
    slerp,
    nuslerp,
    multislerp,
    karcher,
    task_arithmetic,
    chat_vector,
    dare,
    della,
    breadcrumbs,
    consensus,
    sce,
    tsv,
    isotropic,
    wudi,
    model_stock,
    ram,
    nearswap,
    arcee_fusion,
    passthrough,
)
from merging.methods.method import METHODS, MergeMethod, merge_method
from merging.methods.parameters import Parameter, PerModel, Range

__all__ = ["METHODS", "MergeMethod", "Parameter", "PerModel", "Range", "merge_method"]
