"""Frank-Wolfe against smoothed classifiers, whose answer is the most frequent one under noise: averaged gradients.

Problem, for every image: `min over z of P(argmax f(z + noise) = y) subject to W_p(x, z) <= radius, 0 <= z <= cap`.

Ascends `-ln of the mean of softmax(f(z + noise))_y` over fresh draws (1910.10783 section 5, there 128 draws a step and no
averaging: `draws=128, averaged=False`); its direction is that of `-sum of softmax_y`, because gradients are scaled anyway.
Successive gradients are averaged, `gbar <- (1 - w) gbar + w g`, `w = 4 / (t + 8)**(2/3)` (stochastic Frank-Wolfe,
1804.09554). Noise is never clipped and is taken as added: no gradient flows through its law. The best iterate and the last
one are compared by votes; a flip is drawn back along the segment to its image as long as votes confirm it; the verdict
comes from fresh votes.

Differs from the paper's code: 1. abstentions are no flips; 2. every point is a member of the set; 3. its distance is exact.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import binom
from torch import Tensor

from wassertight.attacks.image.climbing import image_threat
from wassertight.attacks.image.frank_wolfe import PlanWalk
from wassertight.geometry.norms import per_sample
from wassertight.inputs import check_inputs
from wassertight.queries import ModelQueries
from wassertight.threats import ImageWasserstein, ThreatModel
from wassertight.transport import FlipDistances
from wassertight.types import AuditError, InputError, Model, Passes, Progress

_CLOSE = 1.05
"""A flip nearer than so many times the largest radius without a flip is near enough."""
_ROUNDED = 1e-6
"""What rounding of float32 pixels may add to a distance."""
_ROWS = 4096
"""Noisy images held at once."""


@runtime_checkable
class AddedNoise(Protocol):
    """A law of noisy copies: images (n, c, h, w) to independent draws (draws, n, c, h, w)."""

    def __call__(self, x: Tensor, draws: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Fresh draws for every image."""


@dataclass(frozen=True, kw_only=True)
class SmoothedResult:
    """What the adversary makes of a smoothed classifier.

    Attributes:
        threat: the threat attacked.
        clean, verdict: per image, before and after: 1 answered correctly, -1 wrongly, 0 abstained, (n,).
        correct, wrong, abstained: shares of the verdicts.
        points: the moved images (x where the smoothed classifier was not correct to begin with).
        distances: their exact W_p, (n,), float64.
        votes: fresh votes of every class, (n, classes).
        passes, seconds: what it cost.
    """

    threat: ThreatModel
    clean: Int[Tensor, " n"]
    verdict: Int[Tensor, " n"]
    points: Tensor = field(repr=False)
    distances: Float[Tensor, " n"] = field(repr=False)
    votes: Int[Tensor, "n classes"] = field(repr=False)
    passes: Passes
    seconds: float

    @property
    def flips(self) -> FlipDistances:
        """Distances of the confirmed flips: inf where there is none, 0 where the clean answer is not correct."""
        found = torch.where(self.verdict == -1, self.distances, torch.inf)
        return FlipDistances.attacked(torch.where(self.clean == 1, found, 0.0))

    @property
    def correct(self) -> float:
        return float((self.verdict == 1).double().mean())

    @property
    def wrong(self) -> float:
        return float((self.verdict == -1).double().mean())

    @property
    def abstained(self) -> float:
        return float((self.verdict == 0).double().mean())


@dataclass(frozen=True, kw_only=True)
class SmoothedFrankWolfe:
    """Attack on a smoothed classifier; `model` in the call is the base classifier.

    Args:
        noise: the smoothing noise, for example `wassertight.transport.flow_noise.GaussianFlow(sigma=0.01)`.
        steps: iterations, `draws` forward and backward passes each.
        draws: noisy copies a step.
        averaged: average gradients over steps.
        rounds: 0: attack at the threat's radius. k: k times, whatever the threat's radius: at first, 2 first, 4 first, ...
            until an image flips, then in the middle of its bracket; the distances serve every radius and average budget.
        first: the first radius of these.
        halvings: of the segment from a flip to its image (p = 1), each decided by `screen` votes.
        screen: votes that choose between the best and the last iterate.
        confirm: fresh votes behind each verdict.
        alpha: error probability of a verdict: two-sided binomial test of the first class against the second (1902.02918).
    """

    name: ClassVar[str] = "smoothed-frank-wolfe"
    separable: ClassVar[bool] = True

    noise: AddedNoise
    steps: int = 40
    draws: int = 32
    averaged: bool = True
    rounds: int = 0
    first: float = 0.1
    halvings: int = 5
    screen: int = 1000
    confirm: int = 10_000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        if min(self.steps, self.draws, self.screen, self.confirm) < 1 or not 0 < self.alpha < 1:
            raise InputError(
                "steps, draws, screen and confirm must be >= 1 and alpha in (0, 1); got "
                f"{self.steps}, {self.draws}, {self.screen}, {self.confirm}, {self.alpha}"
            )
        if min(self.rounds, self.halvings) < 0 or not self.first > 0:
            raise InputError(
                f"rounds and halvings must be >= 0 and first > 0; got {self.rounds}, {self.halvings}, {self.first}"
            )

    @property
    def uses_radius(self) -> bool:
        """Whether the threat's radius matters; see `rounds`."""
        return self.rounds == 0

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        batch_size: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> SmoothedResult:
        """Attack the images the smoothed classifier answers correctly; arguments as for every attack.

        Raises:
            AuditError: a point outside the ball; that is a defect of this method.
        """
        begun = time.perf_counter()
        ball = image_threat(threat, x)
        x, y = check_inputs(x, y, ball.bounds)
        far, near, reach = x.clone(), x.clone(), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        generator = torch.Generator(device=x.device).manual_seed(seed)
        with ModelQueries(model, batch_size=batch_size) as queries:
            clean = self._judge(self._vote(queries, x, self.confirm, generator), y)
            able = ((clean == 1) & (x.flatten(1).sum(1) > 0)).nonzero().squeeze(1)
            for rows in torch.split(able, max(1, _ROWS // self.draws)):
                if self.rounds or ball.radius > 0:
                    far[rows], near[rows], reach[rows] = self._search(queries, x[rows], y[rows], ball, generator)
                if progress is not None and len(rows):
                    progress(int(rows[-1]) + 1, len(x))
            votes = self._vote(queries, near, self.confirm, generator)
            lost = ((self._judge(votes, y) != -1) & (near != far).flatten(1).any(1)).nonzero().squeeze(1)
            if len(lost):
                near[lost], votes[lost] = far[lost], self._vote(queries, far[lost], self.confirm, generator)
            passes = queries.passes
        distances = ball.cost(near, x)
        if not bool((distances <= reach * (1 + 1e-6) + _ROUNDED).all()):
            raise AuditError(f"{self.name} left {ball.name}: a point is {float(distances.max()):.9g} away")
        verdict = torch.where(clean == 1, self._judge(votes, y), clean)
        return SmoothedResult(
            threat=threat, clean=clean, verdict=verdict, points=near, distances=distances, votes=votes,
            passes=passes, seconds=time.perf_counter() - begun,
        )  # fmt: skip

    def _search(
        self, queries: ModelQueries, x: Tensor, y: Tensor, ball: ImageWasserstein, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Float[Tensor, " m"]]:
        """Flips as the walks found them and drawn back, the nearest of every image (last walks where none flips), and
        the radii they keep."""
        far, near = x.clone(), x.clone()
        low = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        nearest, reach = torch.full_like(low, torch.inf), torch.zeros_like(low)
        for index in range(self.rounds or 1):
            given = self.first * 2.0**index if self.rounds else ball.radius
            radius = torch.where(torch.isfinite(nearest), (low + nearest.nan_to_num(posinf=0)) / 2, given)
            rows = (nearest > _CLOSE * low).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            z, flipped = self._climb(queries, PlanWalk(x[rows], ball, radius[rows]), y[rows], generator)
            back = z.clone()
            if bool(flipped.any()):
                back[flipped] = self._drawn_back(
                    queries, x[rows][flipped], z[flipped], y[rows][flipped], ball.p, generator
                )
            distance = torch.where(flipped, ball.cost(back, x[rows]), torch.inf)
            low[rows] = torch.where(flipped, low[rows], torch.maximum(low[rows], radius[rows]))
            better = (distance < nearest[rows]) | (~flipped & torch.isinf(nearest[rows]))
            some = rows[better]
            far[some], near[some], reach[some] = z[better], back[better], radius[some]
            nearest[some] = distance[better]
        return far, near, reach

    def _climb(
        self, queries: ModelQueries, walk: PlanWalk, y: Tensor, generator: torch.Generator
    ) -> tuple[Float[Tensor, "m c h w"], Bool[Tensor, " m"]]:
        """The iterate with the fewest votes for y, of the best and the last, and whether its votes show a flip."""
        best, lowest = walk.point(), torch.full((len(y),), torch.inf, device=y.device)
        average = torch.zeros_like(best)
        for step in range(self.steps):
            z = walk.point()
            noisy = self.noise(z, self.draws, generator).flatten(0, 1)
            logits, _, g = queries.gradient(noisy, y.repeat(self.draws), _doubt)
            share = logits.softmax(1).view(self.draws, len(z), -1).mean(0)
            height = 2 * share.gather(1, y[:, None]).squeeze(1) - share.topk(2, dim=1).values.sum(1)
            better = height < lowest
            best = torch.where(better[:, None, None, None], z, best)
            lowest = torch.where(better, height, lowest)
            direction = _unit(g.view(self.draws, *z.shape).sum(0))
            weight = min(1.0, 4 / (step + 8) ** (2 / 3)) if self.averaged else 1.0
            average = (1 - weight) * average + weight * direction
            walk.step(_unit(average))
        last = walk.point()
        first, second = (self._vote(queries, z, self.screen, generator) for z in (best, last))
        keep = first.gather(1, y[:, None]) <= second.gather(1, y[:, None])
        flipped = self._judge(torch.where(keep, first, second), y) == -1
        return torch.where(keep[:, :, None, None], best, last), flipped

    def _drawn_back(
        self, queries: ModelQueries, x: Tensor, z: Tensor, y: Tensor, p: float, generator: torch.Generator
    ) -> Float[Tensor, "m c h w"]:
        """The nearest points of the segments from x to flips z that votes still show to be flips."""
        low, high = x.new_zeros(len(x)), x.new_ones(len(x))
        for _ in range(self.halvings if p == 1 else 0):
            middle = (low + high) / 2
            votes = self._vote(queries, x + per_sample(middle, x) * (z - x), self.screen, generator)
            wrong = self._judge(votes, y) == -1
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
        return torch.where(per_sample(high, x) < 1, x + per_sample(high, x) * (z - x), z)

    def _vote(
        self, queries: ModelQueries, x: Tensor, draws: int, generator: torch.Generator
    ) -> Int[Tensor, "n classes"]:
        """How often each class is the answer on fresh noisy copies; a NaN votes for nothing."""
        parts = []
        for part in torch.split(x, max(1, _ROWS // draws)):
            votes: Tensor | int = 0
            for begin in range(0, draws, _ROWS):
                count = min(_ROWS, draws - begin)
                logits = queries.logits(self.noise(part, count, generator).flatten(0, 1))
                valid = ~logits.isnan().any(1)
                hits = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]) * valid[:, None]
                votes = votes + hits.view(count, len(part), -1).sum(0)
            parts.append(torch.as_tensor(votes))
        return torch.cat(parts)

    def _judge(self, votes: Int[Tensor, "n classes"], y: Tensor) -> Int[Tensor, " n"]:
        top = votes.topk(2, dim=1)
        first, second = (top.values[:, k].cpu().numpy() for k in (0, 1))
        tied = torch.from_numpy(2 * binom.sf(first - 1, first + second, 0.5) > self.alpha).to(y.device)
        answer = torch.where(top.indices[:, 0] == y, 1, -1)
        return torch.where(tied, 0, answer)


def _doubt(logits: Tensor, y: Tensor) -> Tensor:
    """Minus the probability of the label: its sum over draws ascends as -ln of its mean does."""
    return -logits.softmax(1).gather(1, y[:, None]).squeeze(1)


def _unit(g: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    return g / per_sample(g.flatten(1).abs().amax(1).clamp_min(torch.finfo(g.dtype).tiny), g)
