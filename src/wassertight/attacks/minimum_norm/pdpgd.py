"""PDPGD: primal-dual proximal gradient descent in l_1, l_2 and l_inf (2106.01538).

Problem, for every correctly classified sample: `min ||z - x||_r subject to argmax f(z) != y, z in the box`, as the
saddle point of `lambda_1 ||d||_r + lambda_2 softplus(margin of y)`.

The primal step is proximal Adam: an Adam step on the classification term, then the proximal map of the norm in
Adam's metric by a few inner iterations. The dual variables live on the simplex (softmax of a log-ratio); the ratio
moves by the sign of the margin and is averaged exponentially.

Differs from the paper: 1. the best misclassified iterate is kept from the first iteration on; 2. the inner proximal
iterations stop when the whole batch has converged; 3. the last iterate is evaluated too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.incumbent import Incumbent
from wassertight.attacks.minimum_norm.search import check_steps, nearest_flips
from wassertight.geometry import norm, project_box, project_l1_ball
from wassertight.geometry.norms import per_sample
from wassertight.losses import margin
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel

_MOMENTUM, _SECOND, _EPS = 0.9, 0.999, 1e-8


@dataclass(frozen=True, kw_only=True)
class PDPGD(Attack):
    """Primal-dual proximal gradient descent.

    Args:
        steps: iterations, a forward and a backward pass each.
        step, decay: first primal step (Adam's) and the factor it has shrunk by at the end.
        ratio: first weight of the norm relative to the classification term.
        dual_step, dual_decay: first dual step and the factor it has shrunk by at the end.
        average: share of the old dual variables in their exponential average.
        inner: proximal iterations at most.
    """

    name: ClassVar[str] = "pdpgd"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = False

    steps: int = 500
    step: float = 0.1
    decay: float = 0.01
    ratio: float = 0.01
    dual_step: float = 0.1
    dual_decay: float = 0.1
    average: float = 0.9
    inner: int = 5

    def __post_init__(self) -> None:
        check_steps(self.steps, step=self.step, decay=self.decay, ratio=self.ratio, inner=self.inner)

    def find(self, problem: Problem) -> Found:
        """Closest flips."""
        return nearest_flips(problem, self._search)

    def _search(
        self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, generator: torch.Generator
    ) -> int:
        x, y = incumbent.x, incumbent.y
        rows = torch.arange(len(x), device=x.device)
        d, mean, square = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
        log_ratio = torch.full_like(incumbent.distance, -math.log(self.ratio))
        share = torch.sigmoid(log_ratio)

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            return functional.softplus(-margin(logits, labels))

        for step in range(self.steps):
            logits, _, g = queries.gradient(x + d, y, loss)
            incumbent.offer(x + d, logits, rows)
            mean.lerp_(g, 1 - _MOMENTUM)
            square.mul_(_SECOND).addcmul_(g, g, value=1 - _SECOND)
            scale = (square / (1 - _SECOND ** (step + 1))).sqrt_().add_(_EPS)
            length = self.step * self.decay ** (step / self.steps)
            d = d - length / (1 - _MOMENTUM ** (step + 1)) * mean / scale
            d = project_box(x + d, threat.bounds) - x
            d = self._proximal(d, x, scale, length, (1 - share) / share, threat)
            done = step / max(1, self.steps - 1)
            move = self.dual_step * ((1 - done) * (1 - self.dual_decay) + self.dual_decay)
            right = -margin(logits, y).to(log_ratio)
            log_ratio = (log_ratio + move * right.sign()).clamp(math.log(1e-6), -math.log(1e-6))
            share = self.average * share + (1 - self.average) * torch.sigmoid(log_ratio)
        incumbent.offer(x + d, queries.logits(x + d), rows)
        return self.steps

    def _proximal(
        self, d: Tensor, x: Tensor, scale: Tensor, length: float, weight: Tensor, threat: ThreatModel
    ) -> Tensor:
        """Proximal map of `weight * ||.||_r` in the metric `scale`, by proximal gradient iterations from d."""
        largest = scale.flatten(1).amax(1)
        metric = scale / per_sample(largest, scale)
        strength = (weight * length / largest).to(d.dtype)
        current = d
        for _ in range(self.inner):
            step = _shrink(current - metric * (current - d), strength, threat.r)
            step = project_box(x + step, threat.bounds) - x
            change = norm(step - current, 2.0) / norm(step, 2.0).clamp_min(torch.finfo(d.dtype).tiny)
            current = step
            if bool((change < 1e-2).all()):
                break
        return current


def _shrink(d: Tensor, strength: Tensor, r: float) -> Tensor:
    """Proximal map of `strength * ||.||_r`: soft-thresholding, shortening, or by duality for l_inf."""
    if r == 1:
        return d - torch.maximum(torch.minimum(d, per_sample(strength, d)), -per_sample(strength, d))
    if r == 2:
        size = norm(d, 2.0).clamp_min(torch.finfo(d.dtype).tiny)
        return d * per_sample((1 - strength / size).clamp_min(0), d)
    return d - project_l1_ball(d, strength)
