"""Imports another library, or skips the test."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import pytest


def library(name: str) -> Any:
    """The other library, or a skip that says how to get it; its own warnings at import are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{name} cannot be imported ({error}); pip install {name.removesuffix('.attacks')}")
