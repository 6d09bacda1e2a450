"""The exact slope at radius 0 for p = 1, Lip_N: the steepest rise of the loss from any sample, attained from below.

`Lip_N = max over i, sup over z of (loss(z, y_i) - loss_i) / ||z - x_i||_r`. What is found by ascent is attained, hence a
lower bound of Lip_N, never a certificate; from above the Lipschitz constant of the domain bounds it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wassertight.certificates.lipschitz import steps
from wassertight.certificates.lipschitz.network import ReluNetwork
from wassertight.certificates.lipschitz.programmes import Domain
from wassertight.geometry import dual_direction, norm
from wassertight.losses import loss_by_name
from wassertight.types import InputError

LOSSES = (*steps.LOSSES, "logit-difference")
_STEPS = 60


def losses(kind: str, logits: Tensor, y: Tensor) -> Tensor:
    """Losses (n, m): one column, or for logit differences one a class (the label's own stays zero).

    Raises:
        InputError: for a loss that is not Lipschitz or not known; the ratio DLR has a denominator that can vanish.

    >>> losses("margin", torch.tensor([[1.0, 3.0]]), torch.tensor([0])).tolist()
    [[2.0]]
    """
    check_loss(kind)
    if kind == "logit-difference":
        return logits - logits.gather(1, y[:, None])
    return loss_by_name(kind)(logits, y)[:, None]


def check_loss(kind: str) -> None:
    """Refuse losses without a Lipschitz constant, with the reason."""
    if kind in LOSSES:
        return
    why = ""
    if "dlr" in kind.lower():
        why = ": the ratio DLR divides by a difference of logits that can vanish, so it is not Lipschitz; use 'margin'"
    raise InputError(f"Lipschitz constants are offered for the losses {', '.join(LOSSES)}, got {kind!r}{why}")


def steepest_rise(
    network: ReluNetwork, x: Tensor, y: Tensor, r: float, domain: Domain, *, loss: str, directions: Tensor | None = None
) -> tuple[float, int, Tensor]:
    """The largest ratio found, the sample it starts from and the point z (inputs,) it ends in.

    Args:
        x: samples (n, inputs) float64 in the domain.
        directions: unit directions (m, inputs) worth trying from every sample, far away.
    """
    check_loss(loss)
    with torch.no_grad():
        base = losses(loss, network.logits(x), y)
    best, kept = torch.full((len(x),), -math.inf, dtype=x.dtype), x.clone()

    def offer(z: Tensor) -> None:
        nonlocal best, kept
        with torch.no_grad():
            ratio = _ratio(network, x, y, z, r, loss, base)
        better = ratio > best
        best, kept = torch.where(better, ratio, best), torch.where(better[:, None], z, kept)

    columns = 1 if loss != "logit-difference" else network.classes
    scale = float(x.abs().amax()) + 1.0
    for column in range(columns):
        z = x.clone().requires_grad_(True)
        with torch.enable_grad():
            (g,) = torch.autograd.grad(losses(loss, network.logits(z), y)[:, column].sum(), z)
        u = dual_direction(g, r)
        for t in torch.logspace(-4, 3, 15, dtype=torch.float64) * scale:
            offer(_inside(x + t * u, domain))
    if directions is not None:
        for u in directions:
            for t in torch.logspace(0, 6, 7, dtype=torch.float64) * scale:
                offer(_inside(x + t * u, domain))
    for step in range(_STEPS):
        z = kept.clone().requires_grad_(True)
        with torch.enable_grad():
            (g,) = torch.autograd.grad(_ratio(network, x, y, z, r, loss, base).sum(), z)
        far = norm(kept - x, r)[:, None]
        for share in (1.0, 0.1):
            offer(_inside(kept + share * 0.93**step * far * dual_direction(g.nan_to_num(0.0), r), domain))
    k = int(best.argmax())
    return max(float(best[k]), 0.0), k, kept[k]


def _ratio(network: ReluNetwork, x: Tensor, y: Tensor, z: Tensor, r: float, loss: str, base: Tensor) -> Tensor:
    rise = (losses(loss, network.logits(z), y) - base).amax(1)
    far = norm(z - x, r)
    return torch.where(far > 1e-9, rise / far.clamp_min(1e-9), -math.inf)


def _inside(z: Tensor, domain: Domain) -> Tensor:
    return torch.minimum(torch.maximum(z, domain.low), domain.high)
