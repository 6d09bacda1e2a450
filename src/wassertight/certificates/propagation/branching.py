"""Branch and bound over the signs of hinge arguments: the largest radius that can be proved in the time given.

A leaf is a set of signs (an activation pattern fixed in part) and one wrong class; leaves of one sample cover all
patterns, so a radius is proved when every leaf has a positive bound at it. Leaves survive a change of the radius: what
was split stays split, and only leaves not yet proved at the new radius are bounded again. So the certified radius
grows as long as there is time, and whatever was proved last is returned.

Bounds of a leaf are backward bounds with optimised slopes and multipliers (`slopes`), undecided units being met from above
by chords and by planes on the input (`hulls`). All leaves of a class share their planes, which are raised again and again
over those that are open (`sharing`); inner bounds are those of the whole region (`inner`). Classes come one after the
other, the hardest first. The unit to split is one whose two lines cost the bound most at the input the bound is attained at
(`losing`), the best of a few being found by bounding both children (2104.06718 filters so). Leaves that are nearly closed are
bounded once more over narrower intervals (`clipping`).
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from wassertight.certificates.propagation.clipping import Clip
from wassertight.certificates.propagation.growing import Effort, Progress, Trial, Until, grow
from wassertight.certificates.propagation.inner import OwnSlopes
from wassertight.certificates.propagation.layout import flat_rows
from wassertight.certificates.propagation.leaves import CLIPPED, At, Common, Evaluator, Found, Leaves
from wassertight.certificates.propagation.losing import losses
from wassertight.certificates.propagation.region import Region, covering_radius
from wassertight.certificates.propagation.sharing import Shared
from wassertight.certificates.propagation.specification import specification
from wassertight.types import Bounds as Box

_LAST = 120
"""Gradient steps for a leaf that has no undecided unit left."""
_PLAIN = 4
"""Gradient steps on slopes alone for a class without splits, which settle most classes."""
_FIRST, _AGAIN = 12, 6
"""Gradient steps on planes that begin as chords, and on others."""
_SOME, _RARE = 48, 24
"""Open leaves that planes are raised over; and splits until they are first raised over others."""
_WEIGHTS = 10**7
"""Weights of a class' planes at most."""
_NEAR = 0.4
"""Leaves are clipped where so much of the spread of their linear bound lies above zero; below little is gained."""


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
        self.graph = propagation.graph
        self.evaluator = Evaluator(self.graph)
        self.splits = self.evaluations = 0
        self.converged = True

    def run(self, x: Tensor, y: Tensor, proved: float, ceiling: float, goal: float | None = None) -> float:
        """A radius >= `proved` that is proved for x (*features) with label y ().

        Args:
            proved: a radius already proved.
            ceiling: no larger radius can be proved (an attack's distance); inf where none is known.
            goal: the one radius that matters; all time goes to it.
        """
        radius = self._grown(x, y, proved, ceiling, goal) if self.evaluator.hinges else proved
        self.converged &= radius * (1 + 2 * self.effort.tolerance) >= ceiling
        return radius

    def _grown(self, x: Tensor, y: Tensor, proved: float, ceiling: float, goal: float | None) -> float:
        self.x = x[None].to(self.dtype)
        self.spec = specification(y[None], self.graph.classes, self.dtype)[0]
        self.known: dict[int, Shared] = {}
        units = sum(self.evaluator.sizes)
        self.leaves = Leaves.first(len(self.spec), units, self.effort.tries, self.x)
        self.propagation.forget()
        self.at: At | None = None
        self.bounding, self.bounded = 0.0, 0
        self.cover = float(covering_radius(self.x, self.propagation.r, self.box))
        found = grow(self._try, proved, ceiling, self.effort.tolerance, self.effort.seconds, goal)
        self.evaluations += self.propagation.evaluations + self.evaluator.evaluations
        self.evaluator.evaluations = 0
        return found

    def _try(self, t: float, until: Until) -> Trial:
        if t >= self.cover:
            return Trial(proved=math.inf) if self._verify(self.cover, until) else Trial()
        proved = self._verify(t, until)
        again = self.bounding * len(self.leaves) / max(self.bounded, 1)
        spent = len(self.leaves) >= self.effort.leaves
        return Trial(proved=t if proved else 0.0, spent=spent, work=self.work, again=again)

    def _verify(self, t: float, until: Until) -> bool:
        """Whether every leaf is proved at radius t in time; splits leaves on the way, hardest class first."""
        if self.at is None or self.at.t != t or not self.propagation.settled:
            region = self.propagation.enter(Region.of(self.x, self.x.new_full((1,), t), self.propagation.r, self.box))
            root = self.propagation.bounds(region)
            self.at = At(
                t=t, region=region, root=root, relaxations=self.propagation.relaxations(root),
                signed=self.propagation.signed(root, self.evaluator.hinges),
            )  # fmt: skip
        self.work = 0.0
        if bool(self.at.root.lost.any()):
            return False
        self._begin()
        while len(rows := self._waiting()):
            target = int(self.leaves.target[rows[self.leaves.bound[rows].argmin()]])
            begun = time.perf_counter()
            closed = self._closed(target, until)
            self.work += time.perf_counter() - begun
            if not closed:
                return False
        return True

    def _waiting(self) -> Tensor:
        """Leaves that are not proved at the radius at hand."""
        assert self.at is not None
        return (self.leaves.reached < self.at.t).nonzero().squeeze(1)

    def _begin(self) -> None:
        """Bounds of the classes that have not been split, all together."""
        rows = self._waiting()
        rows = rows[(self.leaves.sides[rows] == 0).all(1)]
        if len(rows) == 0:
            return
        plain = self._evaluate(self.leaves.part(rows), _PLAIN, None)
        self._note(rows, plain)
        known = self.leaves.choices[rows]
        slopes = self.evaluator.flat(plain.ascent.choices, known)
        self.leaves.choices[rows] = torch.where(known.isnan(), slopes, known)

    def _common(self, target: int, rows: Tensor) -> Common | None:
        """What the leaves of a class share at the radius at hand: planes of what some of them send anything through."""
        at = self.at
        assert at is not None
        if at.signed is not None and target not in at.classes:
            seen = self._evaluate(self.leaves.part(rows[:_SOME]), 0, None).ascent.seen
            met = (at.signed.entries(seen) < 0).any(0)
            met &= met.cumsum(0) * at.signed.rows.width <= _WEIGHTS
            if bool(met.any()):
                planes = Shared(at.signed.part(met))
                if target in self.known:
                    planes.resume(self.known[target])
                at.classes[target] = Common(planes=planes)
        return at.classes.get(target)

    def _closed(self, target: int, until: Until) -> bool:
        """Whether all leaves of a class are proved at the radius at hand; gives up where time will not do."""
        progress, begun = Progress(until), self.splits
        due = begun + _RARE

        def waiting() -> Tensor:
            rows = self._waiting()
            return rows[self.leaves.target[rows] == target]

        rows = waiting()
        common = self._common(target, rows)
        rest = torch.ones_like(rows, dtype=torch.bool)
        if common is not None:
            rest = ~torch.isin(rows, self._raise(rows, common, _AGAIN if target in self.known else _FIRST))
            self.known[target] = common.planes
        for part in self._batches(rows[rest]):
            self._bound(part, self.leaves.part(part), self.effort.ascents, common)
            if time.perf_counter() > until.due:
                return False
        while len(rows := waiting()):
            if progress.hopeless(float(self.leaves.bound[rows].min())) or len(self.leaves) >= self.effort.leaves:
                return False
            if common is not None and self.splits >= due:
                self._raise(rows, common, _AGAIN)
                due = 2 * self.splits - begun + _RARE
                for part in self._batches(waiting()):
                    self._bound(part, self.leaves.part(part), 1, common)
                continue
            rows = rows[self.leaves.bound[rows].argsort()[: self.effort.batch]]
            parents = self.leaves.part(rows)
            spent = parents.candidates[:, 0] < 0
            if bool(spent.any()):  # nothing left to split: only better multipliers can help
                rows = rows[spent]
                self._bound(rows, parents.part(spent), _LAST, common)
                if bool((self.leaves.bound[rows] <= 0).any()):
                    return False
                continue
            children = self._split(parents, common)
            new = len(self.leaves) + torch.arange(len(rows), device=rows.device)
            self.leaves = self.leaves.joined(children.part(torch.arange(len(rows), 2 * len(rows))))
            self._bound(torch.cat((rows, new)), children, self.effort.ascents, common)
            self.splits += len(rows)
        return True

    def _batches(self, rows: Tensor) -> tuple[Tensor, ...]:
        return torch.split(rows, 2 * self.effort.batch) if len(rows) else ()

    def _raise(self, rows: Tensor, common: Common, steps: int) -> Tensor:
        """Raise the planes of a class over some of its leaves, the best and the worst among them: which."""
        order = rows[self.leaves.bound[rows].argsort()]
        some = order[torch.linspace(0, len(order) - 1, min(_SOME, len(order)), device=rows.device).long()]
        self._bound(some, self.leaves.part(some), steps, common, moves=True)
        return some

    def _split(self, parents: Leaves, common: Common | None) -> Leaves:
        """Both children of every leaf, at the best of its candidates; all first children, then all second ones."""
        n, tries = parents.candidates.shape
        chosen = parents.candidates[:, 0]
        if tries > 1:
            trial = [parents.child(parents.candidates[:, k].clamp_min(0), s) for k in range(tries) for s in (1, -1)]
            joined = trial[0].joined(*trial[1:])
            values = torch.cat(
                [
                    self._evaluate(joined.part(rows), 0, common).value
                    for rows in torch.split(torch.arange(len(joined), device=chosen.device), 4 * self.effort.batch)
                ]
            ).view(tries, 2, n)
            gain = values.amin(1) + 0.01 * values.amax(1).clamp_max(values.abs().amax())
            gain = gain.masked_fill(parents.candidates.T < 0, -torch.inf)
            chosen = parents.candidates.gather(1, gain.argmax(0)[:, None]).squeeze(1)
        return parents.child(chosen, 1).joined(parents.child(chosen, -1))

    def _bound(
        self, rows: Tensor, part: Leaves, ascents: int, common: Common | None, *, moves: bool = False
    ) -> None:  # fmt: skip
        """Bounds leaves anew and stores them, with slopes, multipliers and candidates to split, at some rows."""
        begun = time.perf_counter()
        at, found = self.at, self._evaluate(part, ascents, common, moves=moves)
        assert at is not None
        ascent, flat = found.ascent, self.evaluator.flat
        part.choices = flat(ascent.choices, part.held)
        part.held = flat(
            {k: ascent.held[n] for k, n in self.evaluator.arguments.items() if n in ascent.held}, part.held
        )
        planes = None if common is None else common.planes
        lost = losses(self.graph, at.region, ascent, found.relaxations, planes)
        score = flat({k: v[None] for k, v in lost.items()}, part.held).masked_fill(part.sides != 0, -1.0)
        best = score.topk(part.candidates.shape[1], dim=1)
        part.candidates = torch.where(best.values > 0, best.indices, -1)
        self.leaves.put(rows, part)
        self._note(rows, found)
        if moves:
            return
        if common is not None:
            self._clip(rows, part, found, common, lost)
        self.bounding += time.perf_counter() - begun
        self.bounded += len(rows)

    def _clip(self, rows: Tensor, part: Leaves, found: Found, common: Common, lost: dict[int, Tensor]) -> None:
        """Bounds leaves that are nearly closed again, over the intervals an input answered otherwise leaves to units."""
        at, offsets = self.at, common.planes.signed.offsets
        assert at is not None
        if 0 not in found.ascent.seen:
            return
        w = flat_rows(found.ascent.seen[0])[0]
        spread = offsets.support(w)
        base = found.last + spread
        near = ((found.value <= 0) & (base > _NEAR * spread)).nonzero().squeeze(1)
        if len(near) == 0:
            return
        clip = common.clip
        if clip is None:
            costs = {k: flat_rows(v[None])[0].clamp_min(0).sum(0) for k, v in lost.items()}
            clip = common.clip = Clip.of(at.root, self.evaluator.arguments, costs, CLIPPED, offsets)
            if clip is None:
                return
            for leaves in (self.leaves, part):
                leaves.widen(leaves.target == part.target[0], clip.low, clip.high)
        some = part.part(near)
        empty = some.narrow(*clip.ends(w[near], base[near]))
        again = self._evaluate(some, 1, common).value
        some.bound = torch.where(empty, torch.inf, torch.maximum(again, found.value[near]))
        some.reached[some.bound > 0] = at.t
        self.leaves.put(rows[near], some)

    def _note(self, rows: Tensor, found: Found) -> None:
        assert self.at is not None
        self.leaves.bound[rows] = found.value
        self.leaves.reached[rows[found.value > 0]] = self.at.t

    def _evaluate(self, part: Leaves, iterations: int, common: Common | None, *, moves: bool = False) -> Found:
        assert self.at is not None
        return self.evaluator.bounds(self.spec, part, self.at, iterations, common, moves=moves)
