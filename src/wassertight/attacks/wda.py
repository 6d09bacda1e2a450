"""WDA: one target class chosen by probing, ascent at a stretched radius, and a mixture of moved and unmoved mass.

2510.10000, section on attacks (released code: `wda_fixed`). Problem: a law within W_p distance `radius` of the data
that lowers accuracy. Every correctly classified sample is moved by at most `stretch * radius` to z_i; the law keeps
mass 1 - stretch**-p at x_i and puts stretch**-p at z_i, so that its W_p cost is at most the radius.

`mode="reference"` follows the released algorithm: candidates are the top classes of the clean logits; each is probed
by `probe_steps` steps, the first one of largest raw logit (or margin) is the target; the ascent takes signed or
normalised steps of the margin f_j - f_y, and the last iterate counts. The measure is the common-stretch mixture.
`mode="default"` keeps the best flip, stops a sample once it has flipped, pulls flips back along the segment and
spends the budget by the exact knapsack, which is never worse.

Differs from the released code: 1. the mixture with `stretch` exists (the code has stretch = 1 only); 2. the weight is
stretch**-p, not 1 / stretch, whose cost is stretch**(1 - 1/p) times the radius; 3. l_1 projections are exact instead of
radial; 4. the projected radius is a little smaller, against rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.incumbent import Incumbent, pull_back
from wassertight.attacks.minimum_norm.search import check_norm, check_steps, within_rounding
from wassertight.geometry import dual_direction, project_ball, project_box
from wassertight.losses import class_margin, margin
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel
from wassertight.transport import DiscreteMeasure
from wassertight.types import InputError

_HALVINGS = 12


@dataclass(frozen=True, kw_only=True)
class WDA(Attack):
    """Wasserstein distributional attack with one common stretch.

    Args:
        stretch: how much further than the radius a sample may go, >= 1 (the paper's kappa). With p = inf it must be 1.
        steps: steps of the ascent.
        step: step length in the ground norm, or None for the released default: 2.5 radius / steps under l_inf,
            1.5 radius / steps otherwise. The released command line uses 20 steps of 0.02 and 9 candidates.
        candidates: classes probed, the largest wrong clean logits; None for all.
        probe_steps: steps of a probe; 0 takes the class of largest margin gradient instead.
        metric: what ranks the probes: "logit" (the released default, the raw logit of the class) or "margin".
        mode: "default" or "reference" (see the module).

    >>> from wassertight.threats import WassersteinBall
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.zeros(2)})
    >>> ball = WassersteinBall(radius=0.1, p=1, r=2, bounds=(-1.0, 1.0))
    >>> x, y = torch.tensor([[0.15, 0.0], [0.4, 0.0]]), torch.tensor([0, 0])
    >>> round(WDA(stretch=2.0, mode="reference")(model, x, y, ball).accuracy, 4)
    0.75
    """

    name: ClassVar[str] = "wda"
    separable: ClassVar[bool] = False
    uses_radius: ClassVar[bool] = True

    stretch: float = 1.0
    steps: int = 50
    step: float | None = None
    candidates: int | None = None
    probe_steps: int = 1
    metric: Literal["logit", "margin"] = "logit"
    mode: Literal["default", "reference"] = "default"

    def __post_init__(self) -> None:
        check_steps(self.steps, candidates=self.candidates or 1, step=1.0 if self.step is None else self.step)
        if not 1 <= self.stretch < math.inf or self.probe_steps < 0:
            raise InputError(f"stretch must be >= 1 and probe_steps >= 0, got {self.stretch} and {self.probe_steps}")
        if self.mode not in ("default", "reference") or self.metric not in ("logit", "margin"):
            raise InputError(
                f"mode must be 'default' or 'reference' and metric 'logit' or 'margin', got {self.mode!r}, {self.metric!r}"
            )

    def find(self, problem: Problem) -> Found:
        """Move every correctly classified sample; in reference mode also the mixture."""
        check_norm(problem.threat)
        queries, x, y, threat = problem.queries, problem.x, problem.y, problem.threat
        if math.isinf(threat.p) and self.stretch != 1:
            raise InputError("with p = inf nothing may move further than the radius: stretch must be 1")
        clean = queries.clean_logits(x, y)
        right = (clean.argmax(1) == y).nonzero().squeeze(1)
        points = x.clone()
        incumbent = Incumbent(x[right], y[right], threat.r, margin(clean[right], y[right]), queries.jitter(x))
        if len(right) and threat.radius > 0:
            radius = float(within_rounding(torch.tensor(self.stretch * threat.radius, dtype=torch.float64), x))
            target = probe(
                queries,
                x[right],
                y[right],
                clean[right],
                radius,
                threat,
                self.candidates,
                self.probe_steps,
                self.metric,
            )
            factor = 2.5 if math.isinf(threat.r) else 1.5
            lengths = [factor * radius / self.steps if self.step is None else self.step] * self.steps
            stop = self.mode == "default"
            points[right] = climb(queries, incumbent, x[right], target, lengths, radius, threat, stop=stop)
            problem.tell(self.steps, self.steps)
        if self.mode == "reference":
            return Found(points=points, steps=self.steps, measure=self.mixture(problem, points))
        pull_back(queries, incumbent, _HALVINGS)
        points[right] = incumbent.points
        return Found(points=points, steps=self.steps)

    def mixture(self, problem: Problem, points: Tensor) -> DiscreteMeasure:
        """Mass stretch**-p of every sample at its moved point, the rest where it was."""
        p = problem.threat.p
        share = 1.0 if math.isinf(p) else self.stretch**-p
        fractions = torch.full((len(points),), share, dtype=torch.float64, device=points.device)
        return DiscreteMeasure.mixture(problem.x, points, fractions, problem.mass)


def probe(
    queries: ModelQueries,
    x: Tensor,
    y: Tensor,
    clean: Tensor,
    radius: float,
    threat: ThreatModel,
    candidates: int | None,
    steps: int,
    metric: str,
) -> Tensor:
    """The class every sample is moved towards, (n,): the candidate that scores highest after a short ascent.

    Probe steps are 2 radius / steps long under l_inf and radius / steps otherwise; each candidate costs `steps`
    forward and backward passes and a forward pass. With steps = 0 the largest dual norm of the margin gradient decides.
    """
    count = min(candidates or clean.shape[1], clean.shape[1] - 1)
    classes = clean.scatter(1, y[:, None], -torch.inf).topk(count, dim=1).indices
    if steps == 0:
        pairs = [torch.stack((y, column), 1) for column in classes.unbind(1)]
        _, _, slopes = queries.gradients(x, pairs, class_margin)
        pull = [(g * dual_direction(g, threat.r)).flatten(1).sum(1) for g in slopes]
        return classes.gather(1, torch.stack(pull, 1).argmax(1, keepdim=True)).squeeze(1)
    length = (2 if math.isinf(threat.r) else 1) * radius / steps
    scores = []
    for target in classes.unbind(1):
        z, pairs_ = x, torch.stack((y, target), 1)
        for _ in range(steps):
            _, _, g = queries.gradient(z, pairs_, class_margin)
            z = advance(z, x, g, length, radius, threat)
        logits = queries.logits(z)
        scores.append(class_margin(logits, pairs_) if metric == "margin" else logits.gather(1, target[:, None])[:, 0])
    return classes.gather(1, torch.stack(scores, 1).argmax(1, keepdim=True)).squeeze(1)


def climb(
    queries: ModelQueries,
    incumbent: Incumbent,
    start: Tensor,
    target: Tensor,
    lengths: list[float],
    radius: float,
    threat: ThreatModel,
    *,
    stop: bool,
) -> Tensor:
    """Ascend the margin towards `target` inside the ball around the incumbent's samples; the last iterates.

    Every iterate is offered to the incumbent. With `stop` a sample stays where it first flipped.
    """
    x, y = incumbent.x, incumbent.y
    rows = torch.arange(len(x), device=x.device)
    end, z = start.clone(), start
    for length in lengths:
        logits, _, g = queries.gradient(z, torch.stack((y[rows], target[rows]), 1), class_margin)
        wrong = incumbent.offer(z, logits, rows)
        if stop and bool(wrong.any()):
            end[rows] = z
            rows, z, g = rows[~wrong], z[~wrong], g[~wrong]
            if len(rows) == 0:
                return end
        z = advance(z, x[rows], g, length, radius, threat)
    incumbent.offer(z, queries.logits(z), rows)
    end[rows] = z
    return end


def advance(z: Tensor, x: Tensor, g: Tensor, length: float, radius: float, threat: ThreatModel) -> Tensor:
    """`clip(P(z + length M_r(g)))`: a steepest step, the ball, the box."""
    d = z + length * dual_direction(g, threat.r) - x
    return project_box(x + project_ball(d, radius, threat.r), threat.bounds)
