"""Smoothing with one random number: every value of it is tried, so that votes are exact and nothing is estimated."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.certificates.smoothing.estimation import answered
from wassertight.certificates.smoothing.smoothed import (
    SHARED_ASSUMPTIONS,
    Poll,
    SmoothedCertificate,
    Smoother,
    image_threat,
    verdicts,
)
from wassertight.inputs import check_labels, check_weights
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel
from wassertight.transport import FlipDistances
from wassertight.types import Model, Progress

_SLACK = 1e-9
"""Taken off the difference of two votes: their lengths are sums of differences of floats."""


@dataclass(frozen=True, kw_only=True)
class ExactSmoothing(Smoother[SmoothedCertificate]):
    """What all deterministic smoothing methods share; a method gives `pieces` and `bound`. Confidence 1."""

    @abstractmethod
    def pieces(self, x: Float[Tensor, "c h w"]) -> tuple[Float[Tensor, "k c h w"], Float[Tensor, " k"]]:
        """What the model sees of one image as the random number goes from 0 to 1, and for how long (sums to 1, float64)."""

    @abstractmethod
    def bound(self, lead: Float[Tensor, " n"], x: Float[Tensor, "n c h w"], r: float) -> Float[Tensor, " n"]:
        """W_1 radii (n,) from the lead of the first class over the second, v - v_B."""

    def reach(self, x: Float[Tensor, "n c h w"], threat: ThreatModel) -> float:
        everything = torch.ones(len(x), dtype=torch.float64, device=x.device)
        return float(self.bound(everything, x, image_threat(self.name, threat).r).max())

    def poll(
        self, model: Model, x: Tensor, y: Tensor, *, batch_size: int | None = None, progress: Progress | None = None
    ) -> Poll:
        begun = time.perf_counter()
        found = []
        with ModelQueries(model, batch_size=batch_size) as queries, torch.no_grad():
            classes = queries.clean_logits(x[:1], y[:1]).shape[1]
            check_labels(y, classes)
            for index, image in enumerate(x):
                seen, lengths = self.pieces(image)
                answers = answered(queries.logits(seen))
                counted = torch.zeros(classes + 1, dtype=torch.float64, device=x.device).index_add(0, answers, lengths)
                found.append(counted[:classes])
                if progress is not None:
                    progress(index + 1, len(x))
            passes = queries.passes
        votes = torch.stack(found)
        return Poll(picked=votes.argmax(1), votes=votes, passes=passes, seconds=time.perf_counter() - begun)

    def judge(
        self, poll: Poll, x: Tensor, y: Tensor, threat: ThreatModel, weights: Tensor | None = None
    ) -> SmoothedCertificate:
        ball = image_threat(self.name, threat)
        top = poll.votes.topk(2, dim=1).values
        lead, right = top[:, 0] - top[:, 1] - _SLACK, poll.picked == y
        radii = torch.where(right, self.bound(lead, x, ball.r).clamp_min(0), 0.0)
        proved = FlipDistances.certified(radii, check_weights(weights, len(x)).to(x.device))
        return SmoothedCertificate(
            method=self.name, threat=threat, accuracy=proved.accuracy(ball.order, threat.radius), radii=proved,
            assumptions=(*SHARED_ASSUMPTIONS, *self.assumptions()), passes=poll.passes, seconds=poll.seconds,
            sigma=math.nan, kappa=math.nan, n0=0, n=0, alpha=0.0, rule="all", reach=self.reach(x, threat),
            picked=poll.picked, probability=top[:, 0], hits=torch.zeros_like(y), verdicts=verdicts(right, lead > 0),
        )  # fmt: skip
