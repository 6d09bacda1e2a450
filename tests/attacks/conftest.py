"""Foolbox and torchattacks for the tests that call them, or a skip that says how to get them."""

from __future__ import annotations

from typing import Any

import pytest

from other_libraries import library


@pytest.fixture(scope="module")
def torchattacks() -> Any:
    return library("torchattacks")


@pytest.fixture(scope="module")
def foolbox() -> Any:
    library("foolbox.attacks")
    return library("foolbox")
