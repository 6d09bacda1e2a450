"""The closest point of a half-space inside the box, in l_1, l_2 and l_inf: the exact step of linearised attacks."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wassertight.types import Bounds, InputError

_NEWTON = 60


def closest_on_hyperplane(
    x: Float[Tensor, "n *features"],
    g: Float[Tensor, "n *features"],
    rise: Float[Tensor, " n"],
    r: float,
    bounds: Bounds,
) -> tuple[Float[Tensor, "n *features"], Bool[Tensor, " n"]]:
    """Shortest displacement `d` with `<g, d> >= rise` and `x + d` in the box, for every sample.

    Solves `min ||d||_r subject to <g, d> >= rise, low <= x + d <= high` exactly for r in {1, 2, inf}:
    coordinates only ever move along sign(g), coordinate k by at most its room to the wall.
    r = inf: one common step, capped by the rooms (sorted breakpoints); r = 2: `min(theta |g|, room)`;
    r = 1: whole rooms of the steepest coordinates first.

    Args:
        x: points inside the box.
        g: slopes of the linear form.
        rise: how much the linear form must grow; where it is <= 0 the answer is zero.
        r: 1, 2 or inf.
        bounds: the box, or None.

    Returns:
        the displacements, and a mask that is False where even the far corner of the box does not rise enough
        (the displacement is then the move to that corner; for an unbounded domain that happens only for g = 0).

    >>> d, reached = closest_on_hyperplane(torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]), torch.ones(1), 1.0, (0.0, 1.0))
    >>> d.tolist(), bool(reached)
    ([[0.0, 0.5]], True)
    """
    flat, slope = x.flatten(1), g.flatten(1)
    size = slope.abs()
    if bounds is None:
        room = torch.full_like(size, math.inf)
    else:
        middle, half = (bounds[0] + bounds[1]) / 2, (bounds[1] - bounds[0]) / 2
        room = slope.sign().mul_(middle - flat).add_(half).clamp_min_(0)
    need = rise.clamp_min(0)[:, None]
    if math.isinf(r):
        step = _common_step(size, room, need)
        move = torch.minimum(step, room)
    elif r == 2:
        theta = _common_step(size**2, room / size.clamp_min(torch.finfo(x.dtype).tiny), need)
        move = torch.minimum(theta * size, room)
    elif r == 1:
        move = _greedy(size, room, need)
    else:
        raise InputError(f"closest points are offered for L1, L2 and Linf, got r = {r}")
    move = move * (need > 0)
    if bounds is None:
        move = torch.where(torch.isfinite(move) & (size > 0), move, 0)
    gain = (move * size).sum(1)
    reached = gain >= rise * (1 - 1e3 * torch.finfo(x.dtype).eps)
    return move.mul_(slope.sign()).view_as(x), reached


def _common_step(speed: Tensor, limit: Tensor, need: Tensor) -> Tensor:
    """Smallest t with `sum of speed * min(t, limit) >= need`; inf where no t suffices.

    The sum is concave and piecewise linear in t, so Newton's method from the left is monotone and ends at the root.
    """
    tiny = torch.finfo(speed.dtype).tiny
    t = need / speed.sum(1, keepdim=True).clamp_min(tiny)
    for _ in range(_NEWTON):
        missing = need - (torch.minimum(limit, t) * speed).sum(1, keepdim=True)
        rate = (speed * (limit > t)).sum(1, keepdim=True)
        move = torch.where(missing > 0, missing / rate.clamp_min(tiny), 0)
        t = t + move
        if not bool((move > t * 4 * torch.finfo(speed.dtype).eps).logical_and(torch.isfinite(t)).any()):
            break
    return t.clamp_max(torch.finfo(t.dtype).max)


def _greedy(size: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Fill rooms in order of steepness until the linear form has risen by `need`."""
    order = size.sort(dim=1, descending=True, stable=True)
    space = room.gather(1, order.indices)
    gain = torch.where(order.values > 0, order.values * space, 0)
    before = torch.cat((torch.zeros_like(need), gain.cumsum(1)[:, :-1]), 1)
    missing = (need - before).clamp_min(0)
    take = torch.minimum(missing / order.values.clamp_min(torch.finfo(size.dtype).tiny), space)
    take = torch.where(order.values > 0, take, 0)
    return torch.zeros_like(size).scatter(1, order.indices, take)
