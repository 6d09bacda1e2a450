"""Narrower intervals for the units of a leaf, from the one thing that is asked of it: an input answered otherwise.

A leaf is closed when no input in it has a margin <= 0. With a linear bound `margin >= <w, d> + base` over its offsets d,
such an input satisfies `<w, d> <= -base`, so bounds of units need to hold in that part of the box alone. For a unit with
`z <= <c, d> + top` and any g >= 0,

    z <= top - g base + h(c - g w)    there, h the support function of the box,

and likewise from below. Bounds of the leaf over these intervals are sound again, and where an interval is empty there is
no such input (constraints on outputs: 2302.01404; their use between splits: 2512.11087).

Differs from the papers: one constraint, the margin's; rows of units are kept from the bounds of the whole region, so nothing
is pulled through the network for it; g is found on a part of the coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wassertight.certificates.propagation.backward import CACHED
from wassertight.certificates.propagation.bounds import Bounds
from wassertight.certificates.propagation.hulls import Offsets, slack_of
from wassertight.certificates.propagation.layout import flat_maps

_SAMPLED = 256
"""Coordinates that g is found on."""
_HALVINGS, _SPAN = 4, 4.0
"""Bisections for g, and the factor by which a first guess may be off."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Linear bounds of some units over a box.

    Attributes:
        hinges: which of the units (numbers among a hinge's arguments) belong to a hinge, by hinge.
        rows: (2, K, inputs): `z <= <rows[0], d> + top[0]` and `-z <= <rows[1], d> + top[1]`.
        top: (2, K).
        low, high: the units' intervals over the whole box, (K,).
        offsets: the box.
    """

    hinges: Mapping[int, Tensor]
    rows: Tensor
    top: Tensor
    low: Tensor
    high: Tensor
    offsets: Offsets

    @classmethod
    def of(
        cls, bounds: Bounds, arguments: Mapping[int, int], lost: Mapping[int, Tensor], most: int, offsets: Offsets
    ) -> Clip | None:
        """Of the units that cost leaves most, None where nothing is known of any.

        Args:
            bounds: over the box.
            arguments: the node a hinge is taken of.
            lost: what units cost, (units,) by hinge, numbered as `layout.flat_rows` does.
            most: how many units to take.
        """
        planes = {k: bounds.planes[argument] for k, argument in arguments.items() if argument in bounds.planes}
        if not planes:
            return None
        scores = [lost[k][part.units] for k, part in planes.items()]
        joined = torch.cat(scores)
        best = joined.topk(min(most, len(joined)))
        chosen = torch.zeros_like(joined, dtype=torch.bool)
        chosen[best.indices[best.values > 0]] = True
        masks = torch.split(chosen, [len(score) for score in scores])
        parts = {
            k: part.part(mask) for (k, part), mask in zip(planes.items(), masks, strict=True) if bool(mask.any())
        }  # fmt: skip
        if not parts:
            return None
        above, top, below, bottom = (
            torch.cat([getattr(part, name) for part in parts.values()]) for name in ("rows", "top", "below", "bottom")
        )
        low, high = (
            torch.cat([flat_maps(ends[arguments[k]])[0, part.units] for k, part in parts.items()])
            for ends in (bounds.low, bounds.high)
        )
        return cls(
            hinges={k: part.units for k, part in parts.items()}, rows=torch.stack((above, -below)),
            top=torch.stack((top, -bottom)), low=low, high=high, offsets=offsets,
        )  # fmt: skip

    def split(self, of_units: Tensor) -> dict[int, Tensor]:
        """What is given for all units, (m, K or more), by hinge."""
        counts = [len(units) for units in self.hinges.values()]
        return dict(zip(self.hinges, torch.split(of_units[:, : sum(counts)], counts, 1), strict=True))

    def ends(self, w: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """Intervals (m, K) of the units at inputs of leaves with `<w, d> <= -base`, for w (m, inputs) and base (m,)."""
        rows, top, reach = self.rows.flatten(0, 1), self.top.flatten(), self.offsets.reach
        size, whole = self._size, self.offsets.support(w)
        share = (base / whole).clamp_max(1 - 1e-3)
        guess = size * (share / whole / (1 - share**2).sqrt())[:, None]
        best, chunk = torch.empty_like(guess), max(1, CACHED // rows.numel())
        for begin in range(0, len(w), chunk):
            here = slice(begin, begin + chunk)
            g = self._prices(w[here], share[here], guess[here])
            found = torch.addcmul(rows, g[..., None], w[here, None], value=-1).abs_() @ reach
            best[here] = torch.minimum(top + found - g * base[here, None], top + size) + 4 * (
                self._slack + slack_of(w[here], w[here].abs() * reach, base[here], 4)[:, None] * g
            )
        above, below = best.view(len(w), 2, -1).unbind(1)
        return -below, above

    def _prices(self, w: Tensor, share: Tensor, guess: Tensor) -> Tensor:
        """Values of g (m, 2 K), found on some coordinates alone."""
        step = max(1, w.shape[1] // _SAMPLED)
        rows, w, reach = self.rows.flatten(0, 1)[:, ::step], w[:, ::step], self.offsets.reach[::step]
        weights, low, high = w * reach, guess / _SPAN, guess * _SPAN
        goal = -(share * weights.abs().sum(1))[:, None]
        for _ in range(_HALVINGS):
            g = (low * high).sqrt()
            away = torch.addcmul(rows, g[..., None], w[:, None], value=-1).sign_()
            held = (away @ weights[..., None]).squeeze(2) > goal
            low, high = torch.where(held, g, low), torch.where(held, high, g)
        return (low * high).sqrt()

    @cached_property
    def _size(self) -> Tensor:
        return self.offsets.support(self.rows.flatten(0, 1))

    @cached_property
    def _slack(self) -> Tensor:
        rows = self.rows.flatten(0, 1)
        return slack_of(rows, rows.abs() * self.offsets.reach, self.top.flatten(), 4)
