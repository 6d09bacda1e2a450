"""How a search that may be given more or less time moves from one radius to the next."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

_STEP, _SMALL, _QUICK = 0.4, 0.06, 0.1
"""Steps in radii, or in gaps below the ceiling if these are smaller; and which part of all time counts as quick."""
_NEAR = 0.01
"""Relative distance of a failure at which radii beyond it are tried again, as more time may do."""
_REST = 0.4
"""Part of the time left that a trial leaves to others, if it is enough for one."""
_DOUBT = 2.0
"""Doublings of time by which what is foretold may be wrong."""
_LOOKS, _EARLY = 4, 0.15
"""How often progress is looked at before half of the time so far, and which part of all time passes, before anything is
foretold."""
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


class Progress:
    """Foretells whether the worst bound of a growing tree reaches zero before a deadline.

    Bounds rise about as the logarithm of time: what the last doubling of time gained is what the next one will.

    Args:
        deadline: of `time.perf_counter`.
    """

    def __init__(self, deadline: float) -> None:
        self.begun, self.deadline = time.perf_counter(), deadline
        self.looks: list[tuple[float, float]] = []

    def hopeless(self, bound: float) -> bool:
        """Whether the deadline has passed, or will pass before a bound that is `bound` < 0 by now is positive."""
        now = time.perf_counter()
        self.looks.append((now - self.begun, bound))
        before = [b for t, b in self.looks if t <= self.looks[-1][0] / 2]
        if now > self.deadline or len(before) < _LOOKS or now - self.begun < _EARLY * (self.deadline - self.begun):
            return now > self.deadline
        doublings = -bound / max(bound - before[-1], 1e-9 * abs(bound) + 1e-300)
        return doublings > _DOUBT + math.log2(max(self.deadline - self.begun, 1e-9) / max(now - self.begun, 1e-9))


def grow(
    verify: Callable[[float, float], Trial],
    proved: float,
    ceiling: float,
    tolerance: float,
    seconds: float,
    goal: float | None = None,
) -> float:
    """The largest radius that `verify` proves within `seconds`; never below `proved`.

    Radii grow by two fifths as long as trials are quick, by small steps after others, and never past the ceiling. Below a
    failure the gap is halved; where little is left of it, radii beyond are tried again, as a failure may have been want
    of time alone. Trials are not begun where time is left for less than the shortest one took.

    Args:
        verify: called with a radius and the time (of `time.perf_counter`) at which it has to give up.
        proved: a radius already proved.
        ceiling: no larger radius can be proved (an attack's distance); inf where none is known.
        tolerance: relative width of the bracket at which the search is done.
        goal: the one radius that matters; all time goes to it, in several trials if the first ones give up early.
    """
    end = time.perf_counter() + seconds
    low, high, failed, share, cost = proved, ceiling, math.inf, _STEP, math.inf
    while low * (1 + tolerance) < high if goal is None else low < goal <= high:
        room = min(high - low, max(low, _FIRST))
        t = low + (share * room if failed == math.inf else 0.5 * (failed - low))
        now = time.perf_counter()
        left = end - now
        if left <= 0 or (cost < math.inf and left < cost):
            break
        trial = verify(goal or t, end if _REST * left < cost < math.inf else end - _REST * left)
        took = time.perf_counter() - now
        high = min(high, trial.ceiling)
        cost = min(cost, took)
        if trial.proved > low:
            low, share = trial.proved, share if took < _QUICK * seconds else min(share, _SMALL)
            continue
        if trial.spent:
            break
        failed, share = t, max(min(0.5 * share, _SMALL), tolerance)
        if failed <= low * (1 + max(tolerance, _NEAR)):
            failed = math.inf
    return low
