"""The exact Lipschitz constant over activation cells, by best-first branch and bound on masks.

`L = max over cells meeting the domain, labels y, classes j != y of ||J_D' (e_j - e_y)||_s`: masks are fixed unit by
unit, a partial mask is bounded by the relaxation of `relaxation`, dropped where that bound is no better than a gradient
already found at a real point, or where a linear programme shows that no cell agrees with it. Stopped at any time, the
largest open bound is proved and the best gradient found is attained.

Which unit is split: the one that lowers the bound most. Where inputs are so few that cells are far fewer than masks,
only of the first layer that is not decided: what is left of the domain is then a polytope, the linear programme of the
next unit is exact, and no more partial masks are met than the arrangement of hinges has cells.

No general position is assumed: a cell counts if its interior meets the domain's.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wassertight.certificates.lipschitz.climbing import Found, ascend, climb, dual_norm, sample
from wassertight.certificates.lipschitz.entries import entry_bounds
from wassertight.certificates.lipschitz.far_programme import specification
from wassertight.certificates.lipschitz.network import ReluNetwork
from wassertight.certificates.lipschitz.outcome import CellSearch, Effort
from wassertight.certificates.lipschitz.programmes import EMPTY, INTERIOR, Cells, Domain, argument_bounds
from wassertight.certificates.lipschitz.relaxation import SLACK, Nodes, Relaxation
from wassertight.certificates.lipschitz.splitting import decide, lowest
from wassertight.geometry import conjugate
from wassertight.types import InputError

_EVERY, _TOP = 4, 40
"""Random masks from which every pair is climbed, and then the two best ones again."""
_POINTS, _PRODUCTS = 2**14, 2**27
"""Most random points at which gradients are sought, and most products spent on them (but for 512 points)."""


@dataclass(order=True)
class _Node:
    """An open node; heaps put the largest bound first."""

    key: float
    count: int
    root: int = field(compare=False)
    phase: Tensor = field(compare=False)
    theta: Tensor = field(compare=False)
    fresh: bool = field(compare=False, default=False)


def largest_gradient(
    network: ReluNetwork, labels: Sequence[int], r: float, domain: Domain, *, effort: Effort | None = None,
    points: Tensor | None = None, seed: int = 0,
) -> CellSearch:  # fmt: skip
    """Lipschitz constant under the l_r norm of all `f_j - f_y`, y in labels; also of their cross-entropy and margin loss.

    Args:
        labels: classes y that count; j runs over all others.
        domain: where cells count.
        points: inputs (n, inputs) of the domain from which gradients are sought besides random ones.

    Raises:
        InputError: for a norm that is not 1, 2 or inf, or no label or a single class.
    """
    if r not in (1, 2) and not math.isinf(r):
        raise InputError(f"exact Lipschitz constants are offered for the norms 1, 2 and inf, got r = {r}")
    pairs = sorted({(min(y, j), max(y, j)) for y in set(labels) for j in range(network.classes) if j != y})
    if not pairs:
        raise InputError(f"at least one label and two classes are needed, got labels {list(labels)}")
    if not network.units:
        return _linear(network, pairs, set(labels), conjugate(r), domain)
    return _Search(network, pairs, set(labels), conjugate(r), domain, effort or Effort(), seed).run(points)


def _linear(
    network: ReluNetwork, pairs: list[tuple[int, int]], labels: set[int], s: float, domain: Domain
) -> CellSearch:
    """One cell, one gradient a pair."""
    norms = dual_norm(specification(network, pairs) @ network.weights[0], s)
    y, j = pairs[int(norms.argmax())]
    return CellSearch(
        lower=float(norms.max()), upper=float(norms.max()) * (1 + SLACK), converged=True,
        pair=(y, j) if y in labels else (j, y), mask=torch.zeros(0, dtype=torch.bool),
        point=domain.points(1, torch.Generator().manual_seed(0))[0], cells=1, nodes=0, programmes=0, units=0, seconds=0.0,
    )  # fmt: skip


class _Search:
    """One run; `pairs` are unordered, since both orders have the same norm."""

    def __init__(
        self, network: ReluNetwork, pairs: list[tuple[int, int]], labels: set[int], s: float, domain: Domain,
        effort: Effort, seed: int,
    ) -> None:  # fmt: skip
        self.network, self.pairs, self.labels, self.s = network, pairs, labels, s
        self.domain, self.effort = domain, effort
        self.end = time.perf_counter() + effort.seconds
        self.begun = time.perf_counter()
        self.generator = torch.Generator().manual_seed(seed)
        self.spec = specification(network, pairs)
        low, high = argument_bounds(network, domain)
        self.cells = Cells(network, domain, low, high)
        same = torch.cat(network.left) == torch.cat(network.right)
        self.first = torch.where(low >= 0, 1, torch.where((high <= 0) | same, 0, -1)).to(torch.int8)
        self.narrow = network.regions**2 <= 2**network.units
        self.later = effort.later // 3 if self.narrow else effort.later
        self.early = network.units if self.narrow else int((self.first < 0).sum()) // 2
        self.met = torch.zeros(0, network.units, dtype=torch.bool)
        self.relaxation = Relaxation(network, s)
        self.best = Found(value=0.0, pair=0, on=None, z=None)
        self.visited = self.bounded = self.solved = 0
        self.left_open = 0.0
        self.counter = itertools.count()
        self.heap: list[_Node] = []

    def run(self, points: Tensor | None) -> CellSearch:
        self._seek(points)
        self._roots()
        while self.heap and time.perf_counter() < self.end:
            self._step()
        upper = max([self.threshold, self.left_open, *([-self.heap[0].key] if self.heap else [])])
        y, j = self.pairs[self.best.pair]
        return CellSearch(
            lower=self.best.value, upper=upper * (1 + SLACK),
            converged=upper <= self.threshold,
            pair=(y, j) if y in self.labels else (j, y), mask=self.best.on, point=self.best.z,
            cells=self.visited, nodes=self.bounded, programmes=self.solved,
            units=int((self.first < 0).sum()), seconds=time.perf_counter() - self.begun,
        )  # fmt: skip

    @property
    def threshold(self) -> float:
        """Bounds up to here need no search."""
        return self.best.value * (1 + self.effort.tolerance)

    def _seek(self, points: Tensor | None) -> None:
        """The first gradients: at random and given points, then uphill from the best of them."""
        cost = len(self.spec) * sum(w.numel() for w in self.network.weights)
        random = self.domain.points(max(512, min(_POINTS, _PRODUCTS // cost)), self.generator)
        self._take(self._sample(random if points is None else torch.cat((points.double(), random))))
        end = self.begun + 0.2 * self.effort.seconds
        every = torch.arange(len(self.spec)).repeat(_EVERY)
        masks = ascend(self.network, self.spec, self.s, every, self.generator, end)
        top = torch.tensor(list(dict.fromkeys(mask.pair for mask in masks))[:2]).repeat(_TOP)
        masks += ascend(self.network, self.spec, self.s, top, self.generator, end)
        for mask in sorted(masks, key=lambda mask: -mask.value)[: self.effort.climbs]:
            if mask.on is None or mask.value <= self.threshold or time.perf_counter() > end:
                break
            _, z = self.cells.meets(mask.on.to(torch.int8).numpy())
            self.solved += 1
            self.visited += 1
            start = self._sample(z[None])
            self._climb(start if start.value > self.best.value else self.best)

    def _sample(self, z: Tensor) -> Found:
        """The largest gradient at points; their masks are kept as witnesses of cells."""
        found, on = sample(self.network, self.spec, self.s, z)
        self.met = torch.cat((self.met, on))
        return found

    def _climb(self, start: Found) -> None:
        """Uphill from a point's mask."""
        self._take(start)
        found, solved = climb(self.network, self.cells, self.spec, self.s, start, self.end)
        self.solved += solved
        self.visited += solved
        self._take(found)

    def _take(self, found: Found) -> bool:
        if found.value > self.best.value:
            self.best = found
            return True
        return False

    def _roots(self) -> None:
        """A root a pair; for the largest entry, a root a pair and input whose cheap bound is not below what was found."""
        c = self.spec @ self.network.weights[-1]
        if math.isinf(self.s):
            ends = entry_bounds(self.network, c, self.first)
            which, entry = (ends > self.threshold).nonzero(as_tuple=True)
            cap = ends[which, entry]
        else:
            which, entry, cap = torch.arange(len(c)), None, torch.full((len(c),), math.inf, dtype=torch.float64)
        w = self.network.weights[0]
        self.rows = w if entry is None else w.T[entry][:, :, None]
        self.c = c[which]
        self.pair_of = which
        for part in torch.split(torch.arange(len(which)), 4 * self.effort.batch):
            nodes = self._nodes(part, self.first.expand(len(part), -1), torch.zeros(len(part), 0))
            theta = self.relaxation.start(
                nodes, torch.full((len(part),), max(self.best.value, 1e-9), dtype=torch.float64)
            )
            value = torch.minimum(self.relaxation.bound(self._nodes(part, nodes.phase, theta)), cap[part])
            for k, row in enumerate(part.tolist()):
                self._push(float(value[k]), row, self.first, theta[k], fresh=True)

    def _nodes(self, roots: Tensor, phase: Tensor, theta: Tensor) -> Nodes:
        rows = self.rows if self.rows.ndim == 2 else self.rows[roots]
        return Nodes(c=self.c[roots], rows=rows, phase=phase, theta=theta)

    def _push(self, value: float, root: int, phase: Tensor, theta: Tensor, fresh: bool = False) -> None:
        if value > self.threshold and bool((phase >= 0).all()):
            g = self.network.gradients(phase == 1, self.spec[self.pair_of[root]])
            value = min(value, float(dual_norm(g, self.s)))
        if value > self.threshold:
            heapq.heappush(self.heap, _Node(-value, next(self.counter), root, phase, theta, fresh))

    def _step(self) -> None:
        """Bounds and splits the most promising nodes."""
        batch: list[_Node] = []
        while self.heap and len(batch) < self.effort.batch:
            if -self.heap[0].key <= self.threshold:
                self.heap.clear()
                break
            if batch and self.heap[0].fresh != batch[0].fresh:
                break
            batch.append(heapq.heappop(self.heap))
        alive = [node for node in batch if self._possible(node)]
        if not alive:
            return
        roots = torch.tensor([node.root for node in alive])
        phase, theta = torch.stack([n.phase for n in alive]), torch.stack([n.theta for n in alive])
        steps = self.effort.first if alive[0].fresh else self.later
        nodes = self._nodes(roots, phase, theta)
        value, theta, ahead = self.relaxation.tighten(nodes, steps, self.threshold, self.end)
        value = torch.minimum(value, torch.tensor([-n.key for n in alive], dtype=torch.float64))
        self.bounded += len(alive)
        keep = (value > self.threshold).nonzero().squeeze(1)
        if len(keep):
            alive = [alive[k] for k in keep.tolist()]
            self._split(alive, value[keep], roots[keep], phase[keep], theta[keep], ahead[keep])

    def _split(
        self, nodes: list[_Node], value: Tensor, roots: Tensor, phase: Tensor, theta: Tensor, ahead: Tensor
    ) -> None:
        """Pushes what is left of every node: itself where units could be fixed, else its two halves."""

        def bound(rows: Tensor, phases: Tensor) -> Tensor:
            return self.relaxation.bound(self._nodes(roots[rows], phases, theta[rows]))

        allowed = lowest(phase, self.network.sizes) if self.narrow else phase < 0
        decided = decide(bound, value, phase, ahead, allowed, self.threshold, self.effort.tries)
        for k, node in enumerate(nodes):
            if bool(decided.dead[k]):
                continue
            if bool(decided.fixed[k]):
                self._push(float(value[k]), node.root, decided.phase[k], theta[k])
                continue
            unit = int(decided.unit[k])
            for side in (0, 1):
                child = phase[k].clone()
                child[unit] = side
                self._push(float(decided.halves[k, side]), node.root, child, theta[k])

    def _possible(self, node: _Node) -> bool:
        """Whether a cell may agree with a node; full masks are settled here, and points found on the way tried."""
        full = bool((node.phase >= 0).all())
        if full:
            self.visited += 1
            on = node.phase == 1
            norms = dual_norm(self.network.gradients(on, self.spec), self.s)
            if float(norms.max()) <= self.best.value:
                return False
        elif int((node.phase < 0).sum()) > self.early or self._known(node.phase):
            return True
        if self.cells.clashes(node.phase.numpy()):
            return False
        radius, z = self.cells.meets(node.phase.numpy())
        self.solved += 1
        if radius < EMPTY or (full and radius <= INTERIOR):
            return False
        real = self.domain.contains(z[None]).item()
        if real:
            self._try(z)
        if not full:
            return True
        if not (real and self._agrees(node.phase, z)):
            self.left_open = max(self.left_open, float(norms.max()))
        return False

    def _try(self, z: Tensor) -> None:
        """The gradients at a point, and uphill from there if they are the largest so far."""
        start = self._sample(z[None])
        if self._take(start):
            self._climb(start)

    def _known(self, phase: Tensor) -> bool:
        """Whether a cell that was met agrees."""
        return bool(((phase < 0) | (self.met == (phase == 1))).all(1).any())

    def _agrees(self, phase: Tensor, z: Tensor) -> bool:
        a = self.network.arguments(z[None])[0]
        return bool(((phase < 0) | ((phase == 1) & (a >= 0)) | ((phase == 0) & (a <= 0))).all())
