"""Input regions - an l_r ball cut by a box, one a sample - and exact minima of linear forms over them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.propagation.layout import flat_maps, flat_rows, raised_rows
from wassertight.geometry import conjugate, norm
from wassertight.types import Bounds, ThreatError


@dataclass(frozen=True, kw_only=True)
class Region:
    """`{z : ||z - x_i||_r <= t_i, low <= z <= high}` for every sample.

    Attributes:
        x: centres (n, *features); for r = 2 they may lie outside the box.
        t: radii (n,).
        low, high: the smallest enclosing box of each region, (n, *features).
    """

    x: Tensor
    t: Tensor
    r: float
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, x: Tensor, t: Tensor, r: float, bounds: Bounds) -> Region:
        """The region of every sample; r must be 1, 2 or inf."""
        if r not in (1, 2) and not math.isinf(r):
            raise ThreatError(f"certificates are offered for L1, L2 and Linf, got r = {r}")
        wide = t.view(-1, *(1,) * (x.ndim - 1))
        low, high = x - wide, x + wide
        if bounds is not None:
            low, high = low.clamp_min(bounds[0]), high.clamp_max(bounds[1])
        return cls(x=x, t=t, r=r, low=low, high=high)

    def split(self, size: int) -> list[Region]:
        """The regions of so many samples at once."""
        parts = (torch.split(v, size) for v in (self.x, self.t, self.low, self.high))
        return [Region(x=x, t=t, r=self.r, low=low, high=high) for x, t, low, high in zip(*parts, strict=True)]

    def cut(self, low: Tensor, high: Tensor) -> tuple[Region, Tensor]:
        """The part of every region between low and high (n, *features), and where nothing is left of it (n,).

        Every coordinate outside the cell is forced to move, which leaves less of the radius to the others: their box
        shrinks, and for r = 1 the part is exactly a smaller ball about the cell's nearest point.
        """
        low, high = torch.maximum(self.low, low), torch.minimum(self.high, high)
        if math.isinf(self.r):
            empty = (low > high).flatten(1).any(1)
            return Region(x=self.x, t=self.t, r=self.r, low=low, high=torch.maximum(low, high)), empty
        forced = torch.maximum(low - self.x, self.x - high).clamp_min(0)
        away = norm(forced.flatten(1), self.r)
        radius = self.t * (1 + (8 + 2 * self.x[0].numel()) * torch.finfo(self.x.dtype).eps)
        empty = (low > high).flatten(1).any(1) | (away > radius)
        wide = (-1, *(1,) * (self.x.ndim - 1))
        left = (radius**self.r - away**self.r).clamp_min(0)
        reach = (left.view(wide) + forced**self.r) ** (1 / self.r)
        low, high = torch.maximum(low, self.x - reach), torch.minimum(high, self.x + reach)
        high = torch.maximum(low, high)
        if self.r == 2:
            return Region(x=self.x, t=self.t, r=2, low=low, high=high), empty
        return Region(x=torch.clamp(self.x, low, high), t=left, r=1, low=low, high=high), empty

    def minimum(self, a: Tensor, *, tight: bool) -> Tensor:
        """`min over the region of <a, z>` for coefficients (n, m, *features), shape (n, m).

        Exact for r = inf. For r = 1 and 2 exact (r = 2 up to the accuracy of a dual variable, always from below)
        when `tight`, else the better of ball alone and box alone.
        """
        flat, low, high = flat_rows(a), flat_maps(self.low)[:, :, None], flat_maps(self.high)[:, :, None]
        if math.isinf(self.r):
            return (flat @ low + flat.clamp_max(0) @ (high - low)).squeeze(2)
        x = flat_maps(self.x)[:, :, None]
        centre = (flat @ x).squeeze(2)
        room = torch.where(flat > 0, (x - low).mT, (high - x).mT)
        size = flat.abs()
        box = (size * room).sum(2)
        ball = self.t[:, None] * norm(flat.flatten(0, 1), conjugate(self.r)).view_as(centre)
        if not tight:
            return centre - torch.minimum(ball, box)
        if self.r == 1:
            order, take = self._greedy(size, room)
            return centre - (size.gather(2, order) * take).sum(2)
        inside = bool(((x >= low) & (x <= high)).all())
        least = None if inside else torch.where(flat > 0, (x - high).mT, (low - x).mT)
        return centre - torch.minimum(torch.minimum(ball, box), self._dual(size, room, least))

    def lowest(self, a: Tensor) -> Tensor:
        """A point (n, m, *features) of the region's box where `<a, z>` is least, or about so for r = 2 if the ball is cut."""
        if math.isinf(self.r):
            return torch.where(a > 0, self.low[:, None], self.high[:, None])
        x, flat = flat_maps(self.x)[:, None], flat_rows(a)
        low, high, size = flat_maps(self.low)[:, None], flat_maps(self.high)[:, None], flat.abs()
        if self.r == 2:
            d = self.t[:, None, None] * size / norm(size.flatten(0, 1), 2.0).view(*size.shape[:2], 1).clamp_min(1e-30)
        else:
            order, take = self._greedy(size, torch.where(flat > 0, x - low, high - x))
            d = torch.zeros_like(size).scatter(2, order, take)
        return raised_rows(torch.clamp(x - flat.sign() * d, low, high), tuple(a.shape[2:]))

    def _greedy(self, size: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
        """The d with largest `sum size * d`, `sum d <= t`, `0 <= d <= room`, steepest coordinates first, and their order."""
        order = size.argsort(dim=2, descending=True)
        space = room.gather(2, order)
        before = space.cumsum(2) - space
        return order, torch.minimum((self.t[:, None, None] - before).clamp_min(0), space)

    def _dual(self, size: Tensor, room: Tensor, least: Tensor | None) -> Tensor:
        """Upper bound of `max sum size * d`, `||d||_2 <= t`, `least <= d <= room`; least None where it is never above 0.

        For every s > 0 the value `sum_k max_d (size d - d^2 / (2 s)) + t^2 / (2 s)` is a bound; the maximiser is
        `s * size` clipped to its range. Bisection finds the s with `||d||_2 = t`; any s is sound.
        """

        def step(s: Tensor) -> Tensor:
            d = torch.minimum(s[..., None] * size, room)
            return d if least is None else torch.maximum(d, least)

        target = self.t[:, None] ** 2
        low = self.t[:, None] / norm(size.flatten(0, 1), 2.0).view(size.shape[:2]).clamp_min(1e-30)
        high = low * 4
        for _ in range(8):
            high = torch.where((step(high) ** 2).sum(2) < target, high * 8, high)
            if least is not None:
                low = torch.where((step(low) ** 2).sum(2) > target, low / 8, low)
        for _ in range(40):
            middle = (low * high).sqrt()
            short = (step(middle) ** 2).sum(2) < target
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        d = step(low)
        return (size * d).sum(2) + ((target - (d**2).sum(2)) / (2 * low.clamp_min(1e-30))).clamp_min(0)


def covering_radius(x: Tensor, r: float, bounds: Bounds) -> Tensor:
    """Radius (n,) of the ball round each of x (n, *features) that covers the whole box, inf without a box."""
    if bounds is None:
        return torch.full((len(x),), math.inf, dtype=x.dtype, device=x.device)
    return norm(torch.maximum(x - bounds[0], bounds[1] - x), r) * (1 + 1e-6)
