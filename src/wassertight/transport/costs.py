"""Ground distances in float64 and the cost of moving a measure."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.geometry import norm


def sample_distances(z: Float[Tensor, "n *features"], x: Float[Tensor, "n *features"], r: float) -> Tensor:
    """||z_i - x_i||_r in float64, from the stored values of both.

    >>> sample_distances(torch.ones(1, 4), torch.zeros(1, 4), 2.0).item()
    2.0
    """
    return norm(z.detach().to(torch.float64) - x.detach().to(torch.float64), r)


def mean_cost(distances: Tensor, weights: Tensor, p: float) -> float:
    """`(sum_i w_i d_i**p) ** (1/p)`, or the largest distance of positive weight for p = inf.

    >>> mean_cost(torch.tensor([0.0, 2.0]), torch.tensor([0.5, 0.5]), 1.0)
    1.0
    """
    moved = distances[weights > 0].to(torch.float64)
    if len(moved) == 0:
        return 0.0
    top = float(moved.max())
    if math.isinf(p) or top == 0 or math.isinf(top):
        return top
    share = weights[weights > 0].to(device=moved.device, dtype=torch.float64)
    return float(top * float((share * (moved / top) ** p).sum()) ** (1 / p))
