"""Euclidean projections onto l_1, l_2 and l_inf balls and the box, batched, one radius a sample."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.geometry.norms import norm, per_sample
from wassertight.types import Bounds, InputError

_NEWTON = 60
_HALVINGS = 30
_ROUNDING = 1e-7


def project_box(z: Float[Tensor, "n *features"], bounds: Bounds) -> Float[Tensor, "n *features"]:
    """Closest point of the box; None is the whole space."""
    return z if bounds is None else z.clamp(*bounds)


def project_l1_ball(
    d: Float[Tensor, "n *features"], radius: float | Float[Tensor, " n"]
) -> Float[Tensor, "n *features"]:
    """Exact Euclidean projection of displacements onto l_1 balls: soft-thresholding at the root of a concave function.

    Solves `min ||v - d||_2 subject to ||v||_1 <= radius`. The threshold theta solves
    `sum (|d_k| - theta)_+ = radius`; Newton's method from below is monotone and ends at a root after finitely many
    steps (Michelot 1986), in linear passes instead of a sort.

    >>> project_l1_ball(torch.tensor([[3.0, 1.0]]), 2.0).tolist()
    [[2.0, 0.0]]
    """
    flat = d.flatten(1)
    limit = _radii(flat, radius)[:, None]
    size = flat.abs()
    theta = ((size.sum(1, keepdim=True) - limit) / flat.shape[1]).clamp_min_(0)
    for _ in range(_NEWTON):
        above = size - theta
        count = (above > 0).sum(1, keepdim=True).clamp_min(1)
        excess = above.clamp_min_(0).sum(1, keepdim=True) - limit
        move = excess / count
        theta = theta + move.clamp_min_(0)
        if not bool((move > theta * _ROUNDING).any()):
            break
    return torch.copysign((size - theta).clamp_min_(0), flat).view_as(d)


def project_l1_ball_and_box(
    d: Float[Tensor, "n *features"],
    radius: float | Float[Tensor, " n"],
    x: Float[Tensor, "n *features"],
    bounds: Bounds,
) -> Float[Tensor, "n *features"]:
    """Exact Euclidean projection of displacements onto `{||v||_1 <= radius, x + v in the box}`.

    The solution is the soft-thresholded displacement clipped to the room left by the walls; the threshold is found
    by bisection in the sample's own scale, 30 halvings, rounded to the feasible side. 2103.01208 proposition 2.1.

    >>> project_l1_ball_and_box(torch.tensor([[3.0, 1.0]]), 2.0, torch.zeros(1, 2), (0.0, 1.0)).tolist()
    [[1.0, 1.0]]
    """
    if bounds is None:
        return project_l1_ball(d, radius)
    flat, limit = d.flatten(1), _radii(d, radius)[:, None]
    room = torch.maximum((bounds[1] - x).flatten(1) * (flat > 0), (x - bounds[0]).flatten(1) * (flat < 0))
    size = flat.abs()
    full = torch.minimum(size, room).sum(1, keepdim=True)
    low, high = torch.zeros_like(full), size.amax(1, keepdim=True)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        over = torch.minimum((size - middle).clamp_min_(0), room).sum(1, keepdim=True) > limit
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    theta = torch.where(full <= limit, 0, high)
    return torch.copysign(torch.minimum((size - theta).clamp_min_(0), room), flat).view_as(d)


def project_ball(
    d: Float[Tensor, "n *features"], radius: float | Float[Tensor, " n"], r: float
) -> Float[Tensor, "n *features"]:
    """Euclidean projection of displacements onto l_r balls around zero, r in {1, 2, inf}; points inside stay.

    Raises:
        InputError: for another r.
    """
    limit = _radii(d, radius)
    if math.isinf(r):
        bound = per_sample(limit, d)
        return torch.minimum(torch.maximum(d, -bound), bound)
    if r == 2:
        size = norm(d, 2.0)
        return d * per_sample(torch.where(size > limit, limit / size.clamp_min(torch.finfo(d.dtype).tiny), 1.0), d)
    if r == 1:
        return project_l1_ball(d, limit)
    raise InputError(f"projections are offered for L1, L2 and Linf balls, got r = {r}")


def _radii(d: Tensor, radius: float | Tensor) -> Tensor:
    if isinstance(radius, Tensor):
        return radius.to(device=d.device, dtype=d.dtype)
    return torch.full((len(d),), float(radius), device=d.device, dtype=d.dtype)
