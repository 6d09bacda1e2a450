"""What a run keeps of its per-sample distances: means and medians, curves on a grid, and the width of the bracket."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates import Bracket
from wassertight.records import BracketSummary, Curve, DistanceSummary, Summary
from wassertight.threats import ThreatModel
from wassertight.transport import FlipDistances

_GRID = 65
_BEYOND = 1.6


@dataclass(kw_only=True)
class Known:
    """What is known about one ground norm."""

    points: Tensor | None = None
    attacked: FlipDistances | None = None
    certified: FlipDistances | None = None


def summarise_distances(known: Known, right: Tensor) -> DistanceSummary:
    """Mean and median distance of either side over the correctly classified samples."""
    closed = known.certified is not None and known.certified.closed
    return DistanceSummary(
        attacked=_summary(known.attacked, right), certified=_summary(known.certified, right), closed=closed
    )


def _summary(distances: FlipDistances | None, right: Tensor) -> Summary | None:
    if distances is None or not bool(right.any()):
        return None
    values = distances.values[right].cpu().sort().values
    low, high = float(values[(len(values) - 1) // 2]), float(values[len(values) // 2])
    return Summary(mean=float(values.mean()), median=low if low == high else (low + high) / 2)


def draw_curves(threats: Sequence[ThreatModel], norms: Mapping[float, Known]) -> list[Curve]:
    """Both sides on a grid of radii, for every norm and for the orders 1, 2, inf and those asked for."""
    curves = []
    for r, known in norms.items():
        top = _BEYOND * max(threat.radius for threat in threats if threat.r == r)
        if top == 0:
            found = known.attacked or known.certified
            finite = found.values[torch.isfinite(found.values)] if found is not None else torch.zeros(0)
            top = _BEYOND * float(finite.median()) if len(finite) and float(finite.median()) > 0 else 1.0
        radii = torch.linspace(0, top, _GRID, dtype=torch.float64)
        for p in _orders(threats, r):
            lines = {
                name: None if side is None else side.curve(p, radii).tolist()
                for name, side in (("attacked", known.attacked), ("certified", known.certified))
            }
            curves.append(
                Curve(p=p, r=r, radii=radii.tolist(), attacked=lines["attacked"], certified=lines["certified"])
            )
    return curves


def summarise_brackets(threats: Sequence[ThreatModel], norms: Mapping[float, Known]) -> list[BracketSummary]:
    """Width, closing radius and tightness of every norm and order; nothing where a side is missing or both clash."""
    found = []
    for r, known in norms.items():
        low, high = known.certified, known.attacked
        if low is None or high is None or bool((low.values > high.values).any()):
            continue
        bracket = Bracket(certified=low, attacked=high)
        tightness = bracket.tightness
        for p in _orders(threats, r):
            gap = bracket.gap(p)
            found.append(
                BracketSummary(
                    p=p,
                    r=r,
                    tightness=tightness,
                    widest=gap.largest,
                    widest_at=gap.at,
                    mean_width=gap.mean,
                    closes_at=gap.closes_at,
                    closed_to=gap.tolerance,
                    closed=list(gap.closed),
                )
            )
    return found


def _orders(threats: Sequence[ThreatModel], r: float) -> list[float]:
    return sorted({1.0, 2.0, math.inf} | {float(threat.order) for threat in threats if threat.r == r})
