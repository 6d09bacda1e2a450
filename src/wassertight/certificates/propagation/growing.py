"""How a search that may be given more or less time moves from one radius to the next."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

_FIRST = 1e-6
"""Tried first where neither a proved radius nor a ceiling is known."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a search may spend.

    Attributes:
        seconds: wall time a sample.
        tolerance: relative width of the bracket at which a sample is done.
        leaves: most leaves of one sample.
        batch: leaves split at once.
        ascents: gradient steps on the slopes of a leaf, where hinges are split.
        tries: units whose children are bounded before one is split, likewise.
    """

    seconds: float
    tolerance: float
    leaves: int
    batch: int
    ascents: int = 4
    tries: int = 3


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What trying one radius has shown.

    Attributes:
        proved: a radius proved by it; 0 where it failed.
        ceiling: a radius beyond which nothing can be proved, the distance of an input answered otherwise.
        spent: whether nothing is left to search with.
    """

    proved: float = 0.0
    ceiling: float = math.inf
    spent: bool = False


def grow(
    verify: Callable[[float, float], Trial],
    proved: float,
    ceiling: float,
    tolerance: float,
    seconds: float,
    goal: float | None = None,
) -> float:
    """The largest radius that `verify` proves within `seconds`; never below `proved`.

    Radii between what is proved and what failed are tried until they meet; then, as a failure may have been want of time
    alone, again nearer the ceiling. Without a ceiling radii grow by a quarter, then by more, until one fails.

    Args:
        verify: called with a radius and the time (of `time.perf_counter`) at which it has to give up.
        proved: a radius already proved.
        ceiling: no larger radius can be proved (an attack's distance); inf where none is known.
        tolerance: relative width of the bracket at which the search is done.
        goal: the one radius that matters; all time goes to it.
    """
    begun = time.perf_counter()
    end = begun + seconds
    if goal is not None:
        return max(proved, verify(goal, end).proved) if goal > proved else proved
    low, high, failed, share = proved, ceiling, math.inf, 0.25
    while time.perf_counter() < end and low * (1 + tolerance) < high:
        top = min(high, failed)
        t = low + share * (top - low if top < math.inf else max(low, _FIRST))
        now = time.perf_counter()
        trial = verify(t, now + (end - now) * (0.35 if failed == math.inf else 0.5))
        high = min(high, trial.ceiling)
        if trial.proved > low:
            quick = time.perf_counter() - now < 0.05 * seconds
            low, share = trial.proved, min(0.8, share * 1.3) if quick else share
            continue
        if trial.spent:
            break
        failed, share = t, 0.5
        if failed <= low * (1 + tolerance):
            failed = math.inf
    return low
