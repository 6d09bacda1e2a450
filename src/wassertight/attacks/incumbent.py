"""The closest misclassified point found so far of every sample, and the pull-back along the segment to the sample."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wassertight.geometry import norm
from wassertight.geometry.norms import per_sample
from wassertight.losses import margin
from wassertight.queries import ModelQueries


def decision_slack(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Margin a point must exceed to count: 8 roundings of its largest logit.

    Re-evaluation in another batch size changes logits by a few roundings; a point this far past the boundary
    stays misclassified.
    """
    return 8 * torch.finfo(logits.dtype).eps * logits.abs().amax(1)


class Incumbent:
    """Best-so-far points of a batch under one ground norm.

    Attributes:
        x, y: the batch, all correctly classified.
        points: closest misclassified point, x where none yet.
        distance: its l_r distance in x's dtype, inf where none yet.
        clean_margin: margin loss at x (negative).
        jitter: margin a point must exceed on top of roundings, for randomised models.
    """

    def __init__(self, x: Tensor, y: Tensor, r: float, clean_margin: Tensor, jitter: float = 0.0) -> None:
        self.x, self.y, self.r, self.jitter = x, y, r, jitter
        self.points = x.clone()
        self.distance = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        self.clean_margin = clean_margin

    @property
    def found(self) -> Bool[Tensor, " n"]:
        return torch.isfinite(self.distance)

    def part(self, rows: Int[Tensor, " m"]) -> Incumbent:
        """A copy of some samples' incumbents, to be improved apart and brought back by `merge`."""
        piece = Incumbent(self.x[rows], self.y[rows], self.r, self.clean_margin[rows], self.jitter)
        piece.points, piece.distance = self.points[rows], self.distance[rows]
        return piece

    def merge(self, piece: Incumbent, rows: Int[Tensor, " m"]) -> None:
        """Take what a part has improved."""
        closer = piece.distance < self.distance[rows]
        self.points[rows[closer]] = piece.points[closer]
        self.distance[rows[closer]] = piece.distance[closer]

    def offer(
        self, z: Float[Tensor, "m *features"], logits: Float[Tensor, "m k"], rows: Int[Tensor, " m"]
    ) -> Bool[Tensor, " m"]:
        """Take every point that is misclassified and closer; returns which points are misclassified at all."""
        # a logit that is not finite makes the slack infinite or NaN, which nothing exceeds
        wrong = margin(logits, self.y[rows]) > decision_slack(logits) + self.jitter
        hit = wrong.nonzero().squeeze(1)
        if len(hit):
            at, moved = rows[hit], z.detach().index_select(0, hit)
            size = norm(moved - self.x.index_select(0, at), self.r)
            closer = (size < self.distance[at]).nonzero().squeeze(1)
            at = at[closer]
            self.points.index_copy_(0, at, moved.index_select(0, closer))
            self.distance[at] = size[closer]
        return wrong


def pull_back(queries: ModelQueries, incumbent: Incumbent, steps: int, rows: Tensor | None = None) -> None:
    """Move incumbents towards their samples along the segment, keeping the misclassified end.

    Bisection whose odd steps interpolate the margin linearly, so that a linear boundary is met in one step.
    Classification along a segment is not monotone: the result is a crossing, and never further out than before.
    """
    rows = incumbent.found.nonzero().squeeze(1) if rows is None else rows[incumbent.found[rows]]
    if len(rows) == 0:
        return
    x, y = incumbent.x[rows], incumbent.y[rows]
    way = incumbent.points[rows] - x
    low, high = torch.zeros_like(incumbent.distance[rows]), torch.ones_like(incumbent.distance[rows])
    below = incumbent.clean_margin[rows].to(low.dtype)
    above = torch.full_like(below, torch.nan)
    for step in range(steps):
        middle = (low + high) / 2
        if step % 2 == 0 and step > 0:
            share = (-below + 0.02 * above.abs()) / (above - below)
            guess = low + (high - low) * torch.nan_to_num(share, nan=0.5).clamp(0.02, 0.98)
            middle = torch.where(torch.isfinite(above), guess, middle)
        z = torch.addcmul(x, per_sample(middle, x), way)
        logits = queries.logits(z)
        wrong = incumbent.offer(z, logits, rows)
        value = margin(logits, y).to(low.dtype)
        high, low = torch.where(wrong, middle, high), torch.where(wrong, low, middle)
        above, below = torch.where(wrong, value, above), torch.where(wrong, below, value)
