"""The Lagrangian inner maximiser: `max over z of loss(z, y) - lam c(x, z)`, one sample at a time, at a fixed price lam.

With the squared l_2 cost this is WRM's inner problem (1710.10571, algorithm 1), with a soft ball UDR's (2202.13437), with a
hard ball plain PGD. One step ascends and then applies the cost's prox, so that a smooth loss and cost have the maximiser
as fixed point whatever the step: `gradient / (2 lam price)` for WRM; `reach + tau / lam` under a constant sign gradient for
the soft ball, at every price (an infinite price gives the hard ball).

`pull="explicit"` follows the released code of 2309.03791 (its UDR attack): the penalty's gradient is taken before the step
and at `tau = step`. Differs from the paper: 1. it therefore travels to `reach + step / lam`, not `reach + tau / lam`; 2. it
oscillates for lam >= 2; 3. at lam = 0 nothing holds it back but the box. Use it only for comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from wassertight.attacks.minimum_norm.search import check_steps, within_rounding
from wassertight.geometry import dual_direction, project_box
from wassertight.geometry.norms import per_sample
from wassertight.losses import loss_by_name
from wassertight.queries import ModelQueries
from wassertight.transport import HardBall, MoveCost, PowerCost, SoftBall
from wassertight.types import Bounds, InputError


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """Ascent on the penalised loss.

    Args:
        loss: "cross-entropy", "margin", "dlr" or "redlr".
        steps: iterations (a forward and a backward pass each).
        step: length of a step in input units: the factor of the gradient for power costs (r = 2, p = 1 or 2), the length
            of the sign step for balls.
        pull: "prox", or "explicit" for the released soft ball.

    >>> from wassertight.transport import PowerCost
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[0.0, 0.0], [1.0, 0.0]]), "bias": torch.zeros(2)})
    >>> x, y, cost = torch.zeros(1, 2), torch.tensor([0]), PowerCost(price=1.0, p=2, r=2)
    >>> Penalty(loss="margin", steps=60)(ModelQueries(model), x, y, cost, 2.0, None).tolist()  # gradient / (2 lam price)
    [[0.25, 0.0]]
    """

    loss: str = "cross-entropy"
    steps: int = 20
    step: float = 0.1
    pull: Literal["prox", "explicit"] = "prox"

    def __post_init__(self) -> None:
        check_steps(self.steps, step=self.step)
        loss_by_name(self.loss)
        if self.pull not in ("prox", "explicit"):
            raise InputError(f"pull must be 'prox' or 'explicit', got {self.pull!r}")

    def __call__(
        self,
        queries: ModelQueries,
        x: Tensor,
        y: Tensor,
        cost: MoveCost,
        lam: float,
        bounds: Bounds,
        start: Tensor | None = None,
    ) -> Tensor:
        """Moved points (n, *features) in the box; the last iterate for "explicit", else the best of each sample.

        Args:
            lam: price of a unit of cost, >= 0.
            start: where to begin; x by default.

        Raises:
            InputError: a cost without closed prox step, or an explicit pull of anything but a soft ball.
        """
        if self.pull == "explicit" and not isinstance(cost, SoftBall):
            raise InputError("an explicit pull is that of the released soft ball")
        loss = loss_by_name(self.loss)
        inner = cost
        if isinstance(cost, HardBall):  # rounding must not carry a projected point out of the ball
            inner = replace(cost, reach=float(within_rounding(torch.tensor(cost.reach, dtype=torch.float64), x)))
        z = x if start is None else start
        best, top = z, torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
        for index in range(self.steps + 1):
            logits, _, g = queries.gradient(z, y, loss)
            price = cost.cost(z, x)
            worth = loss(logits.double(), y) - torch.where(price.isinf(), price, lam * price.clamp_max(1e300))
            better = worth > top
            top = torch.where(better, worth, top)
            best = torch.where(per_sample(better.to(x.dtype), x) > 0, z, best)
            if index < self.steps:
                z = project_box(x + self._move(z - x, g, inner, lam), bounds)
        return z if self.pull == "explicit" else best

    def _move(self, d: Tensor, g: Tensor, cost: MoveCost, lam: float) -> Tensor:
        if self.pull == "explicit":
            assert isinstance(cost, SoftBall)
            excess = d.sign() * (d.abs() - cost.reach).clamp_min(0.0)
            return d + self.step * g.sign() - lam * excess
        direction = g if isinstance(cost, PowerCost) else dual_direction(g, cost.r)
        return cost.prox(d + self.step * direction, self.step * lam)
