"""Certified accuracy curves: every order and radius from one list of radii, movable labels, and the true law.

Problem: `A_p(radius) = min Q(correct)` over laws Q with `W_p(Q, P_n) <= radius`, from proved radii `l_i <= d_i`
(worst_case.md theorem 2), and the same around the law P the samples were drawn from (theorem 3).

Differs from worst_case.md 6:
1. The certifier need not be fixed before the sample was drawn. Theorem 3 applied to the true distances d, which the
   model alone determines, gives `|A_p(radius; P) - A_p(radius; P_n)| <= margin` for all p and radii at once; any valid
   bound on the samples' value, however it was found, moves by the margin and no more. What must not have seen the
   samples is the model.
2. p = inf is included: `A_inf` is a value of the distribution function of d, which DKW-Massart bounds itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.transport import FlipDistances
from wassertight.types import InputError


@dataclass(frozen=True, kw_only=True)
class Population:
    """Asks for a bound around the true law instead of the samples' own.

    Args:
        confidence: probability, over the draw of the samples, with which the bounds hold; in [0.5, 1).
        sides: 1 for a bound on one side, 2 for an interval (each side gets half of the error).
        failure: probability with which one radius of a randomised certifier is wrong, independently of the others;
            0 for a deterministic proof.

    >>> round(Population().margin(10_000), 4)
    0.0122
    """

    confidence: float = 0.95
    sides: int = 1
    failure: float = 0.0

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"confidence must be a number in [0.5, 1), for example 0.95; got {self.confidence}")
        if self.sides not in (1, 2):
            raise InputError(f"sides must be 1 (one bound) or 2 (an interval), got {self.sides}")
        if not 0 <= self.failure < 1:
            raise InputError(
                f"failure must be a probability in [0, 1) (0 = deterministic certifier), got {self.failure}"
            )

    def margin(self, n: int) -> float:
        """What n samples cost: `sqrt(log(1/eta) / (2 n))`, and where radii may be wrong the share that may be.

        The error `1 - confidence` is split evenly over the sides and, where `failure > 0`, the radii. Radii are all
        right but for an error eta' if `n * failure <= eta'` (union bound); otherwise at most the share
        `failure + sqrt(log(1/eta') / (2 n))` is wrong (Hoeffding).
        """
        if n < 1:
            raise InputError(f"the margin needs n >= 1 samples, got {n}")
        eta = (1 - self.confidence) / (self.sides + (self.failure > 0))
        one_side = math.sqrt(math.log(1 / eta) / (2 * n))
        wrong = 0.0 if n * self.failure <= eta else self.failure + one_side
        return one_side + wrong

    def assumptions(self, n: int) -> tuple[str, ...]:
        """What the step from the samples to the true law takes for granted."""
        sides = "each side" if self.sides == 2 else "the bound"
        found: tuple[str, ...] = (
            f"the {n} samples are independent draws from the true law, and neither training nor the choice of the "
            "model has seen them",
            f"the ball is around the true law; {sides} is moved by {100 * self.margin(n):.2f} points, which holds for "
            f"all orders and radii of one ground norm at once with probability {self.confidence:g} over the draw",
        )
        if self.failure:
            found += (f"each radius is wrong with probability at most {self.failure:g}, independently of the others",)
        return found


@dataclass(frozen=True, kw_only=True)
class AccuracyCurve:
    """One side of the worst-case accuracy against the radius, and what it rests on.

    Attributes:
        p: Wasserstein order.
        radii: budgets in the inputs' units, (m,) float64.
        accuracy: bound on the worst-case accuracy at every radius, (m,) float64.
        side: "certified" (no law in the ball gives less) or "attacked" (some law in the ball gives no more).
        label_cost: cost of changing a label; inf where labels never move.
        margin: what the step to the true law costs; 0 for the law of the samples.
        confidence: 1.0 for the law of the samples.
        assumptions: what the bound takes for granted, besides the assumptions of the certificate itself.
    """

    p: float
    radii: Float[Tensor, " m"] = field(repr=False)
    accuracy: Float[Tensor, " m"]
    side: Literal["attacked", "certified"]
    label_cost: float = math.inf
    margin: float = 0.0
    confidence: float = 1.0
    assumptions: tuple[str, ...] = field(repr=False)


def accuracy_curves(
    distances: FlipDistances,
    orders: Sequence[float],
    radii: Sequence[float] | Tensor,
    *,
    label_cost: float = math.inf,
    population: Population | None = None,
) -> tuple[AccuracyCurve, ...]:
    """Bounds on worst-case accuracy at every radius, one curve an order, all from the same per-sample distances.

    Args:
        distances: a certificate's `radii` (lower bound) or an attack's `distances` (upper bound).
        orders: Wasserstein orders, each >= 1 or inf.
        radii: budgets >= 0 in the inputs' units (0 = clean).
        label_cost: kappa, the cost of changing a label, added to the distance moved; inf: labels never move. Exact:
            the cheapest error that leaves x where it is changes the label, so `d_i` becomes `min(d_i, kappa)`.
        population: around the true law instead of the samples'; needs equal weights.

    Returns:
        One AccuracyCurve an order.

    Raises:
        InputError: for orders, radii, costs or weights that cannot be used.

    Reference: worst_case.md theorems 2 and 3; Massart 1990 for the constant.

    >>> from wassertight.certificates import accuracy_curves
    >>> proved = FlipDistances.certified(torch.tensor([0.1, 0.3, 0.0, 0.2], dtype=torch.float64))
    >>> for curve in accuracy_curves(proved, (1, float("inf")), [0.0, 0.05]):
    ...     print(curve.p, [round(float(value), 6) for value in curve.accuracy])
    1 [0.75, 0.375]
    inf [0.75, 0.75]
    """
    if not len(orders):
        raise InputError("no order given; orders are numbers >= 1 or inf, for example (1, 2, inf)")
    n = len(distances.values)
    moved = distances if math.isinf(label_cost) and label_cost > 0 else distances.relabelled(label_cost)
    margin = 0.0
    if population is not None:
        _check_equal(distances.weights)
        margin = population.margin(n)
    sign = -1 if distances.side == "certified" else 1
    grid = torch.as_tensor(radii, dtype=torch.float64, device=distances.values.device)
    if grid.ndim != 1 or not len(grid):
        raise InputError(f"radii must be a list of at least one number, got shape {tuple(grid.shape)}")
    return tuple(
        AccuracyCurve(
            p=p,
            radii=grid,
            accuracy=(moved.curve(p, grid) + sign * margin).clamp(0, 1),
            side=distances.side,
            label_cost=label_cost,
            margin=margin,
            confidence=1.0 if population is None else population.confidence,
            assumptions=curve_assumptions(distances.side, n, label_cost, population),
        )
        for p in orders
    )


def curve_assumptions(
    side: Literal["attacked", "certified"], n: int, label_cost: float, population: Population | None
) -> tuple[str, ...]:
    """The sentences that go with a curve; those of the certificate that made the radii come on top."""
    rests = (
        "no sample has a misclassified input closer than its proved radius"
        if side == "certified"
        else "every attack distance belongs to a point of the box that the model misclassifies"
    )
    labels = (
        "labels do not move"
        if math.isinf(label_cost)
        else f"labels may move: changing one costs {label_cost:g} on top of the distance moved"
    )
    law = (f"the ball is around the law of exactly these {n} samples",)
    return (rests, labels, *(law if population is None else population.assumptions(n)))


def _check_equal(weights: Tensor) -> None:
    n = len(weights)
    if not torch.allclose(weights, weights.new_full((n,), 1 / n), rtol=0, atol=1e-12):
        raise InputError(
            f"the bound around the true law needs equal weights 1/{n}, got weights from {float(weights.min()):.3g} to "
            f"{float(weights.max()):.3g}"
        )
