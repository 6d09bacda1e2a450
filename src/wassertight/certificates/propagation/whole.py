"""Margins over a whole region, every hinge with chord and planes: what branch and bound begins with at every radius.

Slopes, weights of planes and shares of one radius are where the next one starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.propagation.bounds import Bounds
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.hulls import Choice, Held, Offsets, Tilted
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.relaxations import Elementwise, Relaxation
from wassertight.certificates.propagation.slopes import Ascent, ascend

_FIRST, _LATER = (6, 12, 24), (4, 10)
"""Gradient steps for classes met for the first time, and for those whose planes are known; what is proved drops out."""
_HOPE = 2.0
"""A margin further below zero than so many times what steps have gained is given up."""
_PLAIN = 4
"""Gradient steps on slopes alone, which settle most classes."""
_WEIGHTS = 3 * 10**7
"""Weights of planes at most, of all classes together."""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Classes, where their margins are asked for, their rows at the logits, and what rounding may take off them."""

    targets: Tensor
    region: Region
    bounds: Bounds
    relaxations: Mapping[int, Relaxation]
    a: Tensor
    allowance: Tensor


class Whole:
    """Bounds of one sample's margins over a sequence of regions.

    Args:
        graph: the network.
        spec: margins (classes - 1, classes).

    Attributes:
        held: planes by hinge, of the classes last asked for that stayed open.
        kind: number of every class among them, or -1.
        choices: their slopes by hinge, (1, classes open, *shape).
    """

    def __init__(self, graph: Graph, spec: Tensor) -> None:
        self.graph, self.spec, self.last = graph, spec, len(graph.nodes) - 1
        self.evaluations = 0
        self.held: dict[int, Held] = {}
        self.kind = torch.full((len(spec),), -1, device=spec.device)
        self.choices: dict[int, Tensor] = {}
        self._tilted: dict[int, Tilted] = {}

    def margins(
        self,
        targets: Tensor,
        region: Region,
        bounds: Bounds,
        relaxations: Mapping[int, Relaxation],
        *,
        every: bool = True,
    ) -> Tensor:
        """Proved lower bounds (m,) of some classes' margins over the region; effort ends where they are positive.

        Args:
            targets: the classes.
            region, bounds, relaxations: of the sample.
            every: whether all classes are bounded as well as can be, or only until one is found whose margin stays
                negative.
        """
        self.held = {}
        if len(targets) == 0 or bool(bounds.lost.any()):
            return self.spec.new_full((len(targets),), -torch.inf)
        a = self.spec[targets][None]
        asked = _Asked(
            targets=targets, region=region, bounds=bounds, relaxations=relaxations, a=a,
            allowance=(a.abs() * bounds.error[self.last][:, None]).sum(2),
        )  # fmt: skip
        best = self.spec.new_full((len(targets),), -torch.inf)
        slopes = self._ascend(asked, torch.arange(len(targets), device=best.device), best, _PLAIN).choices
        left = best.argsort()[: int((best <= 0).sum())]
        for rows in (left,) if every else (left[:1], left[1:]):
            self._cover(asked, rows, best, {k: v[:, rows] for k, v in slopes.items()})
            if bool((best[rows] <= 0).any()):
                break
        return best

    def covers(self, targets: Tensor, relaxations: Mapping[int, Relaxation]) -> dict[int, Choice] | None:
        """The planes held, for rows (n, 1, ...) of a class each; units that branches fixed in `relaxations` have none."""
        found = {}
        for index, held in self.held.items():
            relaxation = relaxations[index]
            assert isinstance(relaxation, Elementwise)
            assert relaxation.free is not None
            found[index] = held.of(self.kind[targets], relaxation.free)
        return found or None

    def _ascend(
        self,
        asked: _Asked,
        rows: Tensor,
        best: Tensor,
        steps: int,
        choices: Mapping[int, Tensor] | None = None,
        covers: Mapping[int, Tilted] | None = None,
    ) -> Ascent:
        """Raise the bounds `best` of some rows in place."""
        ascent = ascend(
            self.graph, self.last, asked.a[:, rows], asked.region, asked.relaxations, iterations=steps,
            choices=choices, covers=covers, offset=-asked.allowance[:, rows],
        )  # fmt: skip
        self.evaluations += len(rows) * (steps + 1)
        best[rows] = torch.maximum(best[rows], (ascent.best - asked.allowance[:, rows])[0])
        return ascent

    def _cover(self, asked: _Asked, rows: Tensor, best: Tensor, choices: dict[int, Tensor]) -> None:
        """Raise the bounds of some rows by planes; rows drop out when they are positive."""
        covers = self._covers(asked, rows) if len(rows) else {}
        if not covers:
            return
        numbers, begun = self.kind[asked.targets[rows]], best[rows].min()
        known = bool((numbers >= 0).all())
        if known:
            choices = {k: self.choices[k][:, numbers] for k in choices}
        arrived: dict[int, Tensor] = {}
        for steps in _LATER if known else _FIRST:
            ascent = self._ascend(asked, rows, best, steps, choices, covers)
            left = (best[rows] <= 0).nonzero().squeeze(1)
            choices = {k: v[:, left] for k, v in ascent.choices.items()}
            arrived = {k: ascent.seen[k][:, left] for k in covers}
            rows = rows[left]
            for cover in covers.values():
                cover.keep(left)
            if len(rows) == 0 or (not known and best[rows].min() < -_HOPE * (best[rows].min() - begun)):
                break
        self.kind.fill_(-1)
        self.kind[asked.targets[rows]] = torch.arange(len(rows), device=rows.device)
        self._tilted, self.choices = covers, choices
        self.held = {k: cover.held(arrived[k]) for k, cover in covers.items()} if len(rows) else {}

    def _covers(self, asked: _Asked, rows: Tensor) -> dict[int, Tilted]:
        """Covers of all hinges with planes, starting from those of the last region."""
        found: dict[int, Tilted] = {}
        targets, offsets, room = asked.targets[rows], Offsets(asked.region), _WEIGHTS
        for index, relaxation in asked.relaxations.items():
            planes = asked.bounds.planes.get(self.graph.nodes[index].parents[0])
            if planes is None or not isinstance(relaxation, Elementwise) or relaxation.free is None:
                continue
            tilted = Tilted(planes, relaxation.hinge, offsets, len(targets))
            room -= tilted.tilt.numel()
            if room < 0:
                break
            found[index] = tilted
            if index in self._tilted:
                tilted.resume(self._tilted[index], self.kind[targets])
        return found
