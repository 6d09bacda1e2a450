"""The worst case of any loss over a W_p ball from sampled growth functions: concave majorants and one budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wassertight.types import InputError


@dataclass(frozen=True, kw_only=True)
class SegmentAllocation:
    """Solution of the pooled concave problem.

    Attributes:
        value: worst-case expected loss, sum w_i H_i(tau_i).
        lower: index into the grid of the lower touching point of each sample, (n,).
        upper: the same for the upper touching point; differs from `lower` for at most one sample.
        share: mass fraction at the upper touching point, (n,) float64.
        multiplier: slope at the cut, the dual variable.
        spent: budget used, sum w_i tau_i, at most the budget.
    """

    value: float
    lower: Int[Tensor, " n"]
    upper: Int[Tensor, " n"]
    share: Float[Tensor, " n"]
    multiplier: float
    spent: float


def allocate_segments(
    costs: Float[Tensor, "n m"], gains: Float[Tensor, "n m"], budget: float, weights: Tensor | None = None
) -> SegmentAllocation:
    """Maximise `sum w_i H_i(tau_i)` subject to `sum w_i tau_i <= budget`, H_i the concave majorant of sampled points.

    Point k of sample i offers the loss `gains[i, k]` at the transport cost `costs[i, k]` (a distance to the power p).
    The majorant's segments of all samples are pooled, sorted by slope, and bought until the budget is used; at most
    one is cut, so n + 1 atoms realise the value. The 0-1 loss is the case of two points. worst_case.md 2 and 8.

    Args:
        costs: shape (n, m), first column 0, every row non-decreasing; an infinite cost switches a point off.
        gains: shape (n, m), finite.
        budget: radius ** p, >= 0.
        weights: sample masses, or None for 1/n.

    >>> two = allocate_segments(torch.tensor([[0.0, 1.0], [0.0, 4.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]), 1.0)
    >>> two.value, two.multiplier
    (0.625, 0.25)
    """
    c, h = costs.to(torch.float64), gains.to(torch.float64)
    if c.shape != h.shape or c.ndim != 2 or c.numel() == 0:
        raise InputError(f"costs and gains must share a shape (n, m), got {tuple(c.shape)} and {tuple(h.shape)}")
    if (c[:, 0] != 0).any() or torch.isnan(c).any() or (c[:, 1:] < c[:, :-1]).any() or not torch.isfinite(h).all():
        raise InputError("costs must start at 0 and not decrease along each row, and gains must be finite")
    if math.isnan(budget) or budget < 0:
        raise InputError(f"the budget must be a number >= 0, got {budget}")
    n = len(c)
    w = (
        torch.full((n,), 1 / n, dtype=torch.float64, device=c.device)
        if weights is None
        else weights.to(c) / weights.sum()
    )
    start, begins, ends, slopes, owners = _hull(c, h)
    order = slopes.argsort(descending=True, stable=True)
    length = (c[owners, ends] - c[owners, begins])[order]
    price = w[owners[order]] * length
    paid = price.cumsum(0)
    whole = int(torch.searchsorted(paid, paid.new_tensor(budget), right=True)) if len(paid) else 0
    lower = start.clone()
    lower.scatter_reduce_(0, owners[order[:whole]], ends[order[:whole]], "amax", include_self=True)
    upper, share = lower.clone(), torch.zeros(n, dtype=torch.float64, device=c.device)
    spent, multiplier = (float(paid[whole - 1]) if whole else 0.0), 0.0
    if whole < len(paid):
        cut = order[whole]
        multiplier = float(slopes[cut])
        part = (budget - spent) / float(price[whole])
        if part > 0:
            lower[owners[cut]], upper[owners[cut]], share[owners[cut]] = begins[cut], ends[cut], part
            spent = budget
    row = torch.arange(n, device=c.device)
    value = float((w * ((1 - share) * h[row, lower] + share * h[row, upper])).sum())
    return SegmentAllocation(value=value, lower=lower, upper=upper, share=share, multiplier=multiplier, spent=spent)


def _hull(c: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Upper concave hulls of all rows at once: from each touching point, jump to the point of steepest slope.

    Returns the free best point of every row and the segments (begin, end, slope, row) of positive slope.
    """
    n, m = c.shape
    row = torch.arange(n, device=c.device)
    at_zero = torch.where(c == 0, h, -math.inf)
    position = at_zero.argmax(1)
    start = position.clone()
    begins, ends, slopes, owners = [], [], [], []
    for _ in range(m - 1):
        rise = h - h[row, position][:, None]
        run = c - c[row, position][:, None]
        slope = torch.where((run > 0) & torch.isfinite(run), rise / run.clamp_min(5e-324), -math.inf)
        best = slope.max(1).values
        last = m - 1 - (slope == best[:, None]).flip(1).to(torch.int8).argmax(1)
        grows = best > 0
        if not grows.any():
            break
        begins.append(position[grows])
        ends.append(last[grows])
        slopes.append(best[grows])
        owners.append(row[grows])
        position = torch.where(grows, last, position)
    if not begins:
        empty = torch.empty(0, dtype=torch.int64, device=c.device)
        return start, empty, empty, torch.empty(0, dtype=torch.float64, device=c.device), empty
    return start, torch.cat(begins), torch.cat(ends), torch.cat(slopes), torch.cat(owners)
