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
from wassertight.certificates.propagation.hulls import Held, Offsets, Tilted
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.relaxations import Elementwise, Relaxation
from wassertight.certificates.propagation.slopes import Ascent, ascend

_FIRST, _LATER = (6, 12, 24), (4, 10)
"""Gradient steps for a class met for the first time, and for one whose planes are known."""
_HOPE = 2.0
"""A margin further below zero than so many times what steps have gained is left to splits."""
_PLAIN = 4
"""Gradient steps on slopes alone, which settle most classes."""
_WEIGHTS = 10**7
"""Weights of a class' planes at most."""


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
        target: the class last found open, or -1.
        held: its planes by hinge.
        choices: its slopes by hinge, (1, 1, *shape).
    """

    def __init__(self, graph: Graph, spec: Tensor) -> None:
        self.graph, self.spec, self.last = graph, spec, len(graph.nodes) - 1
        self.evaluations, self.target = 0, -1
        self.held: dict[int, Held] = {}
        self.choices: dict[int, Tensor] = {}
        self._known: dict[int, tuple[dict[int, Tilted], dict[int, Tensor]]] = {}

    def margins(
        self, targets: Tensor, region: Region, bounds: Bounds, relaxations: Mapping[int, Relaxation]
    ) -> Tensor:  # fmt: skip
        """Proved lower bounds (m,) of some classes' margins over the region; effort ends where they are positive.

        The hardest class comes first, and the first one that stays open is the last that planes are spent on.

        Args:
            targets: the classes.
            region, bounds, relaxations: of the sample.
        """
        self.target, self.held, self.choices = -1, {}, {}
        best = self.spec.new_full((len(targets),), -torch.inf)
        if bool(bounds.lost.any()):
            return best
        a = self.spec[targets][None]
        asked = _Asked(
            targets=targets, region=region, bounds=bounds, relaxations=relaxations, a=a,
            allowance=(a.abs() * bounds.error[self.last][:, None]).sum(2),
        )  # fmt: skip
        slopes = self._ascend(asked, slice(None), best, _PLAIN).choices
        for row in best.argsort().tolist():
            if not best[row] > 0:
                self._cover(asked, row, best, {k: v[:, row : row + 1] for k, v in slopes.items()})
            if not best[row] > 0:
                self.target = int(targets[row])
                break
        return best

    def covers(self, relaxations: Mapping[int, Relaxation]) -> dict[int, Held] | None:
        """The planes held, for rows (n, 1, ...) of that class; units that branches fixed in `relaxations` have none."""
        found = {}
        for index, held in self.held.items():
            relaxation = relaxations[index]
            assert isinstance(relaxation, Elementwise)
            assert relaxation.free is not None
            found[index] = held.where(relaxation.free)
        return found or None

    def _ascend(
        self,
        asked: _Asked,
        rows: slice,
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
        self.evaluations += len(best[rows]) * (steps + 1)
        best[rows] = torch.maximum(best[rows], (ascent.best - asked.allowance[:, rows])[0])
        return ascent

    def _cover(self, asked: _Asked, row: int, best: Tensor, choices: dict[int, Tensor]) -> None:
        """Raise the bound of one row by planes."""
        target, begun = int(asked.targets[row]), float(best[row])
        covers, known = self._covers(asked, target), target in self._known
        self.choices, self.held = choices, {}
        if not covers:
            return
        if known:
            self.choices = self._known[target][1]
        arrived: dict[int, Tensor] = {}
        for steps in _LATER if known else _FIRST:
            ascent = self._ascend(asked, slice(row, row + 1), best, steps, self.choices, covers)
            self.choices, arrived = ascent.choices, ascent.seen
            if best[row] > 0 or (not known and best[row] < -_HOPE * (best[row] - begun)):
                break
        self._known[target] = covers, self.choices
        self.held = {k: cover.held(arrived[k]) for k, cover in covers.items()}

    def _covers(self, asked: _Asked, target: int) -> dict[int, Tilted]:
        """Covers of all hinges with planes, starting from those of the last region."""
        found: dict[int, Tilted] = {}
        offsets, room, known = Offsets(asked.region), _WEIGHTS, self._known.get(target, ({}, {}))[0]
        for index, relaxation in asked.relaxations.items():
            planes = asked.bounds.planes.get(self.graph.nodes[index].parents[0])
            if planes is None or not isinstance(relaxation, Elementwise) or relaxation.free is None:
                continue
            tilted = Tilted(planes, relaxation.hinge, offsets, 1)
            room -= tilted.tilt.numel()
            if room < 0:
                break
            found[index] = tilted
            if index in known:
                tilted.resume(known[index])
        return found
