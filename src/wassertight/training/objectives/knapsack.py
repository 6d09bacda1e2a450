"""The knapsack dual (ours): training on the exact worst-case W_p accuracy's dual, with differentiable distances.

For the 0-1 loss, `1 - A(radius) = min over u > 0 of (radius / u)^p + E (1 - (d / u)^p)_+`, d the distance to the nearest
flip (0 if wrong already). Hopeless and safe samples have no gradient; u is found by one sort, not learned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from wassertight.attacks.incumbent import Incumbent, pull_back
from wassertight.attacks.minimum_norm.descent import polish, restart
from wassertight.geometry import conjugate, norm
from wassertight.losses import best_other, cross_entropy, margin
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel
from wassertight.training.base import Context, Crafted, Metrics, Objective, Outer, check_settings, crafting
from wassertight.training.objectives.standard import Standard
from wassertight.transport import FlipDistances
from wassertight.types import Bounds, InputError, ThreatError

_REACH = 1.25
"""The search goes this much further than the cut radius, and further still while budget is left over."""
_FAR = 10.0
"""The search never goes further than so many radii: where the budget buys more, distances are not what is wrong."""
_QUEUE = 50
_TOUCH = 1e-6
"""Coordinates this close to a wall, relative to the box, touch it."""


@dataclass(kw_only=True, eq=False)
class _Joined(Crafted):
    """Boundary points, and what the base crafted."""

    inner: Crafted


@dataclass(frozen=True, kw_only=True)
class Knapsack(Objective):
    """`min E base(x) + beta { (radius / u)^p + E psi }`, `psi = (1 - (d / u)^p)_+` if correct, 1 if wrong.

    The base is CE(x), or another objective against the pointwise ball of the same radius ("knapsack-trades"), which keeps
    the samples that the dual has given up or calls safe. d is differentiated by the envelope theorem: its gradient is
    `eta` times that of the margin at the boundary point.

    Args:
        threat: a W_p ball with finite p.
        base: any objective; standard training, CE(x), unless given.
        beta: weight of the dual (4 proposed).
        warmup: epochs over which that weight rises from 0; the first goes without. A network that still answers most
            samples wrongly gains more from learning than from distances (2 to 3 on CIFAR-10, 0 on MNIST).
        steps: of the search, a pass each; 0 with estimator "first_order".
        halvings: bisections towards the boundary, a forward pass each; one projection onto it follows.
        estimator: "search", or "first_order": `margin / ||its gradient||_s` at x, one pass.
        boundary: "margin" (the envelope gradient) or "ce": cross-entropy at the boundary point with the same weights.
        wrong: "separate" as above, or "ce": no separate clean term, CE(x) / log 2 for wrong samples; an upper bound of
            the worst-case error for exact or certified d, an estimate for attacked ones.
        weight_order: the p of the weights only; None is the threat's. 1 also pulls at samples close to the boundary.
        floor: gradient norms below this quantile of the batch count as that quantile.
        heaviest: no weight exceeds this many times the mean of the active ones.

    The cut radius u is the knapsack threshold of the last 50 batches' distances. Any u > 0 keeps the bound.
    """

    name: ClassVar[str] = "knapsack"

    threat: ThreatModel
    base: Objective = field(default_factory=Standard)
    beta: float = 4.0
    warmup: int = 0
    steps: int = 10
    halvings: int = 6
    estimator: Literal["search", "first_order"] = "search"
    boundary: Literal["margin", "ce"] = "margin"
    wrong: Literal["separate", "ce"] = "separate"
    weight_order: float | None = None
    floor: float = 0.05
    heaviest: float = 10.0

    def __post_init__(self) -> None:
        if math.isinf(self.threat.p):
            raise ThreatError(
                f"the knapsack dual has no gradient at p = inf; got {self.threat.name}. Use W1- or W2-L<r>@<radius>, "
                "or train with 'trades' against the pointwise threat"
            )
        if self.threat.r not in (1, 2, math.inf):
            raise ThreatError(f"the knapsack dual takes the ground norms L1, L2 and Linf; got {self.threat.name}")
        check_settings(
            self.name,
            at_least_zero={"beta": self.beta, "warmup": self.warmup, "floor": self.floor, "halvings": self.halvings},
            positive={"steps": self.steps, "heaviest": self.heaviest, "weight_order": self.weight_order or 1.0},
        )
        for value, allowed in (
            (self.estimator, ("search", "first_order")),
            (self.boundary, ("margin", "ce")),
            (self.wrong, ("separate", "ce")),
        ):
            if value not in allowed:
                raise InputError(f"objective 'knapsack' takes {' or '.join(allowed)}, got {value!r}")
        if self.wrong == "ce" and (not isinstance(self.base, Standard) or self.warmup > 0):
            raise InputError("wrong='ce' is the bound without another term: it cannot have a base or a warmup")

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> None:
        """The base's."""
        self.base.prepare(model, x, y, context)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> Crafted:
        """Boundary points, distances, the class met, and the weight of every sample's margin there; the base's points."""
        z, notes = self._bound(model, x, y, context)
        return _Joined(x=x, y=y, z=z, notes=notes, inner=self.base.craft(model, x, y, context))

    def _bound(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        u = context.number("cut", 2 * self.threat.radius)
        with crafting(model, context):
            queries = ModelQueries(model, batch_size=len(x))
            height = margin(queries.logits(x), y)
            right = height < 0
            z, d = x, torch.where(right, torch.inf, 0.0).to(torch.float64)
            if self.threat.radius == 0 or self._strength(context) == 0:
                return x, {"distance": d, "other": y, "weight": torch.zeros_like(d)}
            if self.estimator == "search":
                z, d = self._search(queries, x, y, height, context.number("reach", _REACH * u), context)
            logits, height, g = queries.gradient(z, y, margin)
        other = best_other(logits, y)[1]
        eta = envelope(g, z, x, self.threat.r, self.threat.bounds).double()
        near = torch.isfinite(d) & (d > 0) if self.estimator == "search" else right
        eta = self._floored(eta, near)
        start = d if self.estimator == "search" else torch.zeros_like(d)
        # One Newton step removes what the bisection left; it is exact where the boundary is flat.
        d = torch.where(near, (start - eta * height.double()).clamp_min(0), d)
        weight = torch.where(near & (d < u), self._weights(eta, d, u), 0.0)
        active = weight > 0
        if bool(active.any()):
            weight = weight.clamp_max(self.heaviest * float(weight[active].mean()))
        return z, {"distance": d, "other": other, "weight": weight}

    def outer(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """The base's loss and the dual, whose gradient is that of weighted margins at the boundary."""
        u, p = context.number("cut", 2 * self.threat.radius), self.threat.p
        d, weight = crafted.notes["distance"], crafted.notes["weight"]
        assert isinstance(crafted, _Joined)
        inner = self.base.outer(model, crafted.inner, context)
        plain, clean, moved = inner.each, inner.clean, inner.moved
        psi = tail(d, u, p).to(plain)
        if bool((weight > 0).any()):
            met = model(crafted.z)
            moved = met if moved is None else moved
            if self.boundary == "ce":
                rise = cross_entropy(met, crafted.y)
            else:
                pair = torch.stack((crafted.y, crafted.notes["other"]), 1)
                rise = met.gather(1, pair[:, 1:]).squeeze(1) - met.gather(1, pair[:, :1]).squeeze(1)
            psi = psi + weight.to(plain) * (rise - rise.detach())
        dual = psi + ((self.threat.radius / u) ** p if u > 0 else 0.0)
        if self.wrong == "ce":
            dual = torch.where(d > 0, dual, dual - 1 + plain / math.log(2))
            return Outer.mean(dual, clean=clean, moved=moved)
        return Outer.mean(plain + self._strength(context) * dual, clean=clean, moved=moved)

    def _strength(self, context: Context) -> float:
        return self.beta if self.warmup == 0 else self.beta * min(1.0, context.epoch / self.warmup)

    def update(self, crafted: Crafted, outer: Outer, context: Context) -> Metrics:
        """The queue, and its knapsack threshold as the next cut radius; the base's own step."""
        assert isinstance(crafted, _Joined)
        metrics = self.base.update(crafted.inner, outer, context)
        radius, p = self.threat.radius, self.threat.p
        u, d = context.number("cut", 2 * radius), context.gather(crafted.notes["distance"]).cpu()
        if radius == 0 or self._strength(context) == 0:
            return {"worst-case error": (d == 0).double().mean(), **metrics}
        queue = torch.cat((context.state.get("queue", d[:0]), d))
        context.put("queue", queue[-min(context.samples or _QUEUE * len(d), _QUEUE * len(d)) :])
        reach = context.number("reach", _REACH * u)
        threshold = FlipDistances.attacked(context.state["queue"]).allocate(p, radius).threshold
        cut = threshold if math.isfinite(threshold) else min(reach, _FAR * radius)
        context.put("cut", cut)
        context.put("reach", _REACH * cut)
        active = context.gather((crafted.notes["weight"] > 0).double()).mean()
        return {
            "worst-case error": (radius / u) ** p + tail(d, u, p).mean(),
            "cut radius": u,
            "share active": active,
            "spent": torch.where(d < u, d**p, 0.0).mean() ** (1 / p),
            **metrics,
        }

    def _search(
        self, queries: ModelQueries, x: Tensor, y: Tensor, height: Tensor, reach: float, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Nearest flips within the reach: margin ascent inside a ball that shrinks on success, then bisection."""
        rows = (height < 0).nonzero().squeeze(1)
        points, d = x.clone(), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if len(rows) == 0:
            return points, d
        incumbent = Incumbent(x[rows], y[rows], self.threat.r, height[rows])
        incumbent.distance.fill_(reach)
        everyone = torch.arange(len(rows), device=x.device)
        restart(queries, incumbent, self.threat, self.steps, everyone, context.generator, None)
        incumbent.distance[incumbent.distance >= reach] = torch.inf
        pull_back(queries, incumbent, self.halvings)
        polish(queries, incumbent, self.threat, 1)
        points[rows] = incumbent.points
        d[rows] = incumbent.distance.double()
        return points, d

    def _floored(self, eta: Tensor, near: Tensor) -> Tensor:
        if self.floor == 0 or not bool(near.any()):
            return eta
        return eta.clamp_max(float(torch.quantile(eta[near], 1 - self.floor)))

    def _weights(self, eta: Tensor, d: Tensor, u: float) -> Tensor:
        """`eta p d^(p-1) / u^p`: the derivative of psi in the margin."""
        order = self.threat.p if self.weight_order is None else self.weight_order
        weight: Tensor = eta * order * torch.where(torch.isfinite(d), d, 0.0) ** (order - 1) / u**order
        return weight


def tail(d: Tensor, u: float, p: float) -> Tensor:
    """`(1 - (d / u)^p)_+`, the mass a sample loses at cut radius u; 1 where d = 0.

    >>> tail(torch.tensor([0.0, 1.0, 3.0]), 2.0, 2.0).tolist()
    [1.0, 0.75, 0.0]
    """
    if u == 0:
        return (d == 0).to(d.dtype)
    return (1 - (d / u) ** p).clamp_min(0)


def envelope(g: Tensor, z: Tensor, x: Tensor, r: float, bounds: Bounds) -> Tensor:
    """`eta` with `gradient of the distance = eta * gradient of the margin at z`, for the margin's gradient g in z.

    Coordinates that a wall of the box stops do not count: r = inf `1 / sum |g|`, r = 2 `||d|| / (||all d|| ||g||)`, r = 1
    `1 / max |g|`, over the free coordinates. Without walls all are `1 / ||g||_s`. `margin` points from x to z.
    """
    free = torch.ones_like(g)
    if bounds is not None:
        touch = _TOUCH * (bounds[1] - bounds[0])
        stopped = ((z <= bounds[0] + touch) & (g < 0)) | ((z >= bounds[1] - touch) & (g > 0))
        free = (~stopped).to(g.dtype)
    size = norm(g * free, conjugate(r)).clamp_min(torch.finfo(g.dtype).tiny)
    if r != 2 or bounds is None:
        return 1 / size
    whole = norm(z - x, 2.0)
    share = torch.where(whole > 0, norm((z - x) * free, 2.0) / whole.clamp_min(torch.finfo(g.dtype).tiny), 1.0)
    return share / size
