"""Two linear forms of the input around every value of a node, and what every operation does to them.

A pair of forms is held as its mean and half its difference: `mid - gap <= v <= mid + gap` for every input of the region,
where `mid` and `gap` are forms `c + <a, z - x>` with row 0 the constants c and one row more for every coordinate of the
input (n, 1 + d, *shape). Affine maps act on the mean, their absolute weights on the half difference. `gap` has only its
first row as long as the two forms are parallel.

Rounding of these forms' own arithmetic is added to the gap's constants: unit times the sum of the magnitudes of what was
added, each at its largest over the region's box. Rounding of the model is charged by the relaxations (see `rounding`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.propagation.log_softmax import Planes
from wassertight.certificates.propagation.operations import Affine, Rearrangement
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.relaxations import Bilinear, Elementwise, Largest, Relaxation
from wassertight.certificates.propagation.rounding import Rounding


@dataclass(frozen=True, kw_only=True)
class Forms:
    """The forms of one node; see the module's docstring."""

    mid: Tensor
    gap: Tensor

    @property
    def lower(self) -> Tensor:
        """The form below, (n, 1 + d, *shape)."""
        return _sum(self.mid, -self.gap)

    @property
    def upper(self) -> Tensor:
        """The form above."""
        return _sum(self.mid, self.gap)


class Forwarding:
    """Pushes forms through operations, over one batch of regions.

    Args:
        region: entered; forms are about `z - region.x`.
        rounding: `unit` 0 ignores rounding, as everywhere.
    """

    def __init__(self, region: Region, rounding: Rounding) -> None:
        x, dtype = region.x.flatten(1), region.x.dtype
        self.around = Region(
            x=torch.zeros_like(x),
            t=region.t,
            r=region.r,
            low=region.low.flatten(1) - x,
            high=region.high.flatten(1) - x,
        )
        self.reach = torch.cat((torch.ones_like(x[:, :1]), torch.maximum(-self.around.low, self.around.high)), 1)
        self.own = Rounding(unit=torch.finfo(dtype).eps if rounding.unit else 0.0)

    def source(self, x: Tensor) -> Forms:
        """The input itself."""
        n, d = x.flatten(1).shape
        eye = torch.eye(d, dtype=x.dtype, device=x.device).expand(n, d, d)
        mid = torch.cat((x.reshape(n, 1, d), eye), 1).view(n, 1 + d, *x.shape[1:])
        return Forms(mid=mid, gap=torch.zeros_like(x)[:, None])

    def affine(self, operation: Affine, forms: Forms) -> Forms:
        """Through an affine operation."""
        moved = Forms(mid=_rows(operation.linear, forms.mid), gap=_rows(operation.spread, forms.gap))
        if isinstance(operation, Rearrangement) and operation.terms <= 1:
            return moved
        moved.mid[:, 0] += operation.apply(torch.zeros_like(forms.mid[:1, 0]))
        return self._charged(moved, operation.size(self.size(forms)), operation.terms)

    def sum(self, parents: list[Forms]) -> Forms:
        """Through a sum."""
        total = parents[0]
        for other in parents[1:]:
            total = Forms(mid=total.mid + other.mid, gap=_sum(total.gap, other.gap))
        sizes = torch.stack([self.size(forms) for forms in parents]).sum(0)
        return self._charged(total, sizes, len(parents))

    def relaxed(self, relaxation: Relaxation, parents: list[Forms]) -> Forms:
        """Through an operation that is not affine."""
        if isinstance(relaxation, Elementwise):
            return self._elementwise(relaxation, parents[0])
        if isinstance(relaxation, Bilinear):
            return self._bilinear(relaxation, parents[0], parents[1])
        if isinstance(relaxation, Planes):
            return self._planes(relaxation, parents[0])
        assert isinstance(relaxation, Largest)
        return self._largest(relaxation, parents[0])

    def pulled(self, a: Tensor, shift: Tensor, forms: Forms) -> Tensor:
        """Lower bounds of rows `<a, v> + shift`, a (n, m, *shape), shift (n, m); exact over ball and box together."""
        a = a.flatten(2)
        low = _sum(a @ forms.mid.flatten(2).mT, -(a.abs() @ forms.gap.flatten(2).mT), dim=2)
        sizes = (a.abs() @ self.size(forms).flatten(1)[:, :, None]).squeeze(2) + shift.abs()
        slack = self.own.relative(a.shape[2] + low.shape[2] + 1) * sizes
        return low[:, :, 0] + self.around.minimum(low[:, :, 1:], tight=True) + shift - slack

    def bounds(self, forms: Forms) -> tuple[Tensor, Tensor]:
        """Lowest and highest value over the regions, (n, *shape); the better of ball and box."""
        lower, upper = forms.lower.flatten(2), forms.upper.flatten(2)
        slack = self.own.relative(lower.shape[1]) * self.size(forms)
        low = lower[:, 0] + self.around.minimum(lower[:, 1:].mT, tight=False)
        high = upper[:, 0] - self.around.minimum(-upper[:, 1:].mT, tight=False)
        return low.view_as(slack) - slack, high.view_as(slack) + slack

    def size(self, forms: Forms) -> Tensor:
        """Sum of the magnitudes of a form's terms over the region's box, (n, *shape)."""
        parts = (
            torch.einsum("nr,nrk->nk", self.reach[:, : f.shape[1]], f.abs().flatten(2)) for f in (forms.mid, forms.gap)
        )
        return sum(parts, torch.zeros(())).view_as(forms.mid[:, 0])

    def _elementwise(self, relaxation: Elementwise, forms: Forms) -> Forms:
        lines = relaxation.lines
        below, above = lines.lower_slope, lines.upper_slope
        # lower line times a form: slope * mid - |slope| * gap; upper line: slope * mid + |slope| * gap
        mid = _sum((above + below) / 2 * forms.mid, (above.abs() - below.abs()) / 2 * forms.gap)
        gap = _sum((above - below) / 2 * forms.mid, (above.abs() + below.abs()) / 2 * forms.gap)
        return self._shifted(
            mid, gap, lines.lower_shift[:, 0], lines.upper_shift[:, 0],
            (above.abs() + below.abs())[:, 0] * self.size(forms), 8,
        )  # fmt: skip

    def _bilinear(self, relaxation: Bilinear, x: Forms, y: Forms) -> Forms:
        of, left, right, slack = relaxation.operation.of, relaxation.left, relaxation.right, relaxation.slack[:, 0]
        mid = of(x.mid, right) + of(left, y.mid)
        gap = _sum(of(x.gap, right.abs()), of(left.abs(), y.gap))
        shift = -of(left, right)[:, 0]
        sizes = of(self.size(x), right[:, 0].abs()) + of(left[:, 0].abs(), self.size(y)) + of(left, right)[:, 0].abs()
        terms = 2 * left.shape[-1] + 2 if relaxation.operation.matrices else 8
        return self._shifted(mid, gap, shift - slack, shift + slack, sizes, terms)

    def _largest(self, relaxation: Largest, forms: Forms) -> Forms:
        pick, slope, operation = relaxation.pick, relaxation.slope, relaxation.operation

        def folded(weight: Tensor, rows: Tensor) -> Tensor:
            return (weight * _rows(lambda z: operation.windows(z, outside=0.0), rows)).sum(-1)

        mid = _sum(folded((slope + pick) / 2, forms.mid), folded((slope - pick) / 2, forms.gap))
        gap = _sum(folded((slope - pick) / 2, forms.mid), folded((slope + pick) / 2, forms.gap))
        low = -(pick * relaxation.error).sum(-1)[:, 0]
        high = (relaxation.shift + (slope * relaxation.error).sum(-1))[:, 0]
        sizes = folded(slope + pick, self.size(forms)[:, None])[:, 0]
        return self._shifted(mid, gap, low, high, sizes, 2 * pick.shape[-1] + 2)

    def _planes(self, relaxation: Planes, forms: Forms) -> Forms:
        lines = [(relaxation.upper_slope, relaxation.upper_shift), (relaxation.lower_slope, relaxation.lower_shift)]
        eye = torch.eye(forms.mid.shape[-1], dtype=forms.mid.dtype, device=forms.mid.device)
        below, above = (eye - slope[..., None, :] for slope, _ in lines)

        def folded(weight: Tensor, rows: Tensor) -> Tensor:
            return (weight @ rows[..., None]).squeeze(-1)

        mid = _sum(folded((above + below) / 2, forms.mid), folded((above.abs() - below.abs()) / 2, forms.gap))
        gap = _sum(folded((above - below) / 2, forms.mid), folded((above.abs() + below.abs()) / 2, forms.gap))
        low, high = ((-shift)[:, 0] for _, shift in lines)
        error = relaxation.error[:, 0]
        sizes = folded((above.abs() + below.abs())[:, 0], self.size(forms))
        return self._shifted(mid, gap, low - error, high + error, sizes, 2 * len(eye) + 4)

    def _shifted(self, mid: Tensor, gap: Tensor, low: Tensor, high: Tensor, sizes: Tensor, terms: int) -> Forms:
        """The forms with shifts added, to the lower one and to the upper one."""
        mid[:, 0] += (high + low) / 2
        gap[:, 0] += (high - low) / 2
        return self._charged(Forms(mid=mid, gap=gap), sizes + low.abs() + high.abs(), terms)

    def _charged(self, forms: Forms, sizes: Tensor, terms: int) -> Forms:
        """The forms moved apart by what rounding of so many terms of these sizes can lose."""
        forms.gap[:, 0] += self.own.relative(terms) * sizes
        return forms


def _rows(function: object, rows: Tensor) -> Tensor:
    """A function of batches on every row (n, m, *shape)."""
    assert callable(function)
    flat: Tensor = function(rows.flatten(0, 1))
    return flat.view(*rows.shape[:2], *flat.shape[1:])


def _sum(a: Tensor, b: Tensor, dim: int = 1) -> Tensor:
    """Sum of two lists of rows, of which one may have its first row only."""
    if a.shape[dim] == b.shape[dim]:
        return a + b
    longer, shorter = (a, b) if a.shape[dim] > b.shape[dim] else (b, a)
    longer = longer.clone()
    longer.narrow(dim, 0, 1).add_(shorter)
    return longer
