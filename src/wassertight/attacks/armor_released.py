"""ARMOR as released (code of 2309.03791): one fixed price in the attack, weights by learned or floored duals."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from wassertight.attacks.expected_loss import Growth
from wassertight.attacks.penalty import Penalty
from wassertight.losses import loss_by_name
from wassertight.queries import ModelQueries
from wassertight.threats import DivergenceBall
from wassertight.transport import (
    DiscreteMeasure,
    JointAllocation,
    LearnedDual,
    SoftBall,
    allocate_jointly,
    weights_at_price,
    worst_weights,
)

_PRICE = 1.0


def released_law(
    queries: ModelQueries,
    x: Tensor,
    y: Tensor,
    ball: DivergenceBall,
    mass: Tensor,
    loss_name: str,
    steps: int,
    updates: int,
    kappa: float,
) -> tuple[Growth, JointAllocation, DiscreteMeasure]:
    """Samples and moved points as a table, its exact solution at the price the code uses, and the code's law.

    Soft balls are attacked with the explicit pull at `tau = step`, other costs with the prox step, at the fixed price 1.
    Weights of alpha-divergences of order > 1 come from dual parameters after `updates` steps on this batch, normalised;
    others from the exact dual, lam no smaller than kappa. Mass goes back to the samples until the law is in the ball.
    """
    loss, cost, kind = loss_by_name(loss_name), ball.transport, ball.divergence
    soft = isinstance(cost, SoftBall)
    pull: Literal["prox", "explicit"] = "explicit" if soft else "prox"
    step = cost.tau if isinstance(cost, SoftBall) else 0.1
    z = Penalty(loss=loss_name, steps=steps, step=step, pull=pull)(queries, x, y, cost, _PRICE, ball.bounds)
    base, moved = (loss(queries.logits(point).double(), y) for point in (x, z))
    price = cost.cost(z, x)
    phi = moved - _PRICE * price
    if kind.moment > 1:
        dual = LearnedDual(order=kind.moment)
        for _ in range(updates):
            dual = dual.updated(phi, ball.radius)
        w, lam = dual.weights(phi), dual.lam
        total = (mass * w).sum()
        w = w / total if bool(total > 0) else torch.ones_like(w)
    else:
        found = worst_weights(kind, phi, ball.radius, mass)
        lam = max(float(found.price), kappa)
        w = found.density if lam == float(found.price) else weights_at_price(kind, phi, lam, mass)
    spent = float(kind.value(w, mass)) + float((mass * w * price).sum())
    part = 1.0 if spent <= ball.radius else ball.radius / spent  # the cost of a law is convex, and 0 at the data
    law = DiscreteMeasure(
        atoms=torch.cat((x, z)), weights=torch.cat((mass * (1 - part), mass * w * part)),
        sources=torch.arange(len(x), device=x.device).repeat(2),
    )  # fmt: skip
    stay = torch.zeros_like(price)
    table = Growth(
        distances=torch.stack((stay, ball.contained.cost(z, x)), 1), losses=torch.stack((base, moved), 1),
        points=torch.stack((x, z), 1),
    )  # fmt: skip
    bought = allocate_jointly(table.losses, torch.stack((stay, price), 1), ball.radius, kind, mass)
    return table, replace(bought, price=lam), law
