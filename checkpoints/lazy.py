"""Packages that import what they offer when it is first asked for. Help and wrong arguments wait for none of it."""

from __future__ import annotations

import sys
from collections.abc import Collection
from importlib import import_module
from types import ModuleType
from typing import Any


def offer(package: str, *, functions: Collection[str] = ()) -> None:
    """Offer the names of `package.public` as attributes of a package.

    Args:
        package: the name of a package that is being imported
        functions: names in `package.public` that rooms of the package have too. The function wins: Python would set the
            room as an attribute of its package once it is imported.
    """

    class Package(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(import_module(f"{package}.public"), name)

        def __setattr__(self, name: str, value: object) -> None:
            if name not in functions or not isinstance(value, ModuleType):
                super().__setattr__(name, value)

    sys.modules[package].__class__ = Package
