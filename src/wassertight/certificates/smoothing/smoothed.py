"""What a smoothing certificate takes and returns: votes under noise, a radius of every image, how each image ended."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wassertight.certificates.base import Certificate
from wassertight.certificates.smoothing.estimation import (
    Rule,
    VoteBounds,
    best_bound,
    bound_votes,
    check_estimation,
    count_votes,
    wrong_count,
)
from wassertight.inputs import check_inputs, check_labels, check_weights
from wassertight.queries import ModelQueries
from wassertight.threats import ImageWasserstein, ThreatModel
from wassertight.transport import FlipDistances
from wassertight.transport.flow_noise import Noise, check_scale, image_shape
from wassertight.types import Model, Passes, Progress, ThreatError

Proved = TypeVar("Proved", bound=Certificate)
SHARED_ASSUMPTIONS = (
    "what is certified is the smoothed classifier (the most likely answer under the noise), not the model itself",
    "the moved image has the same light in every channel, and no light changes channel",
    "the model is a fixed function of one image, defined for negative pixels too; nothing is clipped outside it",
    "floating-point numbers, and the pseudo-random draws, are treated as exact ones",
)


class Verdict(StrEnum):
    """How one image ended."""

    CERTIFIED = "certified"
    """The smoothed classifier's answer is right, and has a radius above 0."""
    ABSTAINED = "abstained"
    """The votes do not show that the picked class is the most likely one."""
    WRONG = "wrong"
    """The picked class is not the label."""


@dataclass(frozen=True, kw_only=True)
class SmoothedCertificate(Certificate):
    """A certificate of the smoothed classifier; radii are W_p radii in shares of light times grid steps.

    Attributes:
        sigma: standard deviation (root mean square) of the noise.
        kappa: certified radius over sigma and the normal quantile where that is the rule, else NaN.
        n0, n: draws that picked the class, and that bounded it.
        alpha: error of each radius, after the rule.
        rule: "each": every radius by itself is wrong with probability at most alpha; "share": in addition at most the share
            `allowance` of them is wrong, which is taken off every accuracy; "all": no radius is wrong.
        allowance: taken off every accuracy (rule "share"), else 0.
        reach: the largest radius that so many draws can certify.
        picked: class the smoothed classifier answers (n,).
        probability: lower bound on its probability (n,), float64.
        hits: draws that voted for it (n,).
        verdicts: how each image ended.
    """

    sigma: float
    kappa: float
    n0: int
    n: int
    alpha: float
    rule: Rule
    allowance: float = 0.0
    reach: float
    picked: Int[Tensor, " n"] = field(repr=False)
    probability: Float[Tensor, " n"] = field(repr=False)
    hits: Int[Tensor, " n"] = field(repr=False)
    verdicts: tuple[Verdict, ...] = field(repr=False)

    @property
    def clean(self) -> float:
        """Accuracy of the smoothed classifier on the unmoved images, abstentions counted as errors."""
        return self.share(Verdict.CERTIFIED)

    def share(self, verdict: Verdict) -> float:
        """Mass of the images that ended so."""
        found = torch.tensor([one is verdict for one in self.verdicts], device=self.radii.weights.device)
        return float(self.radii.weights[found].sum())

    def curve(self, p: float, radii: Tensor | list[float]) -> Float[Tensor, " m"]:
        """Certified accuracy: p = inf where every image has the whole radius, finite p for a mean over the images."""
        return (super().curve(p, radii) - self.allowance).clamp_min(0)


@dataclass(frozen=True, kw_only=True)
class Poll:
    """What the model answered under noise; radii follow from it without any further pass.

    Attributes:
        picked: class picked by votes of its own (n,).
        votes: draws, or shares of one where votes are exact, for every class (n, classes).
        passes, seconds: spent on it.
    """

    picked: Int[Tensor, " n"]
    votes: Tensor
    passes: Passes
    seconds: float


class Smoother(ABC, Generic[Proved]):
    """The call all smoothing methods share: poll the model under noise, then judge the votes."""

    name: ClassVar[str]

    @abstractmethod
    def poll(
        self, model: Model, x: Tensor, y: Tensor, *, batch_size: int | None = None, progress: Progress | None = None
    ) -> Poll:
        """Ask the model for the votes of every image."""

    @abstractmethod
    def judge(self, poll: Poll, x: Tensor, y: Tensor, threat: ThreatModel, weights: Tensor | None = None) -> Proved:
        """The certificate from the votes on exactly these images."""

    @abstractmethod
    def reach(self, x: Float[Tensor, "n c h w"], threat: ThreatModel) -> float:
        """The largest radius that votes could give any of these images: all agree.

        Raises:
            ThreatError: for a threat that moves no light.
        """

    def assumptions(self) -> tuple[str, ...]:
        """What this method takes for granted besides the rest."""
        return ()

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        batch_size: int | None = None,
        weights: Tensor | None = None,
        upper: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Proved:
        """Certify the smoothed classifier on exactly these images.

        Args:
            model: callable from images (n, c, h, w) to logits (n, classes); left as it was.
            x, y: images (n, c, h, w) inside the threat's box, labels (n,).
            threat: an image-space Wasserstein threat; radii do not depend on its radius.
            batch_size: noisy images a pass.
            weights: mass of every image, 1 / n each by default.
            upper: not used.
            progress: called as progress(images done, images).

        Raises:
            ThreatError: for a threat that moves no light.
            InputError: for images, labels or draws that cannot be used.
        """
        image_threat(self.name, threat)
        x, y = check_inputs(x, y, threat.bounds)
        image_shape(x)
        poll = self.poll(model, x, y, batch_size=batch_size, progress=progress)
        return self.judge(poll, x, y, threat, weights)


@dataclass(frozen=True, kw_only=True)
class Smoothing(Smoother[SmoothedCertificate]):
    """The knobs all randomised smoothing methods share; a method gives `noise`, `bound` and, where it has one, `kappa`.

    Args:
        sigma: standard deviation (root mean square) of the noise, in shares of the image's light.
        n0: draws that pick the class.
        n: fresh draws that bound its probability.
        alpha: error probability of the bound; see `rule`.
        rule: what alpha covers: "each" radius by itself (as published), the "share" of wrong ones, or "all" at once.
        runner_up: bound the other classes by themselves (half of alpha) instead of by one minus the first.
    """

    sigma: float = 0.01
    n0: int = 1000
    n: int = 100_000
    alpha: float = 0.001
    rule: Rule = "each"
    runner_up: bool = False

    def __post_init__(self) -> None:
        check_scale("sigma", self.sigma)
        check_estimation(self.n0, self.n, self.alpha, self.rule)

    @property
    @abstractmethod
    def noise(self) -> Noise:
        """The noise that votes are taken under; training should use the same object."""

    @abstractmethod
    def bound(self, votes: VoteBounds, x: Float[Tensor, "n c h w"], r: float) -> Float[Tensor, " n"]:
        """W_1 radii (n,), ground metric of order r, where `votes.lower > votes.upper`; anything elsewhere."""

    def kappa(self, x: Tensor, r: float) -> float:
        """Radius over sigma and the normal quantile, where the method has such a constant."""
        return math.nan

    def reach(self, x: Float[Tensor, "n c h w"], threat: ThreatModel) -> float:
        error = self._error(len(x)) / (2 if self.runner_up else 1)
        best = torch.full((len(x),), best_bound(self.n, error), dtype=torch.float64, device=x.device)
        return float(self.bound(VoteBounds(lower=best, upper=1 - best), x, image_threat(self.name, threat).r).max())

    def draws_needed(self, x: Float[Tensor, "n c h w"], threat: ThreatModel) -> int | None:
        """Power of two of draws with which the threat's radius comes into reach; None: none up to 2**30."""
        power = 4 + bisect_left(
            range(4, 31), True, key=lambda k: replace(self, n=1 << k, n0=1).reach(x, threat) > threat.radius
        )
        return 1 << power if power <= 30 else None

    def poll(
        self, model: Model, x: Tensor, y: Tensor, *, batch_size: int | None = None, progress: Progress | None = None
    ) -> Poll:
        begun, picked, votes = time.perf_counter(), [], []
        with ModelQueries(model, batch_size=batch_size) as queries, torch.no_grad():
            classes = queries.clean_logits(x[:1], y[:1]).shape[1]
            check_labels(y, classes)
            home, x = x.device, x if queries.device is None else x.to(queries.device)
            group = max(1, (batch_size or 1024) // self.n0)
            for index in torch.split(torch.arange(len(x), device=x.device), group):
                first = count_votes(queries, self.noise, x[index], self.n0, classes, batch_size)
                picked.append(first.argmax(1))
                votes.append(count_votes(queries, self.noise, x[index], self.n, classes, batch_size))
                if progress is not None:
                    progress(int(index[-1]) + 1, len(x))
            passes = queries.passes
        seconds = time.perf_counter() - begun
        return Poll(picked=torch.cat(picked).to(home), votes=torch.cat(votes).to(home), passes=passes, seconds=seconds)

    def judge(
        self, poll: Poll, x: Tensor, y: Tensor, threat: ThreatModel, weights: Tensor | None = None
    ) -> SmoothedCertificate:
        ball, alpha = image_threat(self.name, threat), self._error(len(x))
        bounds = bound_votes(poll.votes, poll.picked, self.n, alpha, runner_up=self.runner_up)
        right, shown = poll.picked == y, bounds.lower > bounds.upper
        radii = torch.where(right & shown, self.bound(bounds, x, ball.r).clamp_min(0), 0.0)
        found = FlipDistances.certified(radii, check_weights(weights, len(x)).to(x.device))
        wrong = wrong_count(len(x), alpha, self.alpha) if self.rule == "share" else 0
        allowance = float(found.weights.topk(wrong).values.sum())  # whichever they are
        return SmoothedCertificate(
            method=self.name, threat=threat, radii=found,
            accuracy=max(0.0, found.accuracy(ball.order, threat.radius) - allowance),
            assumptions=(*SHARED_ASSUMPTIONS, *self.assumptions(), rule_in_words(self.rule, alpha, len(x), allowance)),
            confidence=1 - self.alpha, passes=poll.passes, seconds=poll.seconds, sigma=self.sigma,
            kappa=self.kappa(x, ball.r), n0=self.n0, n=self.n, alpha=alpha, rule=self.rule, allowance=allowance,
            reach=self.reach(x, threat), picked=poll.picked, probability=bounds.lower,
            hits=poll.votes.gather(1, poll.picked[:, None]).squeeze(1), verdicts=verdicts(right, shown),
        )  # fmt: skip

    def _error(self, images: int) -> float:
        return self.alpha / images if self.rule == "all" else self.alpha


def verdicts(right: Tensor, shown: Tensor) -> tuple[Verdict, ...]:
    """How each image ended; an image whose picked class is wrong is wrong, shown or not."""
    return tuple(
        Verdict.WRONG if not good else (Verdict.CERTIFIED if sure else Verdict.ABSTAINED)
        for good, sure in zip(right.tolist(), shown.tolist(), strict=True)
    )


def rule_in_words(rule: Rule, alpha: float, images: int, allowance: float) -> str:
    """What the error probability covers."""
    if rule == "all":
        return f"all {images} radii hold at once but for an error of {alpha * images:g} ({alpha:.3g} each)"
    text = f"each radius by itself is wrong with probability at most {alpha:g}"
    if rule == "share":
        return f"{text}, independently; {100 * allowance:g} points are taken off every accuracy for wrong ones"
    return f"{text}; nothing is said about all of them at once (rule 'share' or 'all' does)"


def image_threat(method: str, threat: ThreatModel) -> ImageWasserstein:
    """The threat, where it moves light between pixels.

    Raises:
        ThreatError: for any other threat.
    """
    if not isinstance(threat, ImageWasserstein):
        raise ThreatError(
            f"{method!r} certifies image-space Wasserstein threats such as image-W1@0.01; got {threat.name}"
        )
    return threat
