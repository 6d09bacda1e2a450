"""How a search that may be given more or less time moves from one radius to the next."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

_STEP, _LEAST = 0.4, 0.04
"""Largest and smallest steps in radii; the largest one also in gaps below the ceiling."""
_PACE = 0.03
"""Step for which the work of a trial is taken to double."""
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
        work: seconds of it that a larger radius would multiply.
    """

    proved: float = 0.0
    ceiling: float = math.inf
    spent: bool = False
    work: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Until:
    """When a trial is to end, by `time.perf_counter`: at `due`, or at `end` if it is all but done."""

    due: float
    end: float


class Progress:
    """Foretells whether the worst bound of a growing tree reaches zero in time.

    Bounds rise about as the logarithm of time: what the last doubling of time gained is what the next one will.

    Args:
        until: when time is over.
    """

    def __init__(self, until: Until) -> None:
        self.begun, self.until = time.perf_counter(), until
        self.looks: list[tuple[float, float]] = []

    def hopeless(self, bound: float) -> bool:
        """Whether time is over, or will be before a bound that is `bound` < 0 by now is positive."""
        now = time.perf_counter()
        late = now > self.until.due
        self.looks.append((now - self.begun, bound))
        before = [b for t, b in self.looks if t <= self.looks[-1][0] / 2]
        if now > self.until.end or len(before) < _LOOKS:
            return late
        if now - self.begun < _EARLY * (self.until.due - self.begun):
            return False
        doublings = -bound / max(bound - before[-1], 1e-9 * abs(bound) + 1e-300)
        last, doubt = (self.until.end, 0.0) if late else (self.until.due, _DOUBT)
        return doublings > doubt + math.log2(max(last - self.begun, 1e-9) / max(now - self.begun, 1e-9))


def grow(
    verify: Callable[[float, Until], Trial],
    proved: float,
    ceiling: float,
    tolerance: float,
    seconds: float,
    goal: float | None = None,
) -> float:
    """The largest radius that `verify` proves within `seconds`; never below `proved`.

    Radii grow by two fifths first, then by the more the less work they were, and never past the ceiling. Below a failure
    the gap is halved; where little is left of it, radii beyond are tried again, as a failure may have been want of time
    alone. Trials are not begun where less time is left than one took without the work that a larger radius multiplies.

    Args:
        verify: called with a radius and when it has to give up.
        proved: a radius already proved.
        ceiling: no larger radius can be proved (an attack's distance); inf where none is known.
        tolerance: relative width of the bracket at which the search is done.
        goal: the one radius that matters; all time goes to it, in several trials if the first ones give up early.
    """
    end = time.perf_counter() + seconds
    low, high, failed, share, cost, work = proved, ceiling, math.inf, _STEP, math.inf, 1e-3 * seconds
    while low * (1 + tolerance) < high if goal is None else low < goal <= high:
        step = min(share * max(low, _FIRST), _STEP * (high - low))
        t = low + (step if failed == math.inf else 0.5 * (failed - low))
        now = time.perf_counter()
        left = end - now
        if left <= 0 or (cost < math.inf and left < cost):
            break
        due = end if _REST * left < cost < math.inf else end - _REST * left
        trial = verify(goal or t, Until(due=due, end=end))
        took = time.perf_counter() - now
        high = min(high, trial.ceiling)
        cost, work = min(cost, took - trial.work), work + trial.work
        if trial.proved > low:
            low = trial.proved
            next_one = (1 - _REST) * (left - took) - (took - trial.work)
            share = min(max(_PACE * math.log2(max(next_one, 1e-9) / work), _LEAST), _STEP)
            continue
        if trial.spent:
            break
        failed, share = t, max(min(0.5 * share, _LEAST), tolerance)
        if failed <= low * (1 + max(tolerance, _NEAR)):
            failed = math.inf
    return low
