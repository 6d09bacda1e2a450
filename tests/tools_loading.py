"""Imports a script of tools/ as a module, as it is when run from its folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def tool(name: str) -> ModuleType:
    """The script of that name; tools import each other by plain names."""
    place = str(ROOT / "tools")
    if place not in sys.path:
        sys.path.append(place)
    return importlib.import_module(name)
