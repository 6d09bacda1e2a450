"""Linear enclosures of the operations that are not affine, and rows of coefficients pulled through them.

A row `<a, v>` with v the operation's value is bounded from below by rows on its arguments and a constant. `error`
bounds how far rounding can move an argument; it is charged to the constant (see `rounding`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeGuard, TypeVar, runtime_checkable

import torch
from torch import Tensor

from wassertight.certificates.propagation.activations import Activation, Enclosure, Hinge
from wassertight.certificates.propagation.layout import channels_last, flat_rows, raised_rows
from wassertight.certificates.propagation.operations import Maximum, Product

T = TypeVar("T")


@runtime_checkable
class Relaxation(Protocol):
    """Holds tensors (n, 1 or m, *shape): one enclosure a sample, or one a row."""

    def pull(self, a: Tensor) -> tuple[list[Tensor], Tensor]:
        """Rows (n, m, *value) to rows on every argument, and the constant (n, m) of the lower bound."""


@dataclass(frozen=True, kw_only=True)
class Elementwise:
    """`lower_slope * z + lower_shift <= f(z) <= upper_slope * z + upper_shift`.

    Attributes:
        lines: the enclosure, rounding of the argument included.
        error: that rounding.
        free: units whose lower line may have any slope between the hinge's two, or None.
        hinge: those two slopes.
    """

    lines: Enclosure
    error: Tensor
    free: Tensor | None = None
    hinge: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def of(cls, activation: Activation, low: Tensor, high: Tensor, error: Tensor) -> Elementwise:
        """From bounds (n, *shape) of the argument."""
        low, high = channels_last(low - error)[:, None], channels_last(high + error)[:, None]
        error = channels_last(error)[:, None]
        lines = activation.enclose(low, high)
        free, hinge = None, (0.0, 1.0)
        if steerable(activation):
            free = activation.bend(low, high)
            hinge = (float(activation.left), float(activation.right))
        return cls(lines=_charged(lines, error), error=error, free=free, hinge=hinge)

    def steered(self, choice: Tensor) -> Steered:
        """The same with lower slopes at `choice` in [0, 1] between the hinge's, (n, m, *shape), where they are free."""
        assert self.free is not None
        left, right = self.hinge
        slope = choice if (left, right) == (0.0, 1.0) else left + (right - left) * choice
        lines = self.lines
        return Steered(
            slope=torch.where(self.free, slope, lines.lower_slope), falls=left < 0, error=self.error,
            upper_slope=lines.upper_slope, upper_shift=lines.upper_shift,
        )  # fmt: skip

    def fixed(self, side: Tensor) -> Elementwise:
        """The same where branches fix signs: side +1 for arguments known >= 0, -1 for <= 0, else 0, (n, 1, *shape)."""
        assert self.free is not None
        known, slope = side != 0, torch.where(side > 0, self.hinge[1], self.hinge[0]).to(self.error.dtype)
        charge = slope.abs() * self.error
        lines = Enclosure(
            lower_slope=torch.where(known, slope, self.lines.lower_slope),
            lower_shift=torch.where(known, -charge, self.lines.lower_shift),
            upper_slope=torch.where(known, slope, self.lines.upper_slope),
            upper_shift=torch.where(known, charge, self.lines.upper_shift),
        )
        return replace(self, lines=lines, free=self.free & ~known)

    def narrowed(self, activation: Activation, units: Tensor, low: Tensor, high: Tensor) -> Elementwise:
        """The same with bounds (m, K) of some units, one set a row; units are numbered as `layout.flat_rows` does."""
        assert self.free is not None
        shape = tuple(self.error.shape[2:])

        def put(old: Tensor, new: Tensor) -> Tensor:
            flat = flat_rows(old).expand(1, len(low), -1).clone()
            return raised_rows(flat.index_copy_(2, units, new[None]), shape)

        error = flat_rows(self.error)[0, :, units]
        low, high = low - error, high + error
        charged = vars(_charged(activation.enclose(low, high), error))
        lines = Enclosure(**{name: put(old, charged[name]) for name, old in vars(self.lines).items()})
        return replace(self, lines=lines, free=put(self.free, activation.bend(low, high)))

    def pull(self, a: Tensor) -> tuple[list[Tensor], Tensor]:
        row, constant = between(a, *self.gaps())
        return [row], constant

    def gaps(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Slope and shift of the lower lines, and what the upper ones add to both."""
        lines = self.lines
        gaps = lines.upper_slope - lines.lower_slope, lines.upper_shift - lines.lower_shift
        return lines.lower_slope, lines.lower_shift, *gaps


def _charged(lines: Enclosure, error: Tensor) -> Enclosure:
    """Lines for an argument that rounding may move by the error."""
    return replace(
        lines,
        lower_shift=lines.lower_shift - lines.lower_slope.abs() * error,
        upper_shift=lines.upper_shift + lines.upper_slope.abs() * error,
    )


@dataclass(frozen=True, kw_only=True)
class Steered:
    """A hinge `slope * z - |slope| * error <= f(z) <= upper_slope * z + upper_shift` whose slopes differ from row to row.

    Attributes:
        falls: whether slopes may be negative.
    """

    slope: Tensor
    falls: bool
    error: Tensor
    upper_slope: Tensor
    upper_shift: Tensor

    def pull(self, a: Tensor) -> tuple[list[Tensor], Tensor]:
        below = a.clamp_max(0)
        low = (a - below) * self.slope
        charged = dot(low.abs() if self.falls else low, self.error)
        return [torch.addcmul(low, below, self.upper_slope)], dot(below, self.upper_shift) - charged


def steerable(operation: object) -> TypeGuard[Hinge]:
    """Whether an operation is a convex hinge (ReLU, leaky ReLU) with plain numbers for slopes."""
    return (
        isinstance(operation, Hinge)
        and isinstance(operation.left, float)
        and isinstance(operation.right, float)
        and operation.left <= operation.right
    )


@dataclass(frozen=True, kw_only=True)
class Bilinear:
    """A product of numbers or matrices between McCormick's planes.

    With s the end of x's interval that is nearer to 0, and t the end of y's that makes `a (x - s)(y - t) >= 0`,
    `a x y >= a (t x + s y - s t)`: small slopes leave little to lose. `forms` takes the mean of a side's two planes,
    `|x y - (c_x y + x c_y - c_x c_y)| <= slack`, whose slopes do not depend on a.

    Attributes:
        left, right: centres of the factors' intervals, (n, 1, *shape).
        left_width, right_width: half their widths, rounding included.
        left_error, right_error: that rounding.
    """

    operation: Product
    left: Tensor
    right: Tensor
    left_width: Tensor
    right_width: Tensor
    left_error: Tensor
    right_error: Tensor

    @classmethod
    def of(cls, operation: Product, bounds: list[tuple[Tensor, Tensor, Tensor]]) -> Bilinear:
        """From low, high and rounding error (n, *shape) of both factors."""
        (cx, wx, ex), (cy, wy, ey) = (
            ((low + high)[:, None] / 2, ((high - low) / 2 + e)[:, None], e[:, None]) for low, high, e in bounds
        )
        return cls(operation=operation, left=cx, right=cy, left_width=wx, right_width=wy, left_error=ex, right_error=ey)

    @property
    def slack(self) -> Tensor:
        """How far the product is from the mean of its planes, at most."""
        of = self.operation.of
        charged = of(self.left_error, self.right.abs()) + of(self.left.abs(), self.right_error)
        return of(self.left_width, self.right_width) + charged

    def pull(self, a: Tensor) -> tuple[list[Tensor], Tensor]:
        operation, side = self.operation, torch.where(self.left < 0, -1.0, 1.0).to(a)
        near = self.left - side * self.left_width
        size = side * operation.pull_left(a.abs(), self.right_width)
        on_left, on_right = operation.pull_left(a, self.right) - size, operation.pull_right(a, near)
        charged = dot(on_left.abs(), self.left_error) + dot(on_right.abs(), self.right_error)
        return [on_left, on_right], -dot(on_left, near) - charged


@dataclass(frozen=True, kw_only=True)
class Largest:
    """A maximum over windows: from below its most promising entry, from above a plane or a constant.

    With m the largest lower bound, `max z <= m + sum over k of (z_k - m)_+`, every summand below its chord; where the
    constant `max high` is smaller at the middle of the box, that is used.
    """

    operation: Maximum
    pick: Tensor
    slope: Tensor
    shift: Tensor
    error: Tensor

    @classmethod
    def of(cls, operation: Maximum, low: Tensor, high: Tensor, error: Tensor) -> Largest:
        """From bounds (n, *source) of the argument."""
        low, high, error = (
            operation.windows(low - error),
            operation.windows(high + error),
            operation.windows(error, outside=0.0),
        )
        floor, best = low.max(-1)
        pick = torch.nn.functional.one_hot(best, low.shape[-1]).to(low.dtype)
        reach = high > floor[..., None]
        width = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
        chord = torch.where(reach & ~(pick > 0), (high - floor[..., None]) / width, pick)
        chord = torch.where(torch.isfinite(chord), chord, 0.0)
        safe_low = torch.where(torch.isfinite(low), low, 0.0)
        # z_k - m <= chord_k (z_k - low_k) for the others; the picked entry itself has z - m with m = its lower bound
        constant = floor - (chord * safe_low).sum(-1)
        safe_high = torch.where(torch.isfinite(high), high, 0.0)
        middle = (chord * (safe_low + safe_high) / 2).sum(-1) + constant
        top = high.amax(-1)
        flat = (top < middle)[..., None]
        slope = torch.where(flat, 0.0, chord)
        sizes = floor.abs() + (chord * torch.maximum(safe_low.abs(), safe_high.abs())).sum(-1)
        pad = (4 + low.shape[-1]) * torch.finfo(low.dtype).eps * sizes
        shift = torch.where(flat[..., 0], top, constant + pad)
        return cls(
            operation=operation, pick=pick[:, None], slope=slope[:, None], shift=shift[:, None], error=error[:, None]
        )

    def pull(self, a: Tensor) -> tuple[list[Tensor], Tensor]:
        below = a.clamp_max(0)
        above = a - below
        constant = dot(below, self.shift + (self.slope * self.error).sum(-1))
        constant = constant - dot(above, (self.pick * self.error).sum(-1))
        rows = above[..., None] * self.pick + below[..., None] * self.slope
        folded = self.operation.fold(rows.flatten(0, 1))
        return [folded.reshape(*rows.shape[:2], *folded.shape[1:])], constant


def between(a: Tensor, slope: Tensor, shift: Tensor, slope_gap: Tensor, shift_gap: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (n, m, *shape) through lines as `Elementwise.gaps` gives them: the rows below, and the constant (n, m)."""
    below = a.clamp_max(0)
    return torch.addcmul(a * slope, below, slope_gap), dot(a, shift) + dot(below, shift_gap)


def of_samples(part: T, rows: Tensor) -> T:
    """The same for some samples: every tensor (n, ...) held by a dataclass, at some rows."""
    held = {field.name: getattr(part, field.name) for field in fields(part)}  # type: ignore[arg-type]
    chosen = {name: value[rows] for name, value in held.items() if isinstance(value, Tensor)}
    nested = {name: of_samples(value, rows) for name, value in held.items() if isinstance(value, Enclosure)}
    return replace(part, **chosen, **nested)  # type: ignore[type-var]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows (n, m, *shape) with (n, 1 or m, *shape): (n, m)."""
    a, b = flat_rows(a), flat_rows(b)
    if b.shape[1] == 1:
        return (a @ b.transpose(1, 2)).squeeze(2)
    return torch.einsum("nmk,nmk->nm", a, b)
