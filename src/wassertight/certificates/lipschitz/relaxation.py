"""Upper bounds of a gradient's norm over all masks that agree with a partial one: a semidefinite relaxation's dual.

Backwards through the network a cotangent g becomes `w = D g` at every hinge, D diagonal with two values an undecided
unit; so `w = m g + h x` with the middle m and half the width h of its slopes, and `x^2 = g^2` entry by entry. For
multipliers `lam > 0` with `diag(lam) > h M h`,

    max over x of (m g + h x)' M (m g + h x) + sum lam (g^2 - x^2)  =  g' K g,
    K = m M m + diag(lam) + m M h (diag(lam) - h M h)^-1 h M m,

which bounds `w' M w` from above. Starting from a Gram matrix M of the first layer's rows and going up layer by layer
with `M <- W K W'` gives `||J' (e_j - e_y)||_2^2 <= c' K c`, c the difference of two rows of the last layer. Any
multipliers are sound; a few gradient steps on their logarithms make the bound good, and fixing a unit with the
multipliers kept never makes it worse. For the 1-norm, `|v| <= (v^2 / q + q) / 2` reduces to a weighted 2-norm, with q
optimised too; for the largest entry, M is that entry's square.

At the root this is the neuron-wise LipSDP of Fazlyab et al., 1906.04893, from which it differs: 1. it is the problem of
one pair of classes; 2. masks are two-valued, so that multipliers of `(w - left g)(right g - w) = 0` may differ between
nodes of a search; 3. units whose slope is known drop out.

Rounding: the Cholesky factor of `diag(lam) - h M h` is exact for a matrix off by less than `1e-10 lam`; the additive
`diag(lam)` is enlarged by that share, which makes K an upper bound again.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.lipschitz.network import ReluNetwork

SLACK = 1e-10
"""Relative enlargement that covers rounding."""
_BARRIER = 1e-2
_RATE = 0.1
_PATIENCE, _PROGRESS = 10, 1e-3
"""Ascent ends where so many steps lower no bound by this share."""
_ENTRIES = 2 * 10**7
"""Largest table of products of two rows of the first layer that is kept."""


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Partial masks, one a row.

    Attributes:
        c: difference of rows of the last layer, (n, last hidden size).
        rows: what the gradient's norm is made of: the first layer (n_1, inputs), or one column of it a node (n, n_1, 1).
        phase: (n, units) int8: -1 undecided, 0 left slope, 1 right slope.
        theta: logarithms of multipliers, (n, units), and for the 1-norm of q, (n, units + inputs).
    """

    c: Tensor
    rows: Tensor
    phase: Tensor
    theta: Tensor


class Relaxation:
    """Bounds for one network and one dual norm s in {1, 2, inf}."""

    def __init__(self, network: ReluNetwork, s: float) -> None:
        self.network, self.s = network, s
        self.left, self.right = torch.cat(network.left), torch.cat(network.right)
        w = network.weights[0]
        small = s == 1 and len(w) * w.numel() <= _ENTRIES
        self.outer = (w[:, None] * w).flatten(0, 1).T.contiguous() if small else None

    def gram(self, nodes: Nodes, theta: Tensor) -> tuple[Tensor, Tensor | float]:
        """M of the first layer, and the constant of the 1-norm."""
        w = nodes.rows
        if self.s != 1:
            return (w @ w.mT).expand(len(nodes.c), -1, -1), 0.0
        q = theta[:, self.network.units :].exp()
        if self.outer is None:
            return (w / q[:, None]) @ w.T, q.sum(1)
        return ((1 / q) @ self.outer).view(len(q), len(w), len(w)), q.sum(1)

    def values(self, nodes: Nodes, theta: Tensor, middle: Tensor, half: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bounds of the norm (inf where multipliers are too small), whether they are, and log-determinants."""
        k, constant = self.gram(nodes, theta)
        sizes, volume = self.network.sizes, 0.0 * nodes.c[:, 0]
        fine = torch.ones(len(nodes.c), dtype=torch.bool)
        lam = theta[:, : self.network.units].exp()
        for t, (m, h, mu) in enumerate(
            zip(torch.split(middle, sizes, 1), torch.split(half, sizes, 1), torch.split(lam, sizes, 1), strict=True)
        ):
            if t > 0:
                w = self.network.weights[t]
                k = w @ k @ w.T
            free = h != 0
            mu = torch.where(free, mu, 0.0)
            matrix = torch.diag_embed(torch.where(free, mu, 1.0)) - h[:, :, None] * k * h[:, None, :]
            factor, info = torch.linalg.cholesky_ex(matrix)
            fine = fine & (info == 0)
            volume = (
                volume
                + 2 * factor.diagonal(dim1=1, dim2=2).clamp_min(1e-300).log().sum(1)
                - torch.where(free, mu.clamp_min(1e-300).log(), 0.0).sum(1)
            )
            mixed = torch.linalg.solve_triangular(factor, h[:, :, None] * k * m[:, None, :], upper=False)
            k = m[:, :, None] * k * m[:, None, :] + torch.diag_embed(mu * (1 + SLACK)) + mixed.mT @ mixed
        square = torch.einsum("bi,bij,bj->b", nodes.c, k, nodes.c)
        value = (square + constant) / 2 if self.s == 1 else square.clamp_min(0).sqrt()
        fine = fine & value.isfinite()
        return torch.where(fine, value * (1 + SLACK), math.inf), fine, volume

    def slopes(self, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Middle and half width of every unit's slope."""
        free = phase < 0
        known = torch.where(phase == 1, self.right, self.left)
        return torch.where(free, (self.left + self.right) / 2, known), torch.where(
            free, (self.right - self.left) / 2, 0.0
        )

    def bound(self, nodes: Nodes) -> Tensor:
        """The bounds with the multipliers as they are."""
        with torch.no_grad():
            return self.values(nodes, nodes.theta, *self.slopes(nodes.phase))[0]

    def start(self, nodes: Nodes, guess: Tensor) -> Tensor:
        """Multipliers to begin with: scaled row sums of `|h M h|`; q from guessed norms (n,)."""
        middle, half = self.slopes(nodes.phase)
        n, units = len(nodes.c), self.network.units
        theta = torch.zeros(n, units + (self.network.inputs if self.s == 1 else 0), dtype=torch.float64)
        if self.s == 1:
            share = nodes.rows.abs().sum(0).clamp_min(1e-9)
            theta[:, units:] = (share / share.sum() * guess.clamp_min(1e-9)[:, None]).log()
        k, _ = self.gram(nodes, theta)
        sizes, at = self.network.sizes, 0
        for t, (m, h) in enumerate(zip(torch.split(middle, sizes, 1), torch.split(half, sizes, 1), strict=True)):
            if t > 0:
                k = self.network.weights[t] @ k @ self.network.weights[t].T
            g = h[:, :, None] * k * h[:, None, :]
            sums = g.abs().sum(2)
            sums = torch.where(h != 0, sums + 1e-6 * sums.amax(1, keepdim=True) + 1e-12, 1.0)
            top = torch.linalg.eigvalsh(g * sums.rsqrt()[:, :, None] * sums.rsqrt()[:, None, :])[:, -1:]
            mu = 1.1 * sums * top.clamp_min(1e-3)
            theta[:, at : at + sizes[t]] = mu.log()
            at += sizes[t]
            mixed = torch.linalg.solve(torch.diag_embed(mu) - g, h[:, :, None] * k * m[:, None, :])
            k = (
                m[:, :, None] * k * m[:, None, :]
                + torch.diag_embed(torch.where(h != 0, mu, 0.0))
                + m[:, :, None] * k * h[:, None, :] @ mixed
            )
        return theta

    def tighten(
        self, nodes: Nodes, steps: int, below: float = -math.inf, end: float = math.inf
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Better multipliers by Adam on their logarithms, kept feasible by a log-determinant barrier.

        Args:
            below: rows whose bound is at most this need no more steps.
            end: of the time, by `time.perf_counter`; one step is made in any case.

        Returns:
            best bounds (n,), the multipliers that gave them, and estimates (n, units, 2) of the bound with one more unit
            at its left or right slope.
        """
        middle, half = self.slopes(nodes.phase)
        theta, kept = nodes.theta.clone(), nodes.theta.clone()
        best = torch.full((len(theta),), math.inf, dtype=theta.dtype)
        first, second = torch.zeros_like(theta), torch.zeros_like(theta)
        rate = torch.full((len(theta), 1), _RATE, dtype=theta.dtype)
        before, stuck = best.clone(), False
        for step in range(steps + 1):
            theta.requires_grad_(True)
            with torch.enable_grad():
                value, fine, volume = self.values(nodes, theta, middle, half)
                weight = _BARRIER * 0.9 ** (step / 3) / max(1, self.network.units)
                goal = torch.where(fine, value, 1.0).clamp_min(1e-12).log() - weight * torch.where(fine, volume, 0.0)
                (slope,) = torch.autograd.grad(goal.sum(), theta)
            theta, value = theta.detach(), value.detach()
            better = value < best
            best, kept = torch.where(better, value, best), torch.where(better[:, None], theta, kept)
            if step % _PATIENCE == 0:
                stuck = bool((best > before * (1 - _PROGRESS)).all()) and bool(best.isfinite().all())
                before = best.clone()
            if step == steps or stuck or bool((best <= below).all()) or time.perf_counter() > end:
                break
            slope = slope.nan_to_num(0.0, 0.0, 0.0)
            rate = torch.where(fine[:, None], rate, rate / 2)
            first = torch.where(fine[:, None], 0.8 * first + 0.2 * slope, 0.0)
            second = 0.95 * second + 0.05 * slope.square()
            move = first / (1 - 0.8 ** (step + 1)) / ((second / (1 - 0.95 ** (step + 1))).sqrt() + 1e-12)
            theta = torch.where(fine[:, None], theta - rate * move, kept)
        return best, kept, self._ahead(nodes, kept, middle, half)

    def _ahead(self, nodes: Nodes, theta: Tensor, middle: Tensor, half: Tensor) -> Tensor:
        """First-order estimates of the bound with one more unit fixed, (n, units, 2): left slope, right slope."""
        m, h = middle.clone().requires_grad_(True), half.clone().requires_grad_(True)
        with torch.enable_grad():
            value, fine, _ = self.values(nodes, theta, m, h)
            along, width = torch.autograd.grad(torch.where(fine, value, 0.0).sum(), (m, h))
        along, width = (v.nan_to_num(0.0, 0.0, 0.0) * half for v in (along, width))
        return value.detach()[:, None, None] + torch.stack((-along - width, along - width), 2)
