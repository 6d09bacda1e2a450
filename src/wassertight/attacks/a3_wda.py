"""A3 and A3-WDA: adaptive auto attack, with PGD or with WDA inside (Liu et al. 2022, 2203.05154; 2510.10000).

Problem, for every correctly classified sample: is there a z with `||z - x||_r <= radius` in the box that is
misclassified? A pointwise ensemble that spends many cheap restarts where they pay:

1. Samples that are wrong at one random point of the ball leave at once.
2. Adaptive direction initialisation: a start is reached by a few whole-radius steps up `<v, logits>` with random v.
   From the third round on v is biased: a small or negative entry for the true class, a large one for one wrong class
   whose rank cycles over the restarts, with signs learnt from the directions that have succeeded.
3. Rounds attack a shrinking share of the survivors - those of largest margin loss so far -, discarding the hard ones,
   with more iterations and more restarts; steps follow a cosine from the radius to 0.1 or 0.001 of it.
4. A sample that ever flips stays flipped.

Inside, A3 climbs the best-other margin by signed (l_inf), normalised (l_2) or one-coordinate (l_1) steps; A3-WDA first
probes the `candidates` most likely classes with one step and climbs towards the winner.

Differs from the released codes (`mode="default"` does all, `mode="reference"` keeps 3 and 4 as released): 1. one
seeded generator draws everything; 2. the noise of the start is uniform in the ball of the norm; 3. WDA's ball is
centred at the sample, not at the start point; 4. iterates that flip count, not only the last ones; 5. ranks come from
a proper sort; 6. the statistics of directions work for any number of classes; 7. `rounds` bounds the schedule, and
there is no hidden iteration budget.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.incumbent import Incumbent
from wassertight.attacks.minimum_norm.search import check_norm, check_steps, nearest_flips, within_rounding
from wassertight.attacks.wda import advance, climb, probe
from wassertight.geometry import dual_direction, project_ball, project_box, sample_ball
from wassertight.losses import margin, weighted
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel
from wassertight.types import InputError

_FEWEST = 100
"""Samples a round attacks at least."""
_OPENING = ((1.0, 8, 0, 1), (1.0, 8, 7, 1), (1.0, 8, 7, 1))
_WEAK = (
    (0.7, 25, 7, 1), (0.6, 30, 7, 1), (0.5, 30, 7, 1), (0.4, 35, 7, 1), (0.3, 40, 7, 1), (0.2, 45, 7, 1),
    (0.1, 50, 7, 1), (0.1, 50, 7, 4), (0.065, 55, 7, 4), (0.03, 60, 7, 50),
)  # fmt: skip
_STRONG = (
    (1.0, 5, 10, 10), (1.0, 5, 15, 1), (1.0, 10, 15, 1), (1.0, 10, 10, 1), (1.0, 15, 10, 1), (1.0, 18, 10, 1),
    (1.0, 20, 10, 1), (0.8, 25, 10, 5), (0.5, 35, 10, 5), (0.5, 45, 10, 20),
)  # fmt: skip
"""Rounds as (share of the survivors, iterations, direction steps, restarts); weak or strong directions."""


@dataclass(frozen=True, kw_only=True)
class A3(Attack):
    """Adaptive auto attack; `inner="wda"` is A3-WDA.

    Args:
        inner: "pgd" (A3) or "wda" (A3-WDA).
        rounds: rounds at most, 1 to 13 (the released evaluation uses 13, the WDA adapter alone 6).
        candidates: classes WDA probes.
        mode: "default" or "reference" (see the module).

    Restarts see only the samples that no earlier one has flipped.
    """

    name: ClassVar[str] = "a3"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = True

    inner: Literal["pgd", "wda"] = "pgd"
    rounds: int = 13
    candidates: int = 9
    mode: Literal["default", "reference"] = "default"

    def __post_init__(self) -> None:
        check_steps(self.rounds, candidates=self.candidates)
        if self.inner not in ("pgd", "wda") or self.mode not in ("default", "reference"):
            raise InputError(f"inner must be 'pgd' or 'wda' and mode 'default' or 'reference'; got {self}")

    def find(self, problem: Problem) -> Found:
        """Flips inside the ball."""
        return nearest_flips(problem, self._search)

    def _search(
        self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, generator: torch.Generator
    ) -> int:
        check_norm(threat)
        if threat.radius == 0:
            return 0
        run = _Campaign(self, queries, incumbent, threat, generator)
        run.scatter()
        steps = 0
        for index, (share, iterations, turns, restarts) in enumerate(run.schedule()):
            if index >= self.rounds or not bool(run.left().any()):
                break
            few = int(run.left().sum()) < 0.1 * len(incumbent.x)
            for _ in range(restarts + (10 if few and index > 2 else 0)):
                rows = run.hardest(1.0 if few else share)
                if len(rows) == 0:
                    break
                run.attack(rows, index, iterations, turns)
                steps += iterations + turns
        return steps


class _Campaign:
    """The state of one chunk: who is left, the largest margins, and what is known about good directions."""

    def __init__(
        self, attack: A3, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, generator: torch.Generator
    ) -> None:
        self.settings, self.queries, self.incumbent, self.threat = attack, queries, incumbent, threat
        self.generator = generator
        self.radius = float(within_rounding(torch.tensor(threat.radius, dtype=torch.float64), incumbent.x))
        self.height = incumbent.clean_margin.clone()
        logits = queries.logits(incumbent.x)
        self.classes = logits.shape[1]
        self.order = logits.argsort(dim=1, descending=True, stable=True)
        self.turned, self.opened = 0, len(incumbent.x)
        self.cycle = -1
        self.sum_wrong, self.sum_true = 0.0, 0.0

    def left(self) -> Tensor:
        """Which samples have no flip inside the ball."""
        return self.incumbent.distance > self.threat.radius * (1 + 1e-6)

    def schedule(self) -> Iterator[tuple[float, int, int, int]]:
        """The rounds; the second half is chosen when it begins, by the success of directions so far."""
        yield from _OPENING
        yield from _WEAK if self.weak else _STRONG

    @property
    def weak(self) -> bool:
        """Whether directions alone have flipped fewer than 5 % of what the first round left."""
        return self.turned < 0.05 * max(1, self.opened)

    def scatter(self) -> None:
        """One random point of the ball: a corner of the cube under l_inf."""
        x = self.incumbent.x
        d = sample_ball(x, self.radius, self.threat.r, self.generator)
        d = d.sign() * self.radius if math.isinf(self.threat.r) else d
        z = project_box(x + d, self.threat.bounds)
        logits = self.queries.logits(z)
        self.incumbent.offer(z, logits, torch.arange(len(x), device=x.device))
        self.order = logits.argsort(dim=1, descending=True, stable=True)

    def hardest(self, share: float) -> Tensor:
        """The survivors with the largest margin loss so far, at least a hundred of them."""
        rows = self.left().nonzero().squeeze(1)
        count = min(len(rows), max(_FEWEST, int(share * len(rows))))
        return rows[self.height[rows].argsort(descending=True, stable=True)[:count]]

    def attack(self, rows: Tensor, index: int, iterations: int, turns: int) -> None:
        """A start by random directions, then the climb."""
        self.cycle += 1
        x, y = self.incumbent.x[rows], self.incumbent.y[rows]
        z = project_box(x + sample_ball(x, self.radius, self.threat.r, self.generator), self.threat.bounds)
        if turns:
            v = self._direction(rows, index)
            for _ in range(turns):
                _, _, g = self.queries.gradient(z, v, weighted)
                z = advance(z, x, g, self.radius, self.radius, self.threat)
            logits = self.queries.logits(z)
            self._offer(z, logits, rows)
            wrong = ~self.left()[rows]
            self._learn(v[wrong], y[wrong], logits[wrong])
            rows, z = rows[~wrong], z[~wrong]
            self.turned += int(wrong.sum())
        if len(rows) == 0:
            return
        steps = iterations + turns if index else 8
        piece = self.incumbent.part(rows)
        if self.settings.inner == "wda":
            clean = self.queries.logits(z)
            target = probe(
                self.queries, piece.x, piece.y, clean, self.radius, self.threat, self.settings.candidates, 1, "logit"
            )
            end = climb(
                self.queries, piece, z, target, _cosine(self.radius, steps), self.radius, self.threat,
                stop=self.settings.mode == "default",
            )  # fmt: skip
            self.height[rows] = torch.maximum(self.height[rows], margin(self.queries.logits(end), piece.y))
        else:
            self._climb(piece, rows, z, _cosine(self.radius, steps))
        self.incumbent.merge(piece, rows)
        if index == 0:
            self.opened = int(self.left().sum())

    def _climb(self, piece: Incumbent, rows: Tensor, z: Tensor, lengths: list[float]) -> None:
        at = torch.arange(len(rows), device=rows.device)
        for length in lengths:
            logits, height, g = self.queries.gradient(z, piece.y[at], margin)
            self.height[rows[at]] = torch.maximum(self.height[rows[at]], height)
            wrong = piece.offer(z, logits, at)
            at, z, g = at[~wrong], z[~wrong], g[~wrong]
            if len(at) == 0:
                return
            d = z + length * dual_direction(g, self.threat.r) - piece.x[at]
            z = project_box(piece.x[at] + project_ball(d, self.radius, self.threat.r), self.threat.bounds)
        piece.offer(z, self.queries.logits(z), at)

    def _offer(self, z: Tensor, logits: Tensor, rows: Tensor) -> None:
        self.incumbent.offer(z, logits, rows)
        self.height[rows] = torch.maximum(self.height[rows], margin(logits, self.incumbent.y[rows]))

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float64).uniform_(low, high, generator=self.generator)

    def _direction(self, rows: Tensor, index: int) -> Tensor:
        """v of every sample, (n, classes): random in the first rounds, then biased by what has succeeded."""
        x, y = self.incumbent.x, self.incumbent.y[rows]
        v = self._uniform(-1, 1, len(rows), self.classes)
        if index >= 2:
            low, high, sign, span = self._bias(index)
            scale = self.classes / 10
            ranked = self.order[rows].cpu()
            column = 1 + max(0, self.cycle) % max(1, min(span, self.classes - 1))
            v.scatter_(1, y.cpu()[:, None], float(self._uniform(low, high, 1)) * scale if high > low else 0.0)
            other = ranked[:, [min(column, self.classes - 1)]]
            other = torch.where(other == y.cpu()[:, None], ranked[:, :1], other)
            v.scatter_(1, other, sign * 0.8 * scale)
        return v.to(device=x.device, dtype=x.dtype)

    def _bias(self, index: int) -> tuple[float, float, float, int]:
        """Range of the true class's entry, sign of the wrong one's, and how many ranks to cycle over."""
        span = 9 if self.classes <= 10 else 14 if self.classes <= 100 else 20
        if not self.weak:
            return (0.0, 0.0, 1.0, span) if index >= 11 else (-0.1, 0.5, 1.0, span)
        if index >= 10:
            return (-0.8, 0.1, 1.0, 4 if self.classes <= 10 else span)
        if self.classes > 10:
            return (-0.5, 0.1, 1.0, span)
        if self.sum_true > 0:
            return (-0.1, 0.5, 1.0 if self.sum_wrong > 0 else -1.0, span)
        return (-0.5, 0.1, -1.0 if self.sum_wrong < 0 else 1.0, span)

    def _learn(self, v: Tensor, y: Tensor, logits: Tensor) -> None:
        """Sums of the entries of the class finally answered and of the true class over successful directions."""
        if len(v):
            self.sum_wrong += float(v.gather(1, logits.argmax(1, keepdim=True)).sum())
            self.sum_true += float(v.gather(1, y[:, None]).sum())


def _cosine(radius: float, steps: int) -> list[float]:
    """Step lengths falling from the radius to 0.1 (short runs) or 0.001 of it."""
    least = (0.1 if steps <= 10 else 0.001) * radius
    return [least + (radius - least) * (1 + math.cos(math.pi * s / (steps + 1))) / 2 for s in range(steps)]
