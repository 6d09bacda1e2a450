"""Options as typed, read: boxes, confidences, costs, norms and settings, with errors that say what is allowed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from wassertight.errors import InputError


def read_bounds(text: str) -> tuple[float, float] | None:
    """The box as typed.

    >>> read_bounds("0,1"), read_bounds("none")
    ((0.0, 1.0), None)
    """
    if text.strip().lower() == "none":
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--bounds takes LOW,HIGH (for example 0,1) or none, got {text!r}") from None
    if not low < high:
        raise InputError(f"--bounds needs LOW < HIGH, got {text!r}")
    return low, high


def read_confidence(population: bool, confidence: float | None) -> float | None:
    """The confidence of the bound around the true law; None where that bound was not asked for.

    >>> read_confidence(True, None), read_confidence(False, None)
    (0.95, None)
    """
    if confidence is not None and not population:
        raise InputError("--confidence goes with --population; a proof about the samples themselves has confidence 1")
    return (0.95 if confidence is None else confidence) if population else None


def read_cost(text: str) -> float:
    """The cost of changing a label as typed.

    >>> read_cost("16/256")
    0.0625
    """
    numerator, _, denominator = text.strip().partition("/")
    try:
        cost = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"--label-cost takes a number or a fraction such as 16/255, got {text!r}") from None
    if not cost > 0:
        raise InputError(f"--label-cost must be > 0 (leave it out where labels never move), got {text!r}")
    return cost


def read_norm(text: str) -> float:
    """The order of a ground norm as typed.

    >>> read_norm("Linf"), read_norm("l2")
    (inf, 2.0)
    """
    known = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
    if text.strip().lower() not in known:
        raise InputError(f"--norm takes Linf, L2 or L1, got {text!r}")
    return known[text.strip().lower()]


def read_settings(texts: Iterable[str] | None) -> dict[str, Any] | None:
    """Settings as typed, name=value, values read as JSON where they are and as text otherwise.

    >>> read_settings(("passes=500", "loss=dlr"))
    {'passes': 500, 'loss': 'dlr'}
    """
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--set takes name=value, for example passes=500; got {text!r}")
        try:
            found[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            found[name.strip()] = value
    return found or None
