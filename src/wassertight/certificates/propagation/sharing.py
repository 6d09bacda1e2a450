"""Planes (see `hulls`) that many rows share: one weight a unit and coordinate, for the leaves of one class.

Leaves of a class differ in a few units' signs, so planes that suit one suit the others; what gradients of many leaves
agree on is better for each of them than what a few steps find for one, and the planes of all rows are one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wassertight.certificates.propagation.hulls import Cover, Signed
from wassertight.certificates.propagation.layout import flat_maps, flat_rows
from wassertight.certificates.propagation.strips import Strips

_SHARES = 1.0, 0.5
"""Steps of weights and of what stays with the chord, in steps of slopes."""
_KEPT = 0.2
"""What stays with the chord to begin with."""
_TIE = 0.1
"""Part of a plane's reach."""


class Shared(Cover):
    """Planes over a box with weights for all rows together; they begin as chords.

    Args:
        signed: the planes.

    Attributes:
        tilt: weights (1, 1, entries), at the strips of the planes' rows.
        kept: share of a row that stays with the chord, (1, 1, U).
    """

    def __init__(self, signed: Signed) -> None:
        super().__init__(signed)
        self.tilt = torch.ones_like(signed.rows.flat)
        for block, chord in signed.rows.like(self.tilt).by_rows(signed.chord):
            block.mul_(chord)
        self.tilt = self.tilt[None, None]
        self.kept = torch.full_like(signed.top, _KEPT)[None, None]
        self.moves, self._free = False, dict[int, Tensor]()
        self._lines: tuple[Strips, Tensor] | None = None

    def resume(self, other: Shared) -> None:
        """Take the weights of units that other planes, over another region, have too."""
        mine, theirs = (planes.signed.rows.like(planes.tilt[0, 0]) for planes in (self, other))
        weights, old_weights = mine.dense(), theirs.dense(torch.nan)
        for k, place in self.places.items():
            if len(place) and len(other.units.get(k, ())):
                old = torch.full((int(max(self.units[k].max(), other.units[k].max())) + 1,), -1, device=place.device)
                old[other.units[k]] = other.places[k]
                found = old[self.units[k]]
                both = found >= 0
                given = old_weights[found[both]]
                weights[place[both]] = torch.where(given.isnan(), weights[place[both]], given)
                self.kept[:, :, place[both]] = other.kept[:, :, found[both]]
        self.tilt = Strips.fitted(weights, mine.runs).flat[None, None]

    def rows(self, free: Mapping[int, Tensor], moves: bool) -> Shared:
        """Itself, set up for the rows that come next.

        Args:
            free: by hinge, which units branches left undecided (1, m, *shape); the others keep to their lines.
            moves: whether an ascent may move the weights.
        """
        self._free = {k: flat_rows(free[k])[:, :, units] for k, units in self.units.items()}
        if moves or self.moves:
            self._lines = None
        self.moves = moves
        return self

    @property
    def variables(self) -> list[Tensor]:
        """Weights and shares."""
        return [self.tilt, self.kept] if self.moves else []

    @property
    def shares(self) -> list[float]:
        return list(_SHARES) if self.moves else []

    def share(self, hinge: int) -> Tensor:
        return (1 - self.kept[:, :, self.places[hinge]]) * self._free[hinge]

    def joined(self, rows: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
        planes: Tensor
        constant: Tensor
        if self.moves:
            planes, constant = _Through.apply(self.tilt, taken, self.signed)  # type: ignore[no-untyped-call]
        else:
            if self._lines is None:
                self._lines = _lines(self.tilt, self.signed)[:2]
            coefficients, shift = self._lines
            planes, constant = coefficients.across(taken), taken @ shift
        least, whole = self.signed.offsets.least(rows, planes)
        return least + constant, whole

    def turn(self, rows: Tensor, step: float) -> None:
        pass  # all that moves has gradients

    def values(self, points: Tensor) -> dict[int, Tensor]:
        """The planes at inputs (m, *source), by hinge (1, m, U)."""
        coefficients, shift = _lines(self.tilt, self.signed)[:2] if self._lines is None else self._lines
        found = coefficients.onto((flat_maps(points) - self.signed.offsets.centre)[None]) + shift
        return {k: found[:, :, place] for k, place in self.places.items()}


def _lines(tilt: Tensor, signed: Signed) -> tuple[Strips, Tensor, Tensor]:
    """Coefficients (U, inputs) and constants (U,) of planes, and which line the constants come from."""
    leant = signed.rows.like(tilt[0, 0] * signed.rows.flat)
    flat, steep = signed.lines(leant.like(leant.flat.abs()).sums(signed.offsets.reach))
    if not signed.plain:
        both = zip(leant.by_rows(signed.rise), signed.rows.by_rows(signed.left), strict=True)
        for (block, rise), (rows, left) in both:
            torch.addcmul(block * rise, rows, left, out=block)
    return leant, torch.maximum(flat, steep) + signed.slack, _leaning(flat, steep, signed.most)


def _leaning(flat: Tensor, steep: Tensor, reach: Tensor) -> Tensor:
    """1 where the flat line gives a plane's constant, -1 where the steep one does, in between where they are close.

    Planes that touch their hinge begin with a tie, and ascents do better when they do not take sides there.
    """
    return ((flat - steep) / (_TIE * reach)).clamp(-1, 1)


class _Through(torch.autograd.Function):
    """Rows and constants of what goes through planes that all rows share."""

    @staticmethod
    def forward(ctx: Any, tilt: Tensor, taken: Tensor, signed: Signed) -> tuple[Tensor, Tensor]:
        coefficients, shift, side = _lines(tilt, signed)
        ctx.save_for_backward(taken, shift, side)
        ctx.signed, ctx.coefficients = signed, coefficients
        return coefficients.across(taken), taken @ shift

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (taken, shift, side), signed, (on_row, on_constant) = ctx.saved_tensors, ctx.signed, grads
        on_taken = torch.addcmul(ctx.coefficients.onto(on_row), on_constant[..., None], shift)
        turn = side * (taken * on_constant[..., None]).sum((0, 1))
        met = signed.rows.outer(taken, on_row)
        met.flat.mul_(signed.rows.flat)
        for (r, size), (block, given) in zip(signed.sizes.blocks, met.by_rows(turn), strict=True):
            block.addcmul_(size, given * signed.offsets.reach[r.begin : r.end])
        if not signed.plain:
            for block, rise in met.by_rows(signed.rise):
                block.mul_(rise)
        return met.flat[None, None], on_taken, None
