"""Accuracy of single noisy answers under moving light: no majority is taken, one vote an image suffices."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.certificates.base import Certificate
from wassertight.certificates.smoothing.estimation import clopper_pearson, count_votes
from wassertight.certificates.smoothing.smoothed import SHARED_ASSUMPTIONS, Poll, Smoother, image_threat
from wassertight.inputs import check_labels
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel
from wassertight.transport import FlipDistances
from wassertight.transport.flow_noise import GaussianFlow, Noise, check_scale
from wassertight.transport.flows import flow_grid
from wassertight.types import InputError, Model, Progress

_PRICES = 400
"""Multipliers of the budget that are tried; any set of them is sound."""


@dataclass(frozen=True, kw_only=True)
class NoisyVoteCertificate(Certificate):
    """A lower bound on the share of right answers when every image is answered once, under fresh noise.

    Attributes:
        sigma, kappa: of the noise; a move of cost W shifts probabilities as one of `W / (kappa sigma)` standard deviations.
        n, alpha: votes of every image, and the error of the whole statement.
        votes: share of right votes on the unmoved images.
        mean: lower bound on the mean probability of a right answer there.
        lower: lower bounds on that of every image, all at once (n,); None where one vote says too little.
    """

    sigma: float
    kappa: float
    n: int
    alpha: float
    votes: float
    mean: float
    lower: Float[Tensor, " n"] | None = field(repr=False)

    @property
    def clean(self) -> float:
        """Share of right votes on the unmoved images."""
        return self.votes

    def curve(self, p: float, radii: Tensor | list[float]) -> Float[Tensor, " m"]:
        """The bound for p-th power means of the distances, p >= 1 or inf."""
        scale = self.kappa * self.sigma
        return torch.tensor(
            [best_bound(self.mean, self.lower, float(radius), scale, p) for radius in radii], dtype=torch.float64
        )


@dataclass(frozen=True, kw_only=True)
class NoisyVotes(Smoother[NoisyVoteCertificate]):
    """Bound the accuracy of the model under noise, without majorities, when light moves by `radius` on average.

    Problem: `min E_Q[P(f(z + noise) = y)]` over laws Q of images with mean W_p(x, z) at most the radius. A move of cost
    W changes the probability of any answer by at most `psi(W) = 2 Phi(W / (2 kappa sigma)) - 1`, and psi is concave, so

        accuracy >= mean over images of P(f(x + noise) = y)  -  psi(radius)

    (2201.12440's bound with our noise). The mean needs one vote an image. With two and more the bounds of single images,
    `P(z) >= Phi(Phi^-1(v_i) - W / (kappa sigma))` and the best way to share the budget among them, are used as well.

    Differs from the paper: 1. votes of different images are independent but not alike; a Clopper-Pearson bound holds for
    their mean where it lies below (right votes - 1) / votes, and is cut off there (Hoeffding 1956, theorem 4). 2. Single images.

    Args:
        sigma: root mean square of the flow noise on an edge, in shares of the image's light.
        n: votes of every image.
        alpha: error probability of the whole statement; with n > 1 half of it goes to either bound.
        weighted: edge weights as for `GaussianFlowSmoothing`.
    """

    name: ClassVar[str] = "noisy-votes"
    sigma: float = 0.01
    n: int = 1
    alpha: float = 0.001
    weighted: bool = True

    def __post_init__(self) -> None:
        check_scale("sigma", self.sigma)
        if self.n < 1 or not 0 < self.alpha < 0.5:
            raise InputError(f"n must be >= 1 and alpha in (0, 0.5), got {self.n} and {self.alpha}")

    @property
    def noise(self) -> Noise:
        """The noise of every answer."""
        return GaussianFlow(sigma=self.sigma, weighted=self.weighted)

    def reach(self, x: Float[Tensor, "n c h w"], threat: ThreatModel) -> float:
        image_threat(self.name, threat)
        return math.inf

    def poll(
        self, model: Model, x: Tensor, y: Tensor, *, batch_size: int | None = None, progress: Progress | None = None
    ) -> Poll:
        begun = time.perf_counter()
        with ModelQueries(model, batch_size=batch_size) as queries, torch.no_grad():
            classes = queries.clean_logits(x[:1], y[:1]).shape[1]
            check_labels(y, classes)
            votes = count_votes(queries, self.noise, x, self.n, classes, batch_size)
            passes = queries.passes
        if progress is not None:
            progress(len(x), len(x))
        return Poll(picked=votes.argmax(1), votes=votes, passes=passes, seconds=time.perf_counter() - begun)

    def judge(
        self, poll: Poll, x: Tensor, y: Tensor, threat: ThreatModel, weights: Tensor | None = None
    ) -> NoisyVoteCertificate:
        ball = image_threat(self.name, threat)
        if weights is not None:
            raise InputError(f"{self.name!r} counts votes of equally likely images; leave the weights out")
        hits, total = poll.votes.gather(1, y[:, None]).squeeze(1), len(y) * self.n
        alpha = self.alpha / (1 if self.n == 1 else 2)
        right = int(hits.sum())
        mean = min(float(clopper_pearson(hits.sum()[None], total, alpha)), max(0, right - 1) / total)
        lower = None if self.n == 1 else clopper_pearson(hits, self.n, alpha / len(y))
        kappa = flow_grid(x.shape[-2], x.shape[-1], self.weighted).kappa(ball.r)
        return NoisyVoteCertificate(
            method=self.name, threat=threat, accuracy=best_bound(mean, lower, ball.radius, kappa * self.sigma, ball.order),
            radii=FlipDistances.certified(torch.zeros_like(x[:, 0, 0, 0], dtype=torch.float64)),
            assumptions=self.assumptions(), confidence=1 - self.alpha, passes=poll.passes, seconds=poll.seconds,
            sigma=self.sigma, kappa=kappa, n=self.n, alpha=self.alpha, votes=right / total, mean=mean, lower=lower,
        )  # fmt: skip

    def assumptions(self) -> tuple[str, ...]:
        return (
            "what is bounded is the share of right answers when each image is answered once, under fresh noise: no majority",
            *SHARED_ASSUMPTIONS[1:],
            "noise is drawn with the edge weights whose resistances were bounded, independently in every channel",
            f"the bounds hold for all radii and orders at once, but for an error of {self.alpha:g}",
        )


def best_bound(mean: float, lower: Tensor | None, radius: float, scale: float, p: float) -> float:
    """The better of what the mean and what single images prove."""
    found = mean - mean_loss(radius, scale)
    return max(0.0, found if lower is None else max(found, budget_accuracy(lower, radius, scale, p)))


def mean_loss(radius: float, scale: float) -> float:
    """psi: the most that a probability of a Gaussian law of standard deviation `scale` changes when its mean moves by `radius`.

    >>> round(mean_loss(1.0, 1.0), 4)
    0.3829
    """
    return math.erf(radius / scale / math.sqrt(8)) * (1 + 1e-12)


def budget_accuracy(
    v: Float[Tensor, " n"], radius: float, scale: float, p: float = 1.0, weights: Tensor | None = None
) -> float:
    """`min mean Phi(Phi^-1(v_i) - t_i / scale)` over shares t of a budget, mean of t_i**p at most radius**p, from below.

    At p = inf every image has the radius. For finite p the bound of p = 1, where any share may also be split at random, is
    taken: with h_i the loss at t, `max <= g radius + mean_i max_t (h_i(t) - g t)` for every g > 0, and the inner maximum
    is at t = 0 or where the Gaussian density equals g scale (wasserstein_smoothing.md section 8).

    >>> round(budget_accuracy(torch.tensor([0.9, 0.9], dtype=torch.float64), 0.0, 1.0), 4)
    0.9
    """
    mass = torch.full_like(v, 1 / len(v)) if weights is None else weights
    start = torch.special.ndtri(v)
    if math.isinf(p) or radius == 0:
        return float(mass @ torch.special.ndtr(start - radius / scale))
    # phi(u) = g scale for u in [0, 8]; u = 0 is the largest g with an inner maximum away from t = 0.
    u = torch.linspace(0, 8, _PRICES, dtype=v.dtype, device=v.device)[:, None]
    g = (-(u**2) / 2).exp() / (scale * math.sqrt(2 * math.pi))
    away = torch.special.ndtr(u) - g * scale * (start + u).nan_to_num(neginf=0)
    loss = torch.where((start + u > 0) & (v > 0), torch.maximum(1 - v, away), 1 - v)
    return float(1 - (g.squeeze(1) * radius + loss @ mass).min())
