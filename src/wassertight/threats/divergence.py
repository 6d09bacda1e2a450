"""The re-weighting threat: all laws within an optimal-transport-regularised divergence of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.geometry import norm_name
from wassertight.threats.base import ThreatModel, check_ball
from wassertight.threats.pointwise import PointwiseBall
from wassertight.threats.wasserstein import WassersteinBall
from wassertight.transport import AlphaDivergence, FlipDistances, MoveCost, PowerCost, Renyi, SoftBall, worst_error
from wassertight.types import Bounds, ThreatError


def moves_alone(threat: ThreatModel) -> ThreatModel:
    """What searches at a fixed radius are given: the threat itself, or the moves a re-weighting threat allows alone."""
    return threat.contained if isinstance(threat, DivergenceBall) else threat


@dataclass(frozen=True, kw_only=True)
class Decomposition:
    """What each freedom does at the same radius: worst-case accuracies (or expected losses), reached or proved.

    Attributes:
        nominal: nothing changes.
        reweighting: weights change, nothing moves.
        transport: samples move, weights stay.
        joint: both, out of one budget.
    """

    nominal: float
    reweighting: float
    transport: float
    joint: float


@dataclass(frozen=True, kw_only=True)
class DivergenceBall:
    """Laws Q with `inf over eta of D(eta || P) + C(eta, Q) <= radius`: weights change, then samples move, labels fixed.

    One budget pays for both: re-weighting is priced by the divergence D, moving by the transport cost c. A law belongs to
    the ball if and only if there are weights w and moves with `D(w) + E[w c] <= radius`. The re-weighted law eta is
    absolutely continuous with respect to the data: samples can lose or gain mass, none appears where there is no sample.
    2309.03791, equation 3 there.

    Args:
        radius: the budget, in nats for KL, >= 0.
        divergence: `KL`, `AlphaDivergence(order=...)` or `Renyi(order=...)` (`wassertight.transport`).
        transport: `HardBall` (moves inside it are free), `PowerCost` or `SoftBall`.
        bounds: box of admissible inputs, or None for the whole space.

    >>> from wassertight.transport import KL, HardBall
    >>> DivergenceBall(radius=0.1, divergence=KL, transport=HardBall(reach=8 / 255, r=float("inf"))).name
    'KL+Linf@0.1,0.0314'
    """

    radius: float
    divergence: AlphaDivergence | Renyi
    transport: MoveCost
    bounds: Bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_ball(self.radius, self.p, self.r, self.bounds)
        if self.radius == 0 and isinstance(self.transport, PowerCost):
            raise ThreatError("a power cost needs a radius > 0: at radius 0 nothing may move")

    @property
    def p(self) -> float:
        """Order of the transport cost; inf for balls."""
        return self.transport.p

    @property
    def r(self) -> float:
        """Order of the ground norm."""
        return self.transport.r

    @property
    def name(self) -> str:
        """As users write it, numbers to three digits."""
        return self._written("{:.3g}")

    @property
    def text(self) -> str:
        """As users write it, every digit: `parse` gives the same ball back."""
        return self._written("{!r}")

    def _written(self, form: str) -> str:
        name, numbers = self.transport.text(self.radius)
        return f"{self.divergence.name}+{name}@" + ",".join(form.format(value) for value in (self.radius, *numbers))

    @property
    def contained(self) -> PointwiseBall | WassersteinBall:
        """The ball of laws reached by moves alone that this one contains; what searches at a fixed radius are given."""
        cost = self.transport
        if isinstance(cost, PowerCost):
            radius = (self.radius / cost.price) ** (1 / cost.p)
            return WassersteinBall(radius=radius, p=cost.p, r=cost.r, bounds=self.bounds)
        return PointwiseBall(radius=cost.reach, r=cost.r, bounds=self.bounds)

    def cost(self, z: Tensor, x: Tensor) -> Float[Tensor, " n"]:
        """Transport price of every moved point, float64; inf beyond a hard ball."""
        return self.transport.cost(z, x)

    def flip_costs(self, known: FlipDistances, points: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """Price of every sample's flip, (n,): of the points found for an attack's distances, a lower bound for proved radii.

        Args:
            known: flip distances of one side.
            points, x: misclassified points and samples; needed for an attack under a soft ball.
        """
        if known.side == "certified":
            return self.transport.least(known.values, closed=known.closed)
        found = torch.isfinite(known.values)
        if points is None or x is None:
            if isinstance(self.transport, SoftBall):
                raise ThreatError("a soft ball prices points, not distances: give the points found and the samples")
            price = self.transport.least(known.values)
        else:
            price = self.transport.cost(points, x)
        return torch.where(known.values == 0, 0.0, torch.where(found, price, math.inf))

    def decompose(self, known: FlipDistances, costs: Tensor) -> Decomposition:
        """Worst-case accuracies with either freedom alone and with both, from flip costs (n,) of one side.

        An attack's are reached (up to rounding), proved ones are lower bounds.
        """
        proved, mass = known.side == "certified", known.weights
        wrong = known.values == 0
        still = torch.where(wrong, 0.0, math.inf)

        def accuracy(prices: Tensor) -> float:
            found = worst_error(prices, self.radius, self.divergence, mass)
            return min(1.0, max(0.0, 1 - (found.bound if proved else found.value)))

        return Decomposition(
            nominal=1 - float(mass[wrong].sum()),
            reweighting=accuracy(still),
            transport=FlipDistances.attacked(costs, mass).accuracy(1, self.radius),
            joint=accuracy(costs),
        )

    def steepest(self, g: Tensor, weights: Tensor | None = None) -> Tensor:
        """Refused: moves and weights are coupled."""
        raise self._lacks("steepest direction")

    def project(self, z: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Refused: which moves are allowed depends on the weights."""
        raise self._lacks("projection")

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A random point of the moves that need no re-weighting."""
        return self.contained.sample(x, generator)

    def linear_oracle(self, g: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Refused, as `steepest`."""
        raise self._lacks("linear oracle")

    def with_radius(self, radius: float) -> DivergenceBall:
        """The same prices, another budget."""
        return replace(self, radius=radius)

    def _lacks(self, oracle: str) -> ThreatError:
        norm = norm_name(self.r)
        return ThreatError(
            f"{self.name} has no {oracle}; use 'wda++', 'min-norm' or 'armor', which search points and weights apart "
            f"(or this attack on the contained ball, {self.contained.name}; ground norm {norm})"
        )
