"""Projected Sinkhorn: a soft projection of an image onto a transport ball, by block ascent in the log domain.

Problem, with everything divided by the light S of the image: for a wanted image w

    min over z, Pi >= 0 of  sharpness / 2 |w - z|^2 + sum Pi ln Pi
    subject to  Pi 1 = x,  Pi^T 1 = z,  <Pi, C> <= radius**p,  z <= cap.

1902.07906 section 3 (without the cap), 2004.12478 section 4 (with it). Differs from both and their codes: 1. all sums of
exponentials are log-sum-exps and b is found by Wright's omega function, so that any sharpness and black pixels are safe;
2. every image stops by itself, after a bounded number of rounds; 3. the image returned is the column sums of the plan
after its rows have been made exact, mixed with staying where the cost is still above the budget: light and ball are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.geometry.norms import per_sample
from wassertight.transport.polytope import within_budget
from wassertight.transport.windows import LocalPlans


@dataclass(frozen=True, kw_only=True, eq=False)
class Duals:
    """Where the ascent ended; a warm start for the next projection.

    Attributes:
        b: multipliers of the columns, (n, c, h, w).
        psi: multiplier of the budget, (n,).
        rounds: rounds made.
        converged: whether each image's objective had settled, (n,).
    """

    b: Float[Tensor, "n c h w"]
    psi: Float[Tensor, " n"]
    rounds: int
    converged: Tensor

    def part(self, rows: Tensor) -> Duals:
        """Those of some of the images."""
        return Duals(b=self.b[rows], psi=self.psi[rows], rounds=self.rounds, converged=self.converged[rows])


def wright_omega(t: Tensor) -> Tensor:
    """The solution y > 0 of `y + ln y = t`: Lambert's W at e^t, without the exponential.

    >>> y = wright_omega(torch.tensor([-3.0, 1.0, 1000.0], dtype=torch.float64))
    >>> bool(torch.allclose(y + y.log(), torch.tensor([-3.0, 1.0, 1000.0], dtype=torch.float64)))
    True
    """
    t = t.clamp_min(-80.0)
    low = t.clamp_max(1.0).exp()
    y = torch.where(t > 1, t - t.clamp_min(1.0).log(), low / (1 + low))
    for _ in range(3):
        # Fritsch, Shafer and Crowley's step, of fourth order.
        rest = t - y - y.log()
        wide = (1 + y) * (1 + y + 2 / 3 * rest)
        y = y * (1 + rest / (1 + y) * (wide - rest / 2) / (wide - rest))
    return y


def projected_sinkhorn(
    plans: LocalPlans,
    w: Float[Tensor, "n c h w"],
    light: Float[Tensor, " n"],
    budget: Float[Tensor, " n"],
    *,
    sharpness: float = 1000.0,
    cap: float | None = None,
    rounds: int = 400,
    tolerance: float = 1e-4,
    start: Duals | None = None,
) -> tuple[Float[Tensor, "n k m"], Duals]:
    """The plan (in pixel light) whose image is near w within the budget, and the duals.

    Args:
        plans: of the images x.
        w: wanted images, in pixel values.
        light: S of each image.
        budget: in light times distance**p, as for every oracle.
        sharpness: weight of the distance to w (published: 1000 MNIST, 3000 CIFAR-10), for images of light one.
        cap: largest pixel value, or None.
        rounds, tolerance: an image stops once its objective changes by at most `tolerance (1 + |objective|)`.
        start: duals of an earlier projection.

    With a cap the plan is near the cap only as far as it has converged; `return_to_sender` makes it exact.
    """
    dtype = w.dtype
    whole = light.to(dtype)
    wanted = w / per_sample(whole, w)
    mass = plans.mass / whole[:, None]
    rows = torch.where(mass > 0, mass.log(), -torch.inf)
    costs = plans.costs[None, :, None]
    allowed = (budget / light).to(dtype)
    bound = None if cap is None else per_sample(cap / whole, w)
    everywhere = LocalPlans.like(plans)
    b = torch.full_like(w, -torch.tensor(float(w[0].numel())).log().item()) if start is None else start.b
    psi = torch.ones_like(whole) if start is None else start.psi
    done = torch.zeros_like(whole, dtype=torch.bool)
    value = torch.full_like(whole, -torch.inf)
    taken = 0
    while taken < rounds and not bool(done.all()):
        taken += 1
        a = _row_duals(plans, rows, b, psi)
        tall = plans.scatter_onto(a, -torch.inf)
        s = (everywhere.pull(tall, fill=-torch.inf) - psi[:, None, None] * costs - 1).logsumexp(1).view_as(w)
        fresh = sharpness * wanted - wright_omega(sharpness * wanted + torch.tensor(sharpness).log().item() + s)
        over = torch.zeros_like(fresh)
        if bound is not None:
            at_cap = bound.log() - s
            over = (sharpness * (wanted - bound) - at_cap).clamp_min(0)
            fresh = torch.where(over > 0, at_cap, fresh)
        b = torch.where(per_sample(done.to(dtype), b) > 0, b, fresh)
        plan = _plan(plans, a, b, psi)
        spent, curved = (plan * costs).sum((1, 2)), (plan * costs**2).sum((1, 2))
        linear = (b + over) * (wanted - (b + over) / (2 * sharpness)) - (0 if bound is None else over * bound)
        reached = torch.where(mass > 0, a * mass, 0.0).sum(1) + linear.flatten(1).sum(1)
        new = reached - psi * allowed - plan.sum((1, 2))
        psi = torch.where(done, psi, _newton(psi, spent - allowed, curved))
        done = done | ((new - value).abs() <= tolerance * (1 + new.abs()))
        value = new
    a = _row_duals(plans, rows, b, psi)
    plan = _plan(plans, a, b, psi) * whole[:, None, None]
    plan = plan * (plans.mass / plan.sum(1).clamp_min(torch.finfo(dtype).tiny))[:, None]
    return within_budget(plans, plan, budget), Duals(b=b, psi=psi, rounds=taken, converged=done)


def _row_duals(plans: LocalPlans, rows: Tensor, b: Tensor, psi: Tensor) -> Tensor:
    """a: the rows of the plan sum to x; -inf at absent pixels."""
    reach = plans.pull(b, fill=-torch.inf) - psi[:, None, None] * plans.costs[None, :, None] - 1
    return rows - reach.logsumexp(1)


def _plan(plans: LocalPlans, a: Tensor, b: Tensor, psi: Tensor) -> Tensor:
    exponent = a[:, None] + plans.pull(b, fill=-torch.inf) - psi[:, None, None] * plans.costs[None, :, None] - 1
    return exponent.exp()


def _newton(psi: Tensor, slope: Tensor, curvature: Tensor) -> Tensor:
    """One Newton step of the budget's multiplier, halved while it is negative."""
    step = slope / curvature.clamp_min(torch.finfo(psi.dtype).tiny)
    share = torch.ones_like(psi)
    for _ in range(7):
        share = torch.where(psi + share * step < 0, share / 2, share)
    return (psi + share * step).clamp_min(0)
