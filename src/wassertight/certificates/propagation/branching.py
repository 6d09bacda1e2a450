"""Branch and bound over the signs of hinge arguments: the largest radius that can be proved in the time given.

A leaf is a set of signs (an activation pattern fixed in part) and one wrong class; leaves of one sample cover all
patterns, so a radius is proved when every leaf has a positive bound at it. Leaves survive a change of the radius: what
was split stays split, and only leaves not yet proved at the new radius are bounded again. So the certified radius
grows as long as there is time, and whatever was proved last is returned.

Bounds of a leaf are backward bounds with optimised slopes and multipliers (`slopes`), undecided units being met from above
by chords and by planes on the input (`hulls`); planes and inner bounds are those of the whole region (`whole`, `inner`).
Classes come one after the other, the hardest first. The unit to split is one whose two lines cost the bound most at the
input the bound is attained at (`losing`), the best of a few being found by bounding both children (2104.06718 filters so).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.propagation.bounds import Bounds
from wassertight.certificates.propagation.growing import Effort, Progress, Trial, grow
from wassertight.certificates.propagation.inner import OwnSlopes
from wassertight.certificates.propagation.losing import losses
from wassertight.certificates.propagation.region import Region, covering_radius
from wassertight.certificates.propagation.relaxations import Elementwise, Relaxation, steerable
from wassertight.certificates.propagation.slopes import Ascent, ascend
from wassertight.certificates.propagation.specification import specification
from wassertight.certificates.propagation.whole import Whole
from wassertight.types import Bounds as Box

_LAST = 120
"""Gradient steps for a leaf that has no undecided unit left."""


@dataclass(kw_only=True)
class _Leaves:
    """One row a leaf."""

    target: Tensor
    sides: Tensor
    choices: Tensor
    held: Tensor
    bound: Tensor
    reached: Tensor
    candidates: Tensor

    def part(self, rows: Tensor) -> _Leaves:
        return _Leaves(**{name: value[rows] for name, value in vars(self).items()})

    def joined(self, other: _Leaves) -> _Leaves:
        return _Leaves(**{name: torch.cat((value, vars(other)[name])) for name, value in vars(self).items()})

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True, kw_only=True)
class _At:
    """The radius that was tried last, and what is known there of the whole region."""

    t: float
    region: Region
    root: Bounds
    relaxations: dict[int, Relaxation]


class Search:
    """The largest proved radius of one sample.

    Args:
        propagation: bounds of the network, in the norm of the radius.
        box: of admissible inputs.
        effort: what may be spent.
        dtype: of the bounds.
    """

    def __init__(self, propagation: OwnSlopes, box: Box, effort: Effort, dtype: torch.dtype) -> None:
        self.propagation, self.box, self.effort, self.dtype = propagation, box, effort, dtype
        graph = propagation.graph
        self.graph, self.last = graph, len(graph.nodes) - 1
        self.hinges = [k for k, node in enumerate(graph.nodes) if steerable(node.operation)]
        self.arguments = {k: graph.nodes[k].parents[0] for k in self.hinges}
        self.sizes = [int(torch.tensor(graph.nodes[k].shape).prod()) for k in self.hinges]
        self.splits = self.evaluations = 0
        self.converged = True

    def run(self, x: Tensor, y: Tensor, proved: float, ceiling: float, goal: float | None = None) -> float:
        """A radius >= `proved` that is proved for x (*features) with label y ().

        Args:
            proved: a radius already proved.
            ceiling: no larger radius can be proved (an attack's distance); inf where none is known.
            goal: the one radius that matters; all time goes to it.
        """
        radius = self._grown(x, y, proved, ceiling, goal) if self.hinges else proved
        self.converged &= radius * (1 + 2 * self.effort.tolerance) >= ceiling
        return radius

    def _grown(self, x: Tensor, y: Tensor, proved: float, ceiling: float, goal: float | None) -> float:
        self.x = x[None].to(self.dtype)
        self.spec = specification(y[None], self.graph.classes, self.dtype)[0]
        self.whole = Whole(self.graph, self.spec)
        self.leaves = self._first(len(self.spec))
        self.propagation.forget()
        self.at: _At | None = None
        self.cover = float(covering_radius(self.x, self.propagation.r, self.box))
        found = grow(self._try, proved, ceiling, self.effort.tolerance, self.effort.seconds, goal)
        self.evaluations += self.whole.evaluations + self.propagation.evaluations
        return found

    def _try(self, t: float, deadline: float) -> Trial:
        if t >= self.cover:
            return Trial(proved=math.inf) if self._verify(self.cover, deadline) else Trial()
        if self._verify(t, deadline):
            return Trial(proved=t)
        return Trial(spent=len(self.leaves) >= self.effort.leaves)

    def _first(self, rows: int) -> _Leaves:
        units, like = sum(self.sizes), self.x
        return _Leaves(
            target=torch.arange(rows, device=like.device),
            sides=torch.zeros(rows, units, dtype=torch.int8, device=like.device),
            choices=torch.full((rows, units), torch.nan, dtype=like.dtype, device=like.device),
            held=torch.zeros(rows, units, dtype=like.dtype, device=like.device),
            bound=torch.full((rows,), -torch.inf, dtype=like.dtype, device=like.device),
            reached=torch.zeros(rows, dtype=torch.float64, device=like.device),
            candidates=torch.zeros(rows, max(1, min(self.effort.tries, units)), dtype=torch.long, device=like.device),
        )

    def _verify(self, t: float, deadline: float) -> bool:
        """Whether every leaf is proved at radius t before the deadline; splits leaves on the way, hardest class first."""
        if self.at is None or self.at.t != t or not self.propagation.settled:
            region = self.propagation.enter(Region.of(self.x, self.x.new_full((1,), t), self.propagation.r, self.box))
            root = self.propagation.bounds(region)
            self.at = _At(t=t, region=region, root=root, relaxations=self.propagation.relaxations(root))
        at = self.at
        while len(targets := torch.unique(self.leaves.target[self.leaves.reached < t])):
            margins = self.whole.margins(targets, at.region, at.root, at.relaxations)
            self.leaves.reached[torch.isin(self.leaves.target, targets[margins > 0])] = t
            if self.whole.target >= 0:
                self._begin()
                if not self._closed(deadline):
                    return False
            elif not bool((margins > 0).all()):
                return False
        return True

    def _closed(self, deadline: float) -> bool:
        """Whether all leaves of the class at hand are proved at the radius at hand; gives up where time will not do."""
        at, progress = self.at, Progress(deadline)
        assert at is not None

        def waiting() -> Tensor:
            return ((self.leaves.reached < at.t) & (self.leaves.target == self.whole.target)).nonzero().squeeze(1)

        rows = waiting()
        for part in torch.split(rows, 2 * self.effort.batch) if len(rows) else ():
            self._store(part, self._bounded(self.leaves.part(part), at))
            if time.perf_counter() > deadline:
                return False
        while len(rows := waiting()):
            if progress.hopeless(float(self.leaves.bound[rows].min())) or len(self.leaves) >= self.effort.leaves:
                return False
            rows = rows[self.leaves.bound[rows].argsort()[: self.effort.batch]]
            parents = self.leaves.part(rows)
            spent = parents.candidates[:, 0] < 0
            if bool(spent.any()):  # nothing left to split: only better multipliers can help
                rows = rows[spent]
                self._store(rows, self._bounded(parents.part(spent), at, ascents=_LAST))
                if bool((self.leaves.reached[rows] < at.t).any()):
                    return False
                continue
            children = self._bounded(self._split(parents, at), at)
            self.splits += len(rows)
            self._store(rows, children.part(torch.arange(len(rows))))
            self.leaves = self.leaves.joined(children.part(torch.arange(len(rows), 2 * len(rows))))
        return True

    def _begin(self) -> None:
        """The class' leaf without splits starts from the slopes found for the whole region."""
        rows = ((self.leaves.target == self.whole.target) & (self.leaves.sides == 0).all(1)).nonzero().squeeze(1)
        self.leaves.choices[rows] = torch.cat([self.whole.choices[k][0].flatten(1) for k in self.hinges], 1)

    def _store(self, rows: Tensor, part: _Leaves) -> None:
        for name, value in vars(part).items():
            vars(self.leaves)[name][rows] = value

    def _split(self, parents: _Leaves, at: _At) -> _Leaves:
        """Both children of every leaf, at the best of its candidates; all first children, then all second ones."""
        n, tries = parents.candidates.shape
        chosen = parents.candidates[:, 0]
        if tries > 1:
            trial = [
                self._with(parents, parents.candidates[:, k].clamp_min(0), s) for k in range(tries) for s in (1, -1)
            ]
            joined = trial[0]
            for other in trial[1:]:
                joined = joined.joined(other)
            values = torch.cat(
                [
                    self._evaluate(joined.part(rows), at, iterations=0)[0]
                    for rows in torch.split(torch.arange(len(joined), device=chosen.device), 4 * self.effort.batch)
                ]
            ).view(tries, 2, n)
            gain = values.amin(1) + 0.01 * values.amax(1).clamp_max(values.abs().amax())
            gain = gain.masked_fill(parents.candidates.T < 0, -torch.inf)
            chosen = parents.candidates.gather(1, gain.argmax(0)[:, None]).squeeze(1)
        return self._with(parents, chosen, 1).joined(self._with(parents, chosen, -1))

    def _with(self, parents: _Leaves, unit: Tensor, side: int) -> _Leaves:
        child = parents.part(torch.arange(len(parents), device=unit.device))
        child.sides = child.sides.scatter(1, unit[:, None], side)
        child.choices, child.held = child.choices.clone(), child.held.clone()
        return child

    def _bounded(self, part: _Leaves, at: _At, ascents: int | None = None) -> _Leaves:
        """The leaves with new bounds, slopes, multipliers and candidates to split."""
        value, ascent, relaxations = self._evaluate(part, at, ascents or self.effort.ascents)
        lost = losses(self.graph, at.region, ascent, relaxations, self.whole.covers(relaxations) or {})
        part.bound = value
        part.reached = torch.where(value > 0, torch.full_like(part.reached, at.t), part.reached)
        pieces = {"choices": [], "held": [], "score": []}  # type: ignore[var-annotated]
        n = len(part)
        for hinge, size in zip(self.hinges, self.sizes, strict=True):
            held = ascent.held.get(self.arguments[hinge])
            pieces["choices"].append(ascent.choices[hinge].reshape(n, size))
            pieces["held"].append(value.new_zeros(n, size) if held is None else held.reshape(n, size))
            pieces["score"].append(lost[hinge].reshape(n, size))
        part.choices, part.held = torch.cat(pieces["choices"], 1), torch.cat(pieces["held"], 1)
        score = torch.cat(pieces["score"], 1).masked_fill(part.sides != 0, -1.0)
        best = score.topk(part.candidates.shape[1], dim=1)
        part.candidates = torch.where(best.values > 0, best.indices, -1)
        return part

    def _evaluate(self, part: _Leaves, at: _At, iterations: int) -> tuple[Tensor, Ascent, dict[int, Relaxation]]:
        n, region = len(part), at.region
        self.evaluations += n * (iterations + 1)
        wide = Region(
            x=region.x.expand(n, *region.x.shape[1:]), t=region.t.expand(n), r=region.r,
            low=region.low.expand(n, *region.low.shape[1:]), high=region.high.expand(n, *region.high.shape[1:]),
        )  # fmt: skip
        sides, choices, held = {}, {}, {}
        for hinge, s, c, h in zip(
            self.hinges,
            torch.split(part.sides, self.sizes, 1),
            torch.split(part.choices, self.sizes, 1),
            torch.split(part.held, self.sizes, 1),
            strict=True,
        ):
            shape = (n, 1, *self.graph.nodes[hinge].shape)
            argument = self.arguments[hinge]
            if bool((s != 0).any()):
                sides[argument], held[argument] = s.view(shape), h.view(shape)
            choices[hinge] = c.view(shape)
        relaxations = dict(at.relaxations)
        for hinge in self.hinges:
            if self.arguments[hinge] in sides:
                relaxation = at.relaxations[hinge]
                assert isinstance(relaxation, Elementwise)
                relaxations[hinge] = relaxation.fixed(sides[self.arguments[hinge]])
        a = self.spec[part.target][:, None]
        allowance = (a.abs() * at.root.error[self.last][:, None]).sum(2)
        ascent = ascend(
            self.graph, self.last, a, wide, relaxations, iterations=iterations, choices=choices, held=held, sides=sides,
            covers=self.whole.covers(relaxations), offset=-allowance,
        )  # fmt: skip
        value = (ascent.best - allowance).squeeze(1)
        return torch.where(at.root.lost | value.isnan(), -torch.inf, value), ascent, relaxations
