"""How a search that may be given more or less time moves from one radius to the next."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

_STEP, _LEAST = 0.45, 0.005
"""Largest and smallest steps in radii; the largest one also in gaps below the ceiling."""
_PACE = (0.01, 0.025)
"""Step for which trees are taken to double: between these, half of what two trials have shown, as they grow ever faster."""
_CLOSE = 0.04
"""Largest step after a failure is half of it, after the next one half of that, and so on until a success."""
_NEAR = 0.01
"""Relative distance of a failure at which radii beyond it are tried again, as more time may do."""
_REST = 0.4
"""Part of the time left that a trial leaves to others, if it is enough for one."""
_SAFE = 0.8
"""Part of the time left that a trial that leaves none is planned to take."""
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
    ascents: int = 2
    tries: int = 3


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What trying one radius has shown.

    Attributes:
        proved: a radius proved by it; 0 where it failed.
        ceiling: a radius beyond which nothing can be proved, the distance of an input answered otherwise.
        spent: whether nothing is left to search with.
        work: seconds spent on leaves.
        again: seconds it would take to bound all leaves anew.
    """

    proved: float = 0.0
    ceiling: float = math.inf
    spent: bool = False
    work: float = 0.0
    again: float = 0.0


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

    Radii grow by nearly half first, then by what there is time for, and never past the ceiling. Below a failure
    the gap is halved; where little is left of it, radii beyond are tried again, as a failure may have been want of time
    alone. Trials are not begun where less time is left than one took without its leaves.

    Args:
        verify: called with a radius and when it has to give up.
        proved: a radius already proved.
        ceiling: no larger radius can be proved (an attack's distance); inf where none is known.
        tolerance: relative width of the bracket at which the search is done.
        goal: the one radius that matters; all time goes to it, in several trials if the first ones give up early.
    """
    end = time.perf_counter() + seconds
    low, high, failed, most, budget = proved, ceiling, math.inf, _STEP, _Budget()
    while low * (1 + tolerance) < high if goal is None else low < goal <= high:
        now = time.perf_counter()
        left = end - now
        step = min(min(budget.step(left), most) * max(low, _FIRST), _STEP * (high - low))
        t = low + (step if failed == math.inf else 0.5 * (failed - low))
        if left <= 0 or left < budget.least:
            break
        trial = verify(goal or t, Until(due=end - budget.others(left), end=end))
        high = min(high, trial.ceiling)
        budget.learn(trial, time.perf_counter() - now)
        if trial.proved > low:
            low, most = trial.proved, _STEP
            continue
        if trial.spent:
            break
        most = max(0.5 * min(most, _CLOSE), tolerance)
        failed = math.inf if t <= low * (1 + max(tolerance, _NEAR)) else t
    return low


class _Budget:
    """What trials take, from those that were made.

    A trial takes as long as its inner bounds and the leaves it begins with, and then the tree grows: it has twice the
    size at a radius that is larger by the pace.

    Attributes:
        least: the least seconds a trial has taken without its leaves.
    """

    def __init__(self) -> None:
        self.least = self._fixed = self._again = self._grown = self._reached = 0.0
        self._pace = _PACE[1]

    def learn(self, trial: Trial, took: float) -> None:
        """From a trial and the seconds it took."""
        inner, before = took - trial.work, self._grown
        self.least = inner if self._fixed == 0 else min(self.least, inner)
        self._grown += max(trial.work - self._again, 0.0)
        self._fixed, self._again = inner + trial.again, trial.again
        if trial.proved > self._reached:
            if before > 0 and self._reached > 0:
                doublings = math.log2(self._grown / before)
                step = min(trial.proved / self._reached - 1, _STEP)
                self._pace = min(max(0.5 * step / max(doublings, 1e-9), _PACE[0]), _PACE[1])
            self._reached = trial.proved

    def others(self, left: float) -> float:
        """Of what time is left, the part that a trial leaves to those after it: none if they could not use it."""
        return _REST * left if self._fixed <= _REST * left else 0.0

    def step(self, left: float) -> float:
        """Relative step in radius that takes the time of the next trial."""
        if self._grown == 0:
            return _STEP
        others = self.others(left)
        room = (left - others if others else _SAFE * left) - self._fixed
        return min(max(self._pace * math.log2(1 + max(room, 0.0) / self._grown), _LEAST), _STEP)
