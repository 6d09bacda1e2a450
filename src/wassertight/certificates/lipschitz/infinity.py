"""The slope at infinity, Lambda: how fast logit differences can grow far away on the whole space.

`Lambda = max over ||u||_r <= 1, labels y, classes j of [(f_0,j - f_0,y)(u)]_+`, f_0 the network without shifts. Any u is
a proof from below. From above a mixed-integer programme a pair of classes is solved over the unit ball; for r = 2 the
ball is cut out by half-spaces, and every mask met is settled by one more: if p is the projection of the mask's gradient
on its cone, then `<u, p / ||p||> <= 1` already keeps the objective below ||p|| everywhere in that cone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wassertight.certificates.lipschitz.far_programme import FarProgramme, specification
from wassertight.certificates.lipschitz.network import ReluNetwork
from wassertight.geometry import dual_direction, norm

ROUNDS = 40
_STARTS, _ENTRIES = 256, 2**23
"""Directions from which every pair is climbed; fewer where all pairs together have more entries."""
_FIRST = 0.2
"""Share of the time for that."""


@dataclass(frozen=True, kw_only=True)
class AtInfinity:
    """A slope at infinity, between bounds.

    Attributes:
        lower: attained by `direction`.
        upper: proved.
        pair: (y, j).
        direction: u, (inputs,), of norm 1; None where lower is 0.
        mask: of the cone u lies in, (units,) bool.
        slack: smallest `(2 D - I) A u` over the units that see the input: how far inside the cone u lies.
    """

    lower: float
    upper: float
    pair: tuple[int, int]
    direction: Tensor | None = field(repr=False)
    mask: Tensor | None = field(repr=False)
    slack: float
    nodes: int
    seconds: float


def ordered_pairs(labels: Sequence[int], classes: int) -> list[tuple[int, int]]:
    """All (y, j), y in labels and j another class."""
    return [(y, j) for y in sorted(set(labels)) for j in range(classes) if j != y]


def far_slope(
    network: ReluNetwork, labels: Sequence[int], r: float, *, seconds: float = 60.0, tolerance: float = 1e-6, seed: int = 0
) -> AtInfinity:  # fmt: skip
    """Lambda, exactly where the programmes end in time."""
    begun, net = time.perf_counter(), network.homogeneous
    pairs = ordered_pairs(labels, net.classes)
    u, value = _rise(net, pairs, r, seed, begun + _FIRST * seconds)
    uppers, nodes = [], 0
    best = int(value.argmax())
    for k in value.argsort(descending=True).tolist():
        left = begun + seconds - time.perf_counter()
        programme = FarProgramme(net, pairs[k], r, u[k])
        upper, found, count = programme.solve(float(value.max()), tolerance, left)
        nodes += count
        if found is not None and found[1] > float(value[k]):
            u[k], value[k] = found
        best = int(value.argmax())
        uppers.append(upper)
    top = max(float(value[best]), 0.0)
    upper = max(top, *uppers)
    direction = u[best] if top > 0 else None
    mask, slack = cone_of(net, direction)
    return AtInfinity(
        lower=top, upper=max(upper, 0.0), pair=pairs[best], direction=direction, mask=mask, slack=slack, nodes=nodes,
        seconds=time.perf_counter() - begun,
    )  # fmt: skip


def starts(net: ReluNetwork, seed: int, searches: int) -> Tensor:
    """Random directions (n, inputs) that so many searches at once begin with: 256, or what memory allows."""
    n = max(8, min(_STARTS, _ENTRIES // (searches * net.inputs)))
    return torch.randn(n, net.inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _rise(net: ReluNetwork, pairs: list[tuple[int, int]], r: float, seed: int, end: float) -> tuple[Tensor, Tensor]:
    """The best direction found for every pair, (pairs, inputs), and its slope; stops at `end`, after a round at least."""
    spec, start = specification(net, pairs), starts(net, seed, len(pairs))
    u = start.repeat(len(pairs), 1)
    c = spec.repeat_interleave(len(start), 0)
    best, kept = torch.full((len(u),), -math.inf, dtype=torch.float64), u.clone()
    for step in range(ROUNDS):
        u = u / norm(u, r)[:, None].clamp_min(1e-300)
        value = (net.logits(u) * c).sum(1)
        better = value > best
        best, kept = torch.where(better, value, best), torch.where(better[:, None], u, kept)
        if time.perf_counter() > end:
            break
        g = net.gradients(net.arguments(kept) > 0, c)
        share = 1.0 if step % 2 == 0 else 0.5 ** (1 + step / 4)
        u = (1 - share) * kept + share * dual_direction(g, r)
    best, kept = best.view(len(pairs), -1), kept.view(len(pairs), len(start), -1)
    value, k = best.max(1)
    return kept[torch.arange(len(pairs)), k], value


def cone_of(net: ReluNetwork, u: Tensor | None) -> tuple[Tensor | None, float]:
    """The mask at a direction and the smallest distance of an argument that is not constant from its hinge."""
    if u is None:
        return None, 0.0
    a = net.arguments(u[None])[0]
    live = a != 0
    return a > 0, float(a[live].abs().min()) if bool(live.any()) else math.inf
