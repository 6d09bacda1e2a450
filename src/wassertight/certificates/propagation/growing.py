"""How a search that may be given more or less time moves from one radius to the next."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

_NEAR = 0.02
"""Relative width at which the crossing of a quick bound is known well enough."""
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
    probe: Callable[[float], float] | None = None,
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
        probe: a quick bound of the margin at a radius, positive where it proves the radius by itself; half of the time
            at most goes to the radius where it crosses zero.
    """
    begun = time.perf_counter()
    end = begun + seconds
    if goal is not None:
        return max(proved, verify(goal, end).proved) if goal > proved else proved
    low, high, failed, share = proved, ceiling, math.inf, 0.25
    if probe is not None:
        low, missed = crossing(probe, low, high, begun + 0.5 * seconds)
        room = high - low if high < math.inf else max(low, _FIRST)
        share = min(0.25, (missed - low) / room) if low < missed < high else share
    while time.perf_counter() < end and low * (1 + tolerance) < high:
        top = min(high, failed)
        t = low + share * (top - low if top < math.inf else max(low, _FIRST))
        now = time.perf_counter()
        trial = verify(t, now + (end - now) * (0.35 if failed == math.inf else 0.5))
        high = min(high, trial.ceiling)
        if trial.proved > low:
            quick = time.perf_counter() - now < 0.1 * seconds
            low, share = trial.proved, min(0.8, share * 1.6) if quick else share
            continue
        if trial.spent:
            break
        failed, share = t, 0.5
        if failed <= low * (1 + tolerance):
            failed = math.inf
    return low


def crossing(probe: Callable[[float], float], low: float, high: float, end: float) -> tuple[float, float]:
    """A radius with a positive margin and one without, close to each other.

    Margins below zero are taken to lie on a line through the last two; how far one is above zero is not used, as bounds
    are not improved any more once they are positive.

    Args:
        probe: the margin at a radius; inf where nothing further has to be proved.
        low: a radius already proved.
        high: no larger radius can be proved; may be inf.
        end: time (of `time.perf_counter`) at which to give up.
    """
    top, missed = high, list[tuple[float, float]]()
    while time.perf_counter() < end and (low == 0 or top > low * (1 + _NEAR)):
        share = 0.5
        if len(missed) > 1 and missed[0][1] < missed[1][1]:
            (t, worse), (s, better) = missed
            zero = s - better * (t - s) / (worse - better)
            share = min(max((zero - low) / (top - low), 0.2), 0.8)
        t = low + (share * (top - low) if missed else 0.25 * min(top - low, max(low, _FIRST)))
        margin = probe(t)
        if margin == math.inf:
            return t, top
        if margin > 0:
            low = t
        else:
            top, missed = t, [*missed[-1:], (t, margin)]
    return low, top
