"""l_r norms of displacements, their duals, and the directions of steepest ascent."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wassertight.types import InputError


def conjugate(order: float) -> float:
    """Dual order s with 1/r + 1/s = 1.

    >>> conjugate(1.0), conjugate(2.0), conjugate(float("inf"))
    (inf, 2.0, 1.0)
    """
    if not order >= 1:
        raise InputError(f"a norm order must be a number >= 1 or inf, got {order}")
    if order == 1:
        return math.inf
    return 1.0 if math.isinf(order) else order / (order - 1)


def norm_name(r: float) -> str:
    """Name of a ground norm in threat strings: L1, L2, Linf.

    >>> norm_name(float("inf")), norm_name(2.0)
    ('Linf', 'L2')
    """
    return "Linf" if math.isinf(r) else f"L{r:g}"


def norm(d: Float[Tensor, "n *features"], r: float, *, dtype: torch.dtype | None = None) -> Float[Tensor, " n"]:
    """The l_r norm of every sample's displacement, optionally accumulated in another dtype.

    >>> norm(torch.tensor([[3.0, -4.0]]), 2.0).tolist()
    [5.0]
    """
    flat, wanted = d.flatten(1), d.dtype if dtype is None else dtype
    if math.isinf(r):
        return flat.abs().amax(1).to(wanted)
    if r == 1:
        return flat.abs().sum(1, dtype=wanted)
    size: Tensor = torch.linalg.vector_norm(flat, ord=r, dim=1, dtype=wanted)
    return size


def per_sample(v: Float[Tensor, " n"], like: Float[Tensor, "n *features"]) -> Tensor:
    """Reshape one number a sample so that it broadcasts over the features of `like`."""
    return v.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))


def per_sample_mask(mask: Bool[Tensor, " n"], like: Float[Tensor, "n *features"]) -> Tensor:
    """Reshape one truth value a sample so that it broadcasts over the features of `like`."""
    return mask.view(-1, *(1,) * (like.ndim - 1))


def dual_direction(g: Float[Tensor, "n *features"], r: float) -> Float[Tensor, "n *features"]:
    """Steepest unit step `argmax of <g, u> over ||u||_r <= 1`, for every sample.

    r = inf: sign(g); r = 2: g / ||g||_2; r = 1: the signed unit vector at a largest |g_j|; otherwise
    `sign(g) |g|^(s-1) / ||g||_s^(s-1)`. A zero gradient gives a zero direction. 2306.09844 (h), 2510.10000 (M_r).

    >>> dual_direction(torch.tensor([[3.0, -4.0]]), 1.0).tolist()
    [[0.0, -1.0]]
    """
    if math.isinf(r):
        return g.sign()
    flat = g.flatten(1)
    if r == 1:
        index = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, index, flat.gather(1, index).sign()).view_as(g)
    s = conjugate(r)
    scaled = flat / flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
    size = torch.linalg.vector_norm(scaled, ord=s, dim=1, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
    power: Tensor = scaled.sign() * (scaled.abs() / size) ** (s - 1)
    return power.view_as(g)
