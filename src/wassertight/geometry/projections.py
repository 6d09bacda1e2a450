"""Euclidean projections onto l_1, l_2 and l_inf balls and the box, batched, one radius a sample."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.geometry.norms import norm, per_sample
from wassertight.types import Bounds, InputError


def project_box(z: Float[Tensor, "n *features"], bounds: Bounds) -> Float[Tensor, "n *features"]:
    """Closest point of the box; None is the whole space."""
    return z if bounds is None else z.clamp(*bounds)


def project_l1_ball(
    d: Float[Tensor, "n *features"], radius: float | Float[Tensor, " n"]
) -> Float[Tensor, "n *features"]:
    """Exact Euclidean projection of displacements onto l_1 balls: soft-thresholding by the sorted prefix rule.

    Solves `min ||v - d||_2 subject to ||v||_1 <= radius`, O(dim log dim) a sample.
    Duchi et al. 2008, figure 1.

    >>> project_l1_ball(torch.tensor([[3.0, 1.0]]), 2.0).tolist()
    [[2.0, 0.0]]
    """
    flat = d.flatten(1)
    limit = _radii(flat, radius)
    size = flat.abs()
    ordered = size.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - limit[:, None]
    rank = torch.arange(1, flat.shape[1] + 1, device=d.device, dtype=d.dtype)
    count = (ordered * rank > excess).sum(1, keepdim=True).clamp_min(1)
    theta = (excess.gather(1, count - 1) / count).clamp_min(0)
    inside = size.sum(1, keepdim=True) <= limit[:, None]
    shrunk = flat.sign() * (size - theta).clamp_min(0)
    return torch.where(inside, flat, shrunk).view_as(d)


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
