"""Every module of the package, loaded: what a test says of all rooms, it says of the ones to come."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType

import starforge


@cache
def modules() -> tuple[ModuleType, ...]:
    """Import every module but the one that would run the command line."""
    found = pkgutil.walk_packages(starforge.__path__, "starforge.")
    return tuple(importlib.import_module(m.name) for m in found if not m.name.endswith(".__main__"))
