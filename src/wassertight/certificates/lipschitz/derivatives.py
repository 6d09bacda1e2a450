"""Ranges of an activation's derivative over intervals: every slope its (Clarke) derivative can take there.

A smooth function is convex or concave between its bends, so its derivative is monotone there and extreme at the ends of
each piece. Where a kink lies in the interval, both sides count, and so does all that lies between.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from wassertight.certificates.propagation.activations import Activation, Hinge, Ramp, rounding
from wassertight.certificates.propagation.curves import Curve
from wassertight.types import UnsupportedLayerError


def slope_range(activation: Activation, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest slope of an activation over [low, high], elementwise; ends may be infinite.

    Where the slope is unbounded or the function is not defined the range is (-inf, inf).

    Raises:
        UnsupportedLayerError: for a function whose derivative is not known here.

    >>> from wassertight.certificates.propagation.activations import relu
    >>> [v.tolist() for v in slope_range(relu(), torch.tensor([-1.0, 1.0]), torch.tensor([2.0, 2.0]))]
    [[0.0, 1.0], [1.0, 1.0]]
    """
    if isinstance(activation, Hinge):
        left, right = (
            torch.as_tensor(s, dtype=low.dtype, device=low.device) for s in (activation.left, activation.right)
        )
        slopes = torch.stack((left.expand_as(low), right.expand_as(low)))
        return _extremes(slopes, torch.stack((low <= 0, high >= 0)))
    if isinstance(activation, Ramp):
        rise = torch.full_like(low, activation.rise)
        slopes = torch.stack((torch.zeros_like(low), rise))
        flat = (low <= activation.start) | (high >= activation.stop)
        return _extremes(slopes, torch.stack((flat, (high >= activation.start) & (low <= activation.stop))))
    if isinstance(activation, Curve):
        return _curved(activation, low, high)
    raise UnsupportedLayerError(f"the derivative of {activation.name} has no bounds here, so it has no Lipschitz bound")


def steepest(activation: Activation, like: Tensor) -> Tensor:
    """Largest absolute slope on the whole line; inf where there is none. `like` gives shape and dtype."""
    low, high = slope_range(activation, torch.full_like(like, -math.inf), torch.full_like(like, math.inf))
    return torch.maximum(low.abs(), high.abs())


def _curved(curve: Curve, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    low, high = low.clamp_min(curve.least), high.clamp_min(curve.least)
    edges, slopes, met = (-math.inf, *curve.bends, math.inf), [], []
    for place, (begin, end) in enumerate(pairwise(edges)):
        convex = curve.convex_first == (place % 2 == 0)
        derivative = curve.slope if convex or curve.slope_above is None else curve.slope_above
        here = (low <= end) & (high >= begin)
        for point in (low, high):
            inside = torch.where(here, point, min(max(0.0, begin), end)).clamp(begin, end)
            slopes.append(_far(derivative(inside.clamp(-_FAR, _FAR)), inside))
            met.append(here)
    bottom, top = _extremes(torch.stack(slopes), torch.stack(met))
    pad = rounding(low) * (torch.maximum(bottom.abs(), top.abs()) + curve.grain) + curve.slack
    bottom, top = bottom - pad, top + pad
    wild = bottom.isnan() | top.isnan()
    if curve.avoid is not None:
        wild |= ~((high < curve.avoid[0]) | (low > curve.avoid[1]))
    return torch.where(wild, -math.inf, bottom), torch.where(wild, math.inf, top)


_FAR = 1e30
"""Stands for infinity where slopes there are evaluated."""


def _far(slope: Tensor, point: Tensor) -> Tensor:
    """Slopes at infinity are their limits: 0, a number, or infinite."""
    limit = torch.where(slope.abs() < 1e-9, 0.0, torch.where(slope.abs() > 1e9, math.inf * slope.sign(), slope))
    return torch.where(point.abs() > _FAR, limit, slope)


def _extremes(values: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest over the first axis where `among` holds."""
    return torch.where(among, values, math.inf).amin(0), torch.where(among, values, -math.inf).amax(0)
