"""Certificates of the worst-case expected loss over a W_p ball: what no law in it can exceed.

Problem: an upper bound of `sup {E_Q[loss(z, y)] : W_p(Q, P_n) <= radius}`, P_n the law of the samples, labels fixed.

Every rule below is proved; the smallest is the certificate. `L_y` is a Lipschitz constant of the loss for label y.
1. "growth": bounds of every sample's growth function (`growth`), from logit differences and slopes proved on nested
   balls, through the one-dimensional dual. For every p, on boxes and, with a slope for the whole space, without.
2. "Lipschitz, Jacobian": `E_n + radius (sum w_i L_{y_i}^q)^(1/q)`, 1/p + 1/q = 1, L by bounds of the Jacobian on the
   whole box (2510.10000's upper bound, for every p).
3. "Lipschitz, product": the same with the product of the layers' norms.

Cross-entropy and margin loss; the ratio loss DLR is not Lipschitz and is refused. Differs from the paper: 1. bounds are
for the margin loss, not for "DLR"; 2. nothing is called exact on a box; 3. there is no lower slope: what an attack
reaches is the lower end (`attacks.ExpectedLoss`), and `lipschitz.constants` has the slope at infinity for p = 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from wassertight.certificates.base import check_ball_of_norm
from wassertight.certificates.growth import GrowthBound
from wassertight.certificates.lipschitz.norms import product_bounds
from wassertight.certificates.lipschitz.steps import LOSSES, logit_differences, loss_slopes
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.memory import fitting_batch
from wassertight.certificates.propagation.reading import read_graph
from wassertight.certificates.propagation.region import covering_radius
from wassertight.certificates.reweighting import reweighted_loss
from wassertight.geometry import conjugate
from wassertight.inputs import check_inputs, check_weights
from wassertight.losses import loss_name
from wassertight.queries import ModelQueries
from wassertight.threats import DivergenceBall, ThreatModel, WassersteinBall, moves_alone
from wassertight.transport import SoftBall
from wassertight.types import InputError, Model, Progress

_BATCH = 32
"""Samples whose growth is bounded at once."""
_SMALL = 512
_BELOW, _ABOVE = 8.0, 2.0
"""The grid of radii runs from the threat's radius divided by this to the whole box, in ratios of at most this."""


@dataclass(frozen=True, kw_only=True)
class LossCertificate:
    """A proved upper bound of the worst-case expected loss.

    Attributes:
        loss, threat: what is bounded.
        clean: expected loss on the samples.
        value: the smallest of `rules`; inf where nothing could be proved.
        rules: every rule's bound, by name.
        multiplier: lambda of the growth rule, the price of a unit of radius**p.
        growth: bounds of the growth functions, good for every p and radius.
        assumptions: what the proof takes for granted.
        weights: mass of every sample (n,), 1 / n each where None.
        seconds: wall time.
    """

    loss: str
    threat: ThreatModel
    clean: float
    value: float
    rules: Mapping[str, float]
    multiplier: float
    growth: GrowthBound = field(repr=False)
    assumptions: tuple[str, ...] = field(repr=False)
    weights: Tensor | None = field(default=None, repr=False)
    seconds: float = 0.0

    def curve(self, p: float, radii: list[float]) -> list[float]:
        """Growth rule at other radii and orders of the same ground norm."""
        return [self.growth.worst(p, float(radius), self.weights)[0] for radius in radii]


@dataclass(frozen=True, kw_only=True)
class LossBound:
    """Certificate of the worst-case expected loss.

    Args:
        loss: "cross-entropy" ("ce") or "margin".
        grid: radii at which growth functions are bounded, at most.
        slopes: how the Jacobian is bounded on every ball: "linear" (tightest, slow on convolutions), "interval", "none",
            or "auto": linear for at most 512 hidden units, else interval.

    >>> from wassertight.threats import WassersteinBall
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.zeros(2)})
    >>> x, y = torch.tensor([[0.2, 0.0], [0.4, 0.0]]), torch.tensor([0, 0])
    >>> ball = WassersteinBall(radius=0.1, p=1, r=2, bounds=(-1.0, 1.0))
    >>> round(LossBound(loss="margin")(model, x, y, ball).value, 3)
    -0.4
    """

    loss: str = "cross-entropy"
    grid: int = 14
    slopes: str = "auto"

    def __post_init__(self) -> None:
        if loss_name(self.loss) not in LOSSES:
            why = "; the ratio DLR is not Lipschitz, use 'margin'" if "dlr" in self.loss.lower() else ""
            raise InputError(f"losses are certified for {', '.join(LOSSES)}, got {self.loss!r}{why}")
        if self.slopes not in ("auto", "linear", "interval", "none"):
            raise InputError(f"slopes must be auto, linear, interval or none, got {self.slopes!r}")
        if self.grid < 1:
            raise InputError(f"grid must be at least 1, got {self.grid}")

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        batch_size: int | None = None,
        weights: Tensor | None = None,
        progress: Progress | None = None,
    ) -> LossCertificate:
        """Certify the expected loss under the empirical law of exactly these samples; arguments as for certificates.

        Raises:
            UnsupportedLayerError: the model has an operation that cannot be bounded; it is named.
        """
        begun, asked = time.perf_counter(), threat
        check_ball_of_norm("loss-bound", threat)
        threat = _moves(threat)
        x, y = check_inputs(x, y, threat.bounds)
        mass = check_weights(weights, len(x)).to(x.device)
        loss, r, p, radius = loss_name(self.loss), threat.r, threat.p, threat.radius
        with ModelQueries(model, batch_size=batch_size) as queries, torch.no_grad():
            queries.clean_logits(x[:1], y)
            graph = read_graph(model, x[:2], dtype=torch.float64, device=x.device)
        x = x.double()
        product = product_bounds(graph, r).to(x.device)[y].amax(1)
        size = min(batch_size or _BATCH, _BATCH, fitting_batch(graph, torch.float64, x.device))
        parts = []
        for begin in range(0, len(x), size):
            rows = slice(begin, begin + size)
            parts.append(self._grow(graph, x[rows], y[rows], threat, product[rows]))
            if progress is not None:
                progress(min(begin + size, len(x)), len(x))
        growth = GrowthBound(
            **{name: torch.cat([vars(part)[name] for part in parts]) for name in ("radii", "values", "slopes", "tail")}
        )
        clean = float((mass * growth.values[:, 0]).sum())
        if isinstance(asked, DivergenceBall):
            value, multiplier = reweighted_loss(growth, asked, mass)
            return LossCertificate(
                loss=loss, threat=asked, clean=clean, value=value, rules=MappingProxyType({"growth": value}),
                multiplier=multiplier, growth=growth, assumptions=(*_ASSUMPTIONS, _CONTINUOUS),
                weights=mass, seconds=time.perf_counter() - begun,
            )  # fmt: skip
        value, multiplier = growth.worst(p, radius, mass)
        rules = {"growth": value}
        if threat.bounds is not None and self.slopes != "none" and radius > 0:
            rules["Lipschitz, Jacobian"] = _lipschitz(clean, growth.slopes[:, -1], p, radius, mass)
        rules["Lipschitz, product"] = _lipschitz(clean, product, p, radius, mass)
        return LossCertificate(
            loss=loss, threat=threat, clean=clean, value=min(rules.values()), rules=MappingProxyType(rules),
            multiplier=multiplier, growth=growth, assumptions=_ASSUMPTIONS, weights=mass,
            seconds=time.perf_counter() - begun,
        )  # fmt: skip

    def _grow(self, graph: Graph, x: Tensor, y: Tensor, threat: ThreatModel, product: Tensor) -> GrowthBound:
        """Bounds of growth on nested balls."""
        r, bounds, loss = threat.r, threat.bounds, loss_name(self.loss)
        radii = self.radii(x, threat)
        logits = graph.logits(x)
        values = [loss_bound(logits - logits.gather(1, y[:, None]), y, loss)]
        with torch.no_grad():
            differences = [logit_differences(graph, x, y, t, r, bounds) for t in radii.T[1:]]
            values += [loss_bound(high, y, loss) for _, high in differences]
            if self.slopes != "none" and radii.shape[1] > 1:
                method = ("linear" if graph.units <= _SMALL else "interval") if self.slopes == "auto" else self.slopes
                slopes = loss_slopes(
                    graph, x, y, radii.T[1:], r, bounds, loss=loss, differences=differences, method=method
                ).T
            else:
                slopes = torch.full_like(radii[:, 1:], math.inf)
        slopes = torch.minimum(slopes, product[:, None])
        # beyond the last ball there is nothing only if it covers the box: not so for p = inf or radius 0
        tail = torch.where(radii[:, -1] >= covering_radius(x, r, bounds), 0.0, product)
        # what holds on a larger ball holds on a smaller one
        value = torch.stack(values, 1)
        value[:, 1:] = value[:, 1:].flip(1).cummin(1).values.flip(1)
        return GrowthBound(radii=radii, values=value, slopes=slopes, tail=tail)

    def radii(self, x: Tensor, threat: ThreatModel) -> Tensor:
        """The grid (n, m + 1): 0, a geometric sequence, and what covers the box."""
        cover = covering_radius(x, threat.r, threat.bounds)
        if threat.radius == 0:
            return torch.zeros(len(x), 1, dtype=torch.float64, device=x.device)
        if math.isinf(threat.p):
            # one radius matters; smaller ones make the way there cheaper
            ends = threat.radius * torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64, device=x.device)
            return torch.cat((ends.new_zeros(len(x), 1), torch.minimum(ends.expand(len(x), -1), cover[:, None])), 1)
        # part of a sample's mass may go as far as the box allows, whatever the radius
        top = float(cover.max()) if threat.bounds is not None else threat.radius * len(x) ** (1 / threat.p)
        first = min(threat.radius / _BELOW, top)
        count = max(1, min(self.grid, 1 + math.ceil(math.log(max(top / first, 1.0)) / math.log(_ABOVE))))
        ends = first * (top / first) ** torch.linspace(0, 1, count, dtype=torch.float64, device=x.device)
        ends[-1] = top  # beyond the last ball of a box there is nothing, so it must cover the box
        radii = torch.minimum(ends.expand(len(x), -1), cover[:, None])
        return torch.cat((radii.new_zeros(len(x), 1), radii), 1)


def _moves(threat: ThreatModel) -> ThreatModel:
    """The ball whose grid of radii serves the threat; for a soft ball one that reaches over the whole box."""
    if isinstance(threat, DivergenceBall) and isinstance(threat.transport, SoftBall):
        size = max(threat.transport.reach, math.sqrt(2 * threat.transport.tau * threat.radius))
        return WassersteinBall(radius=size, p=2, r=threat.r, bounds=threat.bounds)
    return moves_alone(threat)


def loss_bound(differences: Tensor, y: Tensor, loss: str) -> Tensor:
    """Losses (n,) from upper bounds (n, classes) of the logit differences `f_j - f_y`.

    >>> round(float(loss_bound(torch.tensor([[0.0, 0.0]]), torch.tensor([0]), "cross-entropy")), 6)
    0.693147
    """
    own = torch.zeros_like(differences, dtype=torch.bool).scatter(1, y[:, None], True)
    if loss == "margin":
        return differences.masked_fill(own, -math.inf).amax(1)
    return torch.logsumexp(differences.masked_fill(own, 0.0), 1)


def _lipschitz(clean: float, slopes: Tensor, p: float, radius: float, mass: Tensor) -> float:
    """`E_n + radius (sum w L^q)^(1/q)`."""
    if radius == 0:
        return clean + 1e-9 * abs(clean)
    q = conjugate(p)
    if math.isinf(q):
        size = float(slopes[mass > 0].max())
    else:
        top = float(slopes.max())
        size = top * float((mass * (slopes / top) ** q).sum()) ** (1 / q) if 0 < top < math.inf else top
    return clean + radius * size * (1 + 1e-9) + 1e-9 * abs(clean)


_ASSUMPTIONS = (
    "labels do not move; the network is the deterministic eval-mode network that was read and checked on data",
    "bounds in float64 for the network in exact arithmetic, moved outward by 1e-9 relatively; rounding of a float32 "
    "model changes a loss by about 1e-6 of its logits and is not covered",
)

_CONTINUOUS = "the re-weighted law has no mass where the data has none"
