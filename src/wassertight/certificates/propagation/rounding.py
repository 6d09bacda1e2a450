"""How far floating-point rounding may move the values of a network, as bounds that travel with the propagation.

A sum of k products computed in any order differs from the exact one by at most `k u / (1 - k u)` times the sum of the
products' magnitudes, u the unit roundoff (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1); where
`8 sqrt(k)` is less than k it stands for k, which holds with probability above 1 - 2 exp(-32) a sum if the errors of
single operations are independent with mean zero (Higham and Mary, SIAM J. Sci. Comput. 41, 2019, theorem 2.4). So the
deployed network is an exact network whose every operation is perturbed by a bounded amount. Perturbations are carried
forward through affine operations (absolute weights times magnitudes) and charged where a value enters an operation
that is not affine: its enclosure is taken over the widened interval, and its lines are lowered and raised by slope
times error. The logits' own error is taken off the margin. The same amounts, with the unit of the arithmetic of the
bounds in place of the model's, cover the rounding of coefficients while they are pulled back, to first order.

What is taken for granted: every device sums the products it is given (no Winograd or Fourier convolutions, no reduced
precision such as TF32), and elementary functions are correct to a few units in the last place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.propagation.log_softmax import LogSoftmax
from wassertight.certificates.propagation.operations import Affine, Maximum, Product

_SPREADS = 8
"""Long sums: errors beyond so many times the square root of their length have probability below 3e-14."""
_ULPS = 8
"""Error of one elementary function, in units in the last place."""


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """Unit roundoffs of the model that runs and of the bounds' own arithmetic; zero ignores rounding.

    >>> Rounding.between(torch.float32, torch.float64).unit > 5e-8
    True
    """

    unit: float

    @classmethod
    def between(cls, model: torch.dtype, own: torch.dtype) -> Rounding:
        """Of a model's dtype and the dtype the bounds are computed in."""
        return cls(unit=torch.finfo(model).eps / 2 + torch.finfo(own).eps)

    def relative(self, terms: int) -> float:
        """Relative error of a sum of so many products."""
        share = min(terms + 1, _SPREADS * math.sqrt(terms + 1)) * self.unit
        return share / (1 - share) if share < 0.5 else 1.0

    def affine(self, operation: Affine, low: Tensor, high: Tensor, error: Tensor) -> Tensor:
        """Error of an affine operation's value."""
        if self.unit == 0 or operation.terms <= 1:
            return operation.spread(error)
        magnitude = torch.maximum(low.abs(), high.abs()) + error
        return operation.spread(error) + self.relative(operation.terms) * operation.size(magnitude)

    def sum(self, parents: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Error of a sum of values."""
        share = self.relative(len(parents))
        carried = torch.stack([error for _, _, error in parents]).sum(0)
        sizes = torch.stack([torch.maximum(low.abs(), high.abs()) for low, high, _ in parents]).sum(0)
        return carried + share * (sizes + carried)

    def curved(self, operation: object, low: Tensor, high: Tensor) -> Tensor:
        """Error of an activation, a maximum or log-softmax, over the bounds of its value; taking a maximum rounds nothing."""
        if self.unit == 0 or isinstance(operation, Maximum) or getattr(operation, "name", "") == "relu":
            return torch.zeros_like(low)
        if isinstance(operation, LogSoftmax):
            return self.relative(operation.terms + _ULPS) * (1 + torch.maximum(low.abs(), high.abs()))
        cancels = float(getattr(operation, "cancels", 0.0))
        return self.relative(_ULPS) * (torch.maximum(low.abs(), high.abs()) + cancels)

    def product(self, operation: Product, parents: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Error of a product, over the bounds of its factors."""
        x, y = (torch.maximum(low.abs(), high.abs()) + error for low, high, error in parents)
        return self.relative(x.shape[-1] if operation.matrices else 1) * operation.of(x, y)
