"""Which units of a partial mask are decided by its bounds, and which one to split next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 384


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What is left of n nodes.

    Attributes:
        phase: with every unit fixed one side of which is bounded away, (n, units).
        fixed: whether there was one; dead: whether both sides of some unit were, (n,).
        unit: otherwise the unit to split, and halves (n, 2) the bounds of its two sides.
    """

    phase: Tensor
    fixed: Tensor
    dead: Tensor
    unit: Tensor
    halves: Tensor


def lowest(phase: Tensor, sizes: Sequence[int]) -> Tensor:
    """The undecided units (n, units) of the first layer that has any."""
    free = phase < 0
    layers = torch.split(free, list(sizes), 1)
    earlier = torch.stack([layer.any(1) for layer in layers], 1).int().cumsum(1) - 1
    return torch.cat([layer & (before[:, None] <= 0) for layer, before in zip(layers, earlier.T, strict=True)], 1)


def decide(
    bound: Callable[[Tensor, Tensor], Tensor], value: Tensor, phase: Tensor, ahead: Tensor, allowed: Tensor,
    threshold: float, tries: int,
) -> Decided:  # fmt: skip
    """Bounds the sides that estimates put below the threshold, and those of the `tries` units that matter most.

    Args:
        bound: of the masks (m, units) that are children of the nodes (m,).
        value, phase: bounds and partial masks of the nodes.
        ahead: estimated bounds of all children, (n, units, 2).
        allowed: undecided units that may be split, (n, units); at least one a node.
    """
    free = phase < 0
    drop = (value[:, None, None] - ahead).clamp_min(0).amax(2).masked_fill(~allowed, -1.0)
    units = drop.topk(min(tries, phase.shape[1]), dim=1).indices
    tried = torch.zeros_like(free).scatter(1, units, True) & allowed
    likely = (ahead <= threshold) & free[:, :, None] | tried[:, :, None]
    bounds = torch.full_like(ahead, math.inf)
    rows, unit, side = likely.nonzero(as_tuple=True)
    for k in torch.split(torch.arange(len(rows)), _CHUNK):
        trial = phase[rows[k]].scatter(1, unit[k][:, None], side[k][:, None].to(torch.int8))
        bounds[rows[k], unit[k], side[k]] = bound(rows[k], trial)
    bounds = torch.minimum(bounds, value[:, None, None])
    away = (bounds <= threshold) & likely
    best = (value[:, None] - bounds.amin(2) + 1e-12).masked_fill(~tried, -1.0).argmax(1)
    return Decided(
        phase=torch.where(away[..., 0], 1, torch.where(away[..., 1], 0, phase)).to(torch.int8),
        fixed=away.flatten(1).any(1),
        dead=away.all(2).any(1),
        unit=best,
        halves=bounds[torch.arange(len(value)), best],
    )
