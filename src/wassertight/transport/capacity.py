"""Pixels no brighter than a cap: excess light goes back where it came from, and prices that keep it from coming."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.transport.windows import LocalPlans

SWEEPS = 100


def return_to_sender(
    plans: LocalPlans,
    plan: Float[Tensor, "n k m"],
    cap: float,
    *,
    sweeps: int = SWEEPS,
    tolerance: float = 1e-6,
) -> tuple[Float[Tensor, "n k m"], Float[Tensor, "n c h w"]]:
    """A plan whose image is at most the cap, and that image: pixels above it send the excess back in proportion.

    Row sums and signs stay, the cost only falls; needs x <= cap. Overflow left after all sweeps is the caller's to
    refuse: look at the image.
    """
    light = plans.push(plan)
    over = light.flatten(1).amax(1) > cap + tolerance
    if not bool(over.any()):
        return plan, light
    plan, light = plan.clone(), light.clone()
    rows = over.nonzero().squeeze(1)
    for _ in range(sweeps):
        some, moving = plans.part(rows), plan[rows]
        home, moving[:, 0] = moving[:, 0].clone(), 0
        incoming = some.push(moving)
        share = ((light[rows] - cap) / incoming.clamp_min(torch.finfo(plan.dtype).tiny)).clamp(0, 1)
        back = moving * some.pull(share)
        moving -= back
        moving[:, 0] = home + back.sum(1)
        plan[rows] = moving
        light[rows] = some.push(moving)
        rows = rows[light[rows].flatten(1).amax(1) > cap + tolerance]
        if len(rows) == 0:
            break
    return plan, light


def realised(
    plans: LocalPlans, plan: Float[Tensor, "n k m"], x: Float[Tensor, "n c h w"], cap: float | None
) -> Float[Tensor, "n c h w"]:
    """The image of a plan as a member of the set: nothing above the cap, exact light; x where that fails."""
    if cap is None:
        return balanced(x, plans.push(plan))
    _, z = return_to_sender(plans, plan, cap)
    full = z.flatten(1).amax(1) > cap * (1 + 1e-5)
    return balanced(x, torch.where(full[:, None, None, None], x, z), cap)


def balanced(
    x: Float[Tensor, "n c h w"], z: Float[Tensor, "n c h w"], cap: float | None = None
) -> Float[Tensor, "n c h w"]:
    """z without rounding: inside [0, cap], every channel with exactly x's light, computed in float64.

    Light that is missing or too much is taken from the differences to x in proportion, so that nothing leaves the
    segment between z and x and no distance to x grows.
    """
    first, second = x.double(), z.double().clamp(0, cap)
    lost = (first - second).sum((2, 3), keepdim=True)
    given, taken = (first - second).clamp_min(0), (second - first).clamp_min(0)
    tiny = 1e-300
    back = (lost / given.sum((2, 3), keepdim=True).clamp_min(tiny)).clamp(0, 1)
    away = (-lost / taken.sum((2, 3), keepdim=True).clamp_min(tiny)).clamp(0, 1)
    return (second + back * given - away * taken).to(z.dtype)
