"""APGD: auto-projected gradient descent, with cross-entropy, DLR, margin, or targeted DLR (2003.01690; l_1: 2103.01208).

Problem, for every correctly classified sample: `max loss(z, y) subject to ||z - x||_r <= radius, z in the box`.

Ascent with momentum whose step size, 2 radius at first, is halved at checkpoints when too few steps raised the loss
or when neither step nor best value has changed since the last checkpoint; after a halving it goes on from the best
point. With `targets` it runs once towards each of the most likely wrong classes (APGD-T). Under l_1 the steps are
sparse signs whose number follows the sparsity of the best point, and the radius comes down in three stages, each of
which begins by projecting the best point of the one before.

Differs from the papers: 1. a sample that has flipped leaves the batch; 2. the radius is shrunk by 1e-5 and half the
spacing of floats, so that rounding cannot leave the ball; 3. the l_1 projection is onto the intersection of ball and
box; 4. with fewer than four classes the targeted DLR is replaced by the class margin, with fewer than three DLR by the
margin; 5. a sparse step under l_1 leaves out the coordinates that a wall of the box stops.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.incumbent import Incumbent
from wassertight.attacks.minimum_norm.search import check_norm, check_steps, nearest_flips, within_rounding
from wassertight.geometry import norm, project_ball, project_box, sample_ball
from wassertight.geometry.norms import per_sample
from wassertight.geometry.projections import project_l1_ball_and_box
from wassertight.losses import class_margin, loss_by_name, targeted_dlr
from wassertight.queries import LossFunction, ModelQueries
from wassertight.threats import ThreatModel

_GUARD = 1 - 1e-5
_STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
"""l_1: multiples of the radius and their shares of the iterations."""


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD at a fixed radius; the points are flips inside the ball, or the samples themselves.

    Args:
        loss: "cross-entropy", "dlr" or "margin" (untargeted runs).
        targets: number of target classes, one run each with targeted DLR; None for the untargeted attack.
        steps: iterations of a run, a forward and a backward pass each.
        restarts: runs (of all targets); each starts at a random point of the ball (l_1: of the first stage's).
        rho: share of steps that must raise the loss between two checkpoints.

    >>> from wassertight.threats import PointwiseBall
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.zeros(2)})
    >>> ball = PointwiseBall(radius=0.5, r=2.0, bounds=(-1.0, 1.0))
    >>> APGD()(model, torch.tensor([[0.25, 0.5], [0.75, 0.5]]), torch.tensor([0, 0]), ball).accuracy
    0.5
    """

    name: ClassVar[str] = "apgd"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = True

    loss: str = "cross-entropy"
    targets: int | None = None
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75

    def __post_init__(self) -> None:
        check_steps(self.steps, restarts=self.restarts, rho=self.rho, targets=self.targets or 1)
        loss_by_name(self.loss)

    @property
    def least_classes(self) -> int:
        """Classes the loss needs; with fewer the margin takes its place."""
        return 4 if self.targets is not None else 3 if self.loss in ("dlr", "redlr") else 2

    def find(self, problem: Problem) -> Found:
        """Flips inside the ball."""
        return nearest_flips(problem, self.search)

    def search(
        self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, generator: torch.Generator
    ) -> int:
        """Attack the samples of the incumbent that have no flip inside the ball of the threat."""
        return self.within(queries, incumbent, threat, torch.full_like(incumbent.distance, threat.radius), generator)

    def within(
        self,
        queries: ModelQueries,
        incumbent: Incumbent,
        threat: ThreatModel,
        radius: Float[Tensor, " n"],
        generator: torch.Generator,
    ) -> int:
        """Attack the samples without a flip inside their own radius; only norm and box of the threat matter."""
        check_norm(threat)
        radius = radius * _GUARD
        taken = 0
        for _ in range(self.restarts):
            for column in range(self.targets or 1):
                rows = ((incumbent.distance > radius) & (radius > 0)).nonzero().squeeze(1)
                if len(rows) == 0:
                    return taken
                labels, loss = self._aim(queries, incumbent, rows, column)
                if labels is None:
                    break
                x = incumbent.x[rows]
                start = self._start(x, radius[rows], threat, generator)
                for multiple, steps in self._stages(threat.r):
                    run = _Run.begin(incumbent, rows, labels, start, radius[rows], multiple, threat)
                    run.climb(queries, incumbent, loss, steps, self.rho)
                    labels = labels[torch.isin(rows, run.rows)]
                    rows, start = run.rows, run.best
                    taken += steps
        return taken

    def _start(
        self, x: Tensor, radius: Tensor, threat: ThreatModel, generator: torch.Generator
    ) -> Float[Tensor, "n *features"]:
        """A random point of the ball; under l_1 a normal draw that the first stage projects, which makes it sparse."""
        if threat.r == 1:
            return x + torch.empty(x.shape, dtype=torch.float64).normal_(generator=generator).to(x)
        return project_box(x + sample_ball(x, radius, threat.r, generator), threat.bounds)

    def _stages(self, r: float) -> list[tuple[float, int]]:
        if r != 1 or self.steps < 10:
            return [(1.0, self.steps)]
        return [(multiple, int(share * self.steps)) for multiple, share in _STAGES]

    def _aim(
        self, queries: ModelQueries, incumbent: Incumbent, rows: Tensor, column: int
    ) -> tuple[Tensor | None, LossFunction]:
        """Labels and loss of a run; None where the model has no such target class."""
        y = incumbent.y[rows]
        if self.targets is None:
            two = self.loss in ("dlr", "redlr") and queries.logits(incumbent.x[rows[:1]]).shape[1] < 3
            return y, loss_by_name("margin" if two else self.loss)
        clean = queries.logits(incumbent.x[rows])
        if column >= clean.shape[1] - 1:
            return None, class_margin
        target = clean.scatter(1, y[:, None], -torch.inf).topk(column + 1, dim=1).indices[:, column]
        return torch.stack((y, target), 1), targeted_dlr if clean.shape[1] >= 4 else class_margin


@dataclass(kw_only=True, eq=False)
class _Run:
    """One ascent of a batch; `keep` drops the samples that have flipped."""

    threat: ThreatModel
    goal: Tensor
    radius: Tensor
    rows: Tensor
    labels: Tensor
    x: Tensor
    z: Tensor
    before: Tensor
    g: Tensor
    best: Tensor
    best_g: Tensor
    best_loss: Tensor
    last_best: Tensor
    step: Tensor
    reduced: Tensor
    rises: Tensor
    share: Tensor
    sparsity: Tensor

    @classmethod
    def begin(
        cls,
        incumbent: Incumbent,
        rows: Tensor,
        labels: Tensor,
        z: Tensor,
        goal: Tensor,
        multiple: float,
        threat: ThreatModel,
    ) -> _Run:
        x = incumbent.x[rows]
        ones = torch.ones(len(rows), dtype=x.dtype, device=x.device)
        nothing = torch.zeros_like(x)
        count = x[0].numel()
        radius = within_rounding(goal * multiple, x)
        if threat.r == 1:
            z = x + project_l1_ball_and_box(z - x, radius, x, threat.bounds)
        used = (z - x).flatten(1).count_nonzero(1).to(ones) / count
        return cls(
            threat=threat, goal=goal, radius=radius, rows=rows, labels=labels, x=x, z=z, before=z, g=nothing, best=z,
            best_g=nothing, best_loss=ones * -torch.inf, last_best=ones * -torch.inf,
            step=radius if threat.r == 1 else 2 * radius, reduced=ones > 0, rises=ones * 0,
            share=(used / 1.5).clamp_min(1 / count), sparsity=used,
        )  # fmt: skip

    def keep(self, mask: Tensor) -> None:
        """Go on with these samples only."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                setattr(self, item.name, value[mask])

    def climb(self, queries: ModelQueries, incumbent: Incumbent, loss: LossFunction, steps: int, rho: float) -> None:
        """The iterations, their checkpoints, and the end of samples that have flipped within their goal."""
        window, least, less = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
        if self.threat.r == 1:
            window, least, less = max(int(0.04 * steps), 1), max(int(0.04 * steps), 1), 0
        since = 0
        value = torch.empty(0)
        for index in range(steps + 1):
            old = value
            logits, value, g = queries.gradient(self.z, self.labels, loss)
            incumbent.offer(self.z, logits, self.rows)
            if index:
                self.rises += (value > old).to(self.rises)
                since += 1
            better = value > self.best_loss
            shown = per_sample(better.to(g.dtype), g) > 0
            self.best_loss = torch.where(better, value, self.best_loss)
            self.best, self.best_g = torch.where(shown, self.z, self.best), torch.where(shown, g, self.best_g)
            self.g = g
            if index and since == window:
                self._checkpoint(since, rho)
                window, since = max(window - less, least), 0
            left = incumbent.distance[self.rows] > self.goal
            if not bool(left.all()):
                self.keep(left)
                value = value[left]
            if index == steps or len(self.rows) == 0:
                return
            self._move(index)

    def _move(self, index: int) -> None:
        momentum = 0.75 if index else 1.0
        if self.threat.r == 1:
            moved = self._project(self.z + self._sparse_step())
        else:
            ahead = self._project(self.z + per_sample(self.step, self.g) * self._unit())
            moved = self._project(self.z + momentum * (ahead - self.z) + (1 - momentum) * (self.z - self.before))
        self.before, self.z = self.z, moved

    def _unit(self) -> Tensor:
        if self.threat.r == 2:
            return self.g / per_sample(norm(self.g, 2.0).clamp_min(1e-12), self.g)
        return self.g.sign()

    def _sparse_step(self) -> Tensor:
        """Signs of the largest gradient entries, as many as the sparsity allows, scaled to l_1 length `step`."""
        g = self.g
        if self.threat.bounds is not None:
            low, high = self.threat.bounds
            g = g * torch.where(g > 0, self.z < high, self.z > low)
        flat = g.flatten(1).abs()
        count = (self.share * flat.shape[1]).long().clamp(1, flat.shape[1])
        ordered = flat.sort(dim=1, descending=True).values
        chosen = (flat >= ordered.gather(1, count[:, None] - 1)) & (flat > 0)
        signs = g.sign() * chosen.view_as(g)
        return signs * per_sample(self.step / signs.flatten(1).abs().sum(1).clamp_min(1), signs)

    def _project(self, z: Tensor) -> Tensor:
        if self.threat.r == 1:
            return self.x + project_l1_ball_and_box(z - self.x, self.radius, self.x, self.threat.bounds)
        return project_box(self.x + project_ball(z - self.x, self.radius, self.threat.r), self.threat.bounds)

    def _checkpoint(self, window: int, rho: float) -> None:
        if self.threat.r == 1:
            used = (self.best - self.x).flatten(1).count_nonzero(1).to(self.share) / self.x[0].numel()
            sparser = used < 0.95 * self.sparsity
            self.share = (used / 1.5).clamp_min(1 / self.x[0].numel())
            shorter = torch.minimum(torch.maximum(self.step / 1.5, self.radius / 10), self.radius)
            self.step = torch.where(sparser, self.radius, shorter)
            self.sparsity, halve = used, sparser
        else:
            stuck = ~self.reduced & (self.last_best >= self.best_loss)
            halve = (self.rises <= rho * window) | stuck
            self.step = torch.where(halve, self.step / 2, self.step)
            self.reduced, self.last_best = halve, self.best_loss
        self.rises = torch.zeros_like(self.rises)
        back = per_sample(halve.to(self.z.dtype), self.z) > 0
        self.z, self.g = torch.where(back, self.best, self.z), torch.where(back, self.best_g, self.g)
