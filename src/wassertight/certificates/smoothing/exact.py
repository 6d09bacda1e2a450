"""Smoothing with one random number: every value of it is tried, so that votes are exact and nothing is estimated."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.certificates.smoothing.smoothed import (
    SHARED_ASSUMPTIONS,
    SmoothedCertificate,
    image_threat,
    verdicts,
)
from wassertight.inputs import check_inputs, check_labels, check_weights
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel
from wassertight.transport import FlipDistances
from wassertight.transport.flow_noise import image_shape
from wassertight.types import Model, Progress

_SLACK = 1e-9
"""Taken off the difference of two votes: their lengths are sums of differences of floats."""


@dataclass(frozen=True, kw_only=True)
class ExactSmoothing(ABC):
    """The call all deterministic smoothing methods share; a method gives `pieces` and `bound`."""

    name: ClassVar[str]

    @abstractmethod
    def pieces(self, x: Float[Tensor, "c h w"]) -> tuple[Float[Tensor, "k c h w"], Float[Tensor, " k"]]:
        """What the model sees of one image as the random number goes from 0 to 1, and for how long (sums to 1, float64)."""

    @abstractmethod
    def bound(self, lead: Float[Tensor, " n"], x: Float[Tensor, "n c h w"], r: float) -> Float[Tensor, " n"]:
        """W_1 radii (n,) from the lead of the first class over the second, v - v_B."""

    @abstractmethod
    def assumptions(self) -> tuple[str, ...]:
        """What this method takes for granted besides the rest."""

    def reach(self, x: Float[Tensor, "n c h w"], threat: ThreatModel) -> float:
        """The largest radius any model could get: all votes agree."""
        everything = torch.ones(len(x), dtype=torch.float64, device=x.device)
        return float(self.bound(everything, x, image_threat(self.name, threat).r).max())

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
    ) -> SmoothedCertificate:
        """Certify the smoothed classifier on exactly these images; arguments as for `Smoothing`, confidence 1."""
        begun = time.perf_counter()
        ball = image_threat(self.name, threat)
        x, y = check_inputs(x, y, threat.bounds)
        image_shape(x)
        mass = check_weights(weights, len(x)).to(x.device)
        found = []
        with ModelQueries(model, batch_size=batch_size) as queries, torch.no_grad():
            classes = queries.clean_logits(x[:1], y[:1]).shape[1]
            check_labels(y, classes)
            for index, image in enumerate(x):
                seen, lengths = self.pieces(image)
                answers = queries.logits(seen).argmax(1)
                found.append(torch.zeros(classes, dtype=torch.float64, device=x.device).index_add(0, answers, lengths))
                if progress is not None:
                    progress(index + 1, len(x))
            passes = queries.passes
        votes = torch.stack(found)
        top = votes.topk(2, dim=1)
        lead = top.values[:, 0] - top.values[:, 1] - _SLACK
        right = top.indices[:, 0] == y
        radii = torch.where(right, self.bound(lead, x, ball.r).clamp_min(0), 0.0)
        proved = FlipDistances.certified(radii, mass)
        return SmoothedCertificate(
            method=self.name, threat=threat, accuracy=proved.accuracy(ball.order, threat.radius), radii=proved,
            assumptions=(*SHARED_ASSUMPTIONS, *self.assumptions()), passes=passes, seconds=time.perf_counter() - begun,
            sigma=float("nan"), kappa=float("nan"), n0=0, n=0, alpha=0.0, rule="all", reach=self.reach(x, threat),
            picked=top.indices[:, 0], probability=top.values[:, 0], hits=torch.zeros_like(y),
            verdicts=verdicts(right, lead > 0),
        )  # fmt: skip
