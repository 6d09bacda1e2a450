"""Leaves of a tree over the signs of hinge arguments, and their bounds, many at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wassertight.certificates.propagation.bounds import Bounds
from wassertight.certificates.propagation.clipping import Clip
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.hulls import Signed
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.relaxations import Elementwise, Relaxation, steerable
from wassertight.certificates.propagation.sharing import Shared
from wassertight.certificates.propagation.slopes import Ascent, ascend

CLIPPED = 128
"""Units with intervals of their own in a leaf."""


@dataclass(kw_only=True)
class Leaves:
    """One entry a leaf; units are numbered over all hinges together.

    Attributes:
        target: row of the specification, (m,).
        sides: signs of arguments, 0 where undecided, int8 (m, units).
        choices, held: slopes and multipliers to begin with, (m, units).
        bound: (m,).
        reached: largest radius the leaf is proved at, (m,).
        candidates: units to split, the best first, -1 for none, (m, tries).
        low, high: intervals of the units that are clipped (`clipping`), (m, CLIPPED), of as many as there are.
    """

    target: Tensor
    sides: Tensor
    choices: Tensor
    held: Tensor
    bound: Tensor
    reached: Tensor
    candidates: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def first(cls, rows: int, units: int, tries: int, like: Tensor) -> Leaves:
        """The leaves without splits, one a row of the specification."""
        return cls(
            target=torch.arange(rows, device=like.device),
            sides=torch.zeros(rows, units, dtype=torch.int8, device=like.device),
            choices=torch.full((rows, units), torch.nan, dtype=like.dtype, device=like.device),
            held=torch.zeros(rows, units, dtype=like.dtype, device=like.device),
            bound=torch.full((rows,), -torch.inf, dtype=like.dtype, device=like.device),
            reached=torch.zeros(rows, dtype=torch.float64, device=like.device),
            candidates=torch.zeros(rows, max(1, min(tries, units)), dtype=torch.long, device=like.device),
            low=torch.full((rows, CLIPPED), -torch.inf, dtype=like.dtype, device=like.device),
            high=torch.full((rows, CLIPPED), torch.inf, dtype=like.dtype, device=like.device),
        )

    def part(self, rows: Tensor) -> Leaves:
        """Copies of some of them."""
        return Leaves(**{name: value[rows] for name, value in vars(self).items()})

    def joined(self, *others: Leaves) -> Leaves:
        """These and then others."""
        return Leaves(
            **{name: torch.cat((value, *(vars(part)[name] for part in others))) for name, value in vars(self).items()}
        )

    def put(self, rows: Tensor, part: Leaves) -> None:
        """Replace some of them."""
        for name, value in vars(part).items():
            vars(self)[name][rows] = value

    def child(self, unit: Tensor, side: int) -> Leaves:
        """A child of every leaf, one more unit (m,) of it fixed."""
        found = self.part(torch.arange(len(self), device=unit.device))
        found.sides = found.sides.scatter(1, unit[:, None], side)
        return found

    def widen(self, which: Tensor, low: Tensor, high: Tensor) -> None:
        """Begin with intervals (K,) of clipped units for leaves where `which` (m,)."""
        self.low[which, : len(low)], self.high[which, : len(high)] = low, high

    def narrow(self, low: Tensor, high: Tensor) -> Tensor:
        """Meet the intervals of clipped units with others (m, K); leaves (m,) of which one is empty then keep theirs."""
        k = low.shape[1]
        low, high = torch.maximum(self.low[:, :k], low), torch.minimum(self.high[:, :k], high)
        empty = (low > high).any(1)
        self.low[~empty, :k], self.high[~empty, :k] = low[~empty], high[~empty]
        return empty

    def __len__(self) -> int:
        return len(self.target)


@dataclass(kw_only=True)
class Common:
    """What the leaves of a class share at a radius."""

    planes: Shared
    clip: Clip | None = None


@dataclass(frozen=True, kw_only=True)
class At:
    """The radius that was tried last, and what is known there of the whole region."""

    t: float
    region: Region
    root: Bounds
    relaxations: dict[int, Relaxation]
    signed: Signed | None
    classes: dict[int, Common] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Bounds (m,) of some leaves, the best and those of the last evaluation, and what gave them."""

    value: Tensor
    last: Tensor
    ascent: Ascent
    relaxations: dict[int, Relaxation]


class Evaluator:
    """Bounds of leaves of one sample.

    Args:
        graph: the network.

    Attributes:
        hinges: its hinges, in whose order units are numbered.
        arguments: the node each of them is taken of.
        sizes: how many units each of them has.
        evaluations: rows pulled through the network so far.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.last, self.evaluations = graph, len(graph.nodes) - 1, 0
        self.hinges = [k for k, node in enumerate(graph.nodes) if steerable(node.operation)]
        self.arguments = {k: graph.nodes[k].parents[0] for k in self.hinges}
        self.sizes = [math.prod(graph.nodes[k].shape) for k in self.hinges]

    def bounds(
        self, spec: Tensor, part: Leaves, at: At, iterations: int, common: Common | None, *, moves: bool = False
    ) -> Found:  # fmt: skip
        """Bounds of leaves after some steps of ascent; if `moves`, the ascent raises the planes too.

        Args:
            spec: margins (rows, classes).
            part: the leaves.
            at: the region.
            iterations: gradient steps.
            common: of the leaves' class, or None.
        """
        m = len(part)
        self.evaluations += m * (iterations + 1)
        sides, held, choices = dict[int, Tensor](), dict[int, Tensor](), dict[int, Tensor]()
        relaxations, free = dict(at.relaxations), dict[int, Tensor]()
        if common is not None and common.clip is not None:
            lows, highs = common.clip.split(part.low), common.clip.split(part.high)
            for hinge, units in common.clip.hinges.items():
                relaxation, operation = relaxations[hinge], self.graph.nodes[hinge].operation
                assert isinstance(relaxation, Elementwise)
                assert steerable(operation)
                relaxations[hinge] = relaxation.narrowed(operation, units, lows[hinge], highs[hinge])
        split = [torch.split(v, self.sizes, 1) for v in (part.sides, part.held, part.choices)]
        for hinge, side, price, slopes in zip(self.hinges, *split, strict=True):
            shape, argument = (1, m, *self.graph.nodes[hinge].shape), self.arguments[hinge]
            relaxation = relaxations[hinge]
            assert isinstance(relaxation, Elementwise)
            assert relaxation.free is not None
            if bool((side != 0).any()):
                sides[argument], held[argument] = side.view(shape), price.view(shape)
                relaxations[hinge] = relaxation.fixed(sides[argument])
            choices[hinge] = slopes.view(shape)
            free[hinge] = (relaxation.free & (side == 0).view(shape)).expand(shape)
        cover = None if common is None else common.planes.rows(free, moves)
        a = spec[part.target][None]
        allowance = (a.abs() * at.root.error[self.last][:, None]).sum(2)
        ascent = ascend(
            self.graph, self.last, a, at.region, relaxations, iterations=iterations, held=held, sides=sides,
            choices=choices, cover=cover, offset=-allowance,
        )  # fmt: skip
        value = (ascent.best - allowance)[0]
        value = torch.where(value.isnan(), -torch.inf, value)
        last = (ascent.last - allowance)[0]
        return Found(value=value, last=last, ascent=ascent, relaxations=relaxations)

    def flat(self, maps: dict[int, Tensor], like: Tensor) -> Tensor:
        """Maps (1, m, *shape) by hinge as (m, units); 0 for hinges that have none."""
        parts = [
            like.new_zeros(len(like), size) if k not in maps else maps[k][0].reshape(len(like), size)
            for k, size in zip(self.hinges, self.sizes, strict=True)
        ]
        return torch.cat(parts, 1)
