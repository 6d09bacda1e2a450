"""Random displacements inside l_r balls."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.geometry.norms import norm, per_sample


def sample_ball(
    like: Float[Tensor, "n *features"], radius: float | Float[Tensor, " n"], r: float, generator: torch.Generator
) -> Float[Tensor, "n *features"]:
    """Independent uniform draws from the l_r ball of each sample's radius, shaped like `like`.

    Uses the generalised-normal construction: entries of density exp(-|t|^r) and one exponential variable give a
    uniform point (Barthe et al. 2005); for r = inf the entries are uniform on [-radius, radius].

    The generator lives on the CPU, so that a seed gives the same draw on every device.
    """
    shape = (len(like), like[0].numel())
    draw = torch.empty(shape, dtype=torch.float64)
    if math.isinf(r):
        unit = draw.uniform_(-1, 1, generator=generator)
    else:
        signs = torch.empty(shape, dtype=torch.float64).uniform_(-1, 1, generator=generator).sign()
        if r == 2:
            size = draw.normal_(0, math.sqrt(0.5), generator=generator)
        elif r == 1:
            size = draw.exponential_(generator=generator)
        else:
            concentration = torch.full(shape, 1 / r, dtype=torch.float64)
            size = torch._standard_gamma(concentration, generator=generator) ** (1 / r)
        power = torch.empty(len(like), dtype=torch.float64).exponential_(generator=generator)
        total = norm(size, r) ** r + power
        unit = signs * size.abs() / (total ** (1 / r))[:, None]
    scaled = unit.to(device=like.device, dtype=like.dtype).view_as(like)
    return scaled * (per_sample(radius, like) if isinstance(radius, Tensor) else radius)
