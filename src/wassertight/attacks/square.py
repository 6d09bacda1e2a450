"""Square attack: random search with square-shaped changes, no gradients, in l_inf, l_2 and l_1 (1912.00049).

Problem, for every correctly classified sample: `max margin(z, y) subject to ||z - x||_r <= radius, z in the box`.

l_inf: starts from vertical stripes of +-radius; each iteration sets a random square window of every channel to
x +- radius. l_2 and l_1: a window receives a bump of concentric rings, paid for by the budget left and by emptying a second
window. A change is kept when the margin rises or the sample flips. The window's share of the pixels falls in eight
stages over the iterations.

Differs from the paper and AutoAttack: 1. flipped samples leave the batch; 2. inputs that are not images (one feature
axis) are treated as images of one row, a window being a run of neighbouring features; 3. the radius is shrunk by 1e-5
and half the spacing of floats against rounding; 4. under l_1 the clipped point is projected onto ball and box together; 5. the bump's orientation is
drawn once an iteration, not for every sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.incumbent import Incumbent
from wassertight.attacks.minimum_norm.search import check_norm, check_steps, nearest_flips, within_rounding
from wassertight.geometry import norm, project_box, project_l1_ball_and_box
from wassertight.geometry.norms import per_sample
from wassertight.losses import margin
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel

_GUARD = 1 - 1e-5
_STAGES = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Iterations of 10,000 at which the window's share of the pixels is halved."""
_TINY = 1e-10


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Score-based random search; needs no gradients, so it looks behind masked ones.

    Args:
        queries: forward passes a sample at most.
        share: first share of the pixels in a window.
        restarts: runs.

    >>> from wassertight.threats import PointwiseBall
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> weight = torch.tensor([[1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, -1.0, -1.0]])
    >>> _ = model[1].load_state_dict({"weight": weight, "bias": torch.tensor([-1.9, 1.9])})
    >>> ball = PointwiseBall(radius=0.1, r=float("inf"))
    >>> Square(queries=50)(model, torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]), ball).accuracy
    0.0
    """

    name: ClassVar[str] = "square"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False

    queries: int = 5000
    share: float = 0.8
    restarts: int = 1

    def __post_init__(self) -> None:
        check_steps(self.queries, share=self.share, restarts=self.restarts)

    def find(self, problem: Problem) -> Found:
        """Flips inside the ball."""
        return nearest_flips(problem, self.search)

    def search(
        self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, generator: torch.Generator
    ) -> int:
        """Attack the samples of the incumbent that have no flip inside the ball yet."""
        check_norm(threat)
        radius = threat.radius * _GUARD
        taken = 0
        for _ in range(self.restarts):
            rows = (incumbent.distance > radius).nonzero().squeeze(1)
            if len(rows) == 0 or radius == 0:
                break
            taken += self._run(queries, incumbent, threat, rows, radius, generator)
        return taken

    def _run(
        self,
        queries: ModelQueries,
        incumbent: Incumbent,
        threat: ThreatModel,
        rows: Tensor,
        radius: float,
        generator: torch.Generator,
    ) -> int:
        x = _image(incumbent.x[rows])
        goal, radius = radius, float(within_rounding(torch.tensor(radius, dtype=torch.float64), x))
        z = _start(x, radius, threat, generator)
        best = torch.full_like(incumbent.distance[rows], -torch.inf)
        kept = z
        for index in range(self.queries):
            shaped = z.view_as(incumbent.x[rows])
            logits = queries.logits(shaped)
            incumbent.offer(shaped, logits, rows)
            height = margin(logits, incumbent.y[rows]).to(best)
            better = height > best
            best = torch.where(better, height, best)
            kept = torch.where(per_sample(better.to(z.dtype), z) > 0, z, kept)
            left = incumbent.distance[rows] > goal
            if not bool(left.all()):
                rows, x, kept, best = rows[left], x[left], kept[left], best[left]
            if len(rows) == 0:
                return index + 1
            side = _side(self.share, index, self.queries, x, threat.r)
            z = _change(x, kept, radius, side, threat, generator)
        return self.queries


def _image(x: Tensor) -> Tensor:
    """Samples as (n, channels, height, width)."""
    if x.ndim == 4:
        return x
    return x.view(len(x), 1, 1, -1) if x.ndim == 2 else x.flatten(1, -2)[:, None]


def _side(share: float, index: int, total: int, x: Tensor, r: float) -> int:
    """Side of the window at an iteration; odd under l_2 and l_1, whose bump has a centre."""
    done = index / total * 10_000
    pixels = share * 0.5 ** sum(done > stage for stage in _STAGES) * x.shape[2] * x.shape[3]
    shorter, longer = sorted((x.shape[2], x.shape[3]))
    side = round(pixels**0.5) if shorter > 1 else round(pixels)
    most = max(1, (shorter if shorter > 1 else longer) - 1)
    if r in (1, 2):
        side = max(side, 3)
        side += 1 - side % 2
    return max(1, min(side, most))


def _window(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Boolean windows (n, 1, h, w) of the side's height and width at a random place of every sample."""
    n, _, height, width = x.shape
    tall, wide = min(side, height), min(side, width)
    top = torch.randint(0, height - tall + 1, (n, 1), generator=generator).to(x.device)
    left = torch.randint(0, width - wide + 1, (n, 1), generator=generator).to(x.device)
    down, across = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    inside_rows, inside_columns = (down >= top) & (down < top + tall), (across >= left) & (across < left + wide)
    return inside_rows[:, None, :, None] & inside_columns[:, None, None, :]


def _signs(shape: tuple[int, ...], x: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, shape, generator=generator) * 2 - 1).to(x)


def _start(x: Tensor, radius: float, threat: ThreatModel, generator: torch.Generator) -> Tensor:
    n, channels, height, width = x.shape
    if threat.r not in (1, 2):
        return project_box(x + radius * _signs((n, channels, 1, width), x, generator), threat.bounds)
    side = max(3, min(height, width) // 5) if height > 1 else max(3, width // 5)
    d = torch.zeros_like(x)
    for top in range(0, height, side):
        for left in range(0, width, side):
            tall, wide = min(side, height - top), min(side, width - left)
            bump = _bump(tall, wide, x, threat.r, generator)
            d[:, :, top : top + tall, left : left + wide] += bump * _signs((n, channels, 1, 1), x, generator)
    return _fit(x, d, radius, threat)


def _change(
    x: Tensor, kept: Tensor, radius: float, side: int, threat: ThreatModel, generator: torch.Generator
) -> Tensor:
    """The kept point with one window changed."""
    n, channels, height, width = x.shape
    window = _window(x, side, generator)
    if threat.r not in (1, 2):
        signs = _signs((n, channels, 1, 1), x, generator)
        return project_box(torch.where(window, x + radius * signs, kept), threat.bounds)
    d = kept - x
    other = _window(x, side, generator)
    size = norm(d, threat.r)
    spare = (radius**threat.r - size**threat.r).clamp_min(0) / channels
    freed = (d.abs() ** threat.r * (window | other)).flatten(2).sum(2)
    available = (spare[:, None] + freed) ** (1 / threat.r)
    bump = torch.zeros_like(d)
    tall, wide = min(side, height), min(side, width)
    profile = _bump(tall, wide, x, threat.r, generator)
    bump[window.expand_as(d)] = profile.expand(n, channels, tall, wide).reshape(-1)
    old = d * window
    old = old / (per_sample(norm(old, threat.r), old) + _TINY)
    fresh = bump * _signs((n, channels, 1, 1), x, generator) + old
    length = (fresh.abs() ** threat.r).flatten(2).sum(2) ** (1 / threat.r)
    fresh = fresh / (length + _TINY)[:, :, None, None] * available[:, :, None, None]
    return _fit(x, torch.where(window, fresh, d * ~other), radius, threat)


def _fit(x: Tensor, d: Tensor, radius: float, threat: ThreatModel) -> Tensor:
    """The displacement stretched to the whole radius, then brought into ball and box."""
    d = d * per_sample(radius / (norm(d, threat.r) + _TINY), d)
    if threat.r == 1:
        return x + project_l1_ball_and_box(d, radius, x, threat.bounds)
    return project_box(x + d, threat.bounds)


def _bump(tall: int, wide: int, x: Tensor, r: float, generator: torch.Generator) -> Tensor:
    """Concentric rings of falling height, (tall, wide); under l_2 one half up, one half down; unit l_r norm."""
    down = torch.arange(tall, device=x.device, dtype=x.dtype)
    across = torch.arange(wide, device=x.device, dtype=x.dtype)
    halved = wide > 1 and bool(torch.randint(0, 2, (1,), generator=generator))
    first, second = (wide, tall) if halved else (tall, wide)
    lines, marks = (across, down) if halved else (down, across)
    half = max(1, first // 2)
    place = lines % half if first > 1 else lines
    ring = torch.minimum(
        torch.minimum(place, half - 1 - place).clamp_min(0)[:, None],
        torch.minimum(marks, second - 1 - marks)[None, :],
    )
    depth = torch.flip(1 / torch.arange(1, max(tall, wide) + 1, device=x.device, dtype=x.dtype) ** 2, (0,)).cumsum(0)
    profile = depth[ring.long().clamp_max(len(depth) - 1)]
    if r == 2 and first > 1:
        profile = profile * torch.where(lines < half, 1.0, -1.0).to(x)[:, None]
    profile = profile.T if halved else profile
    size: Tensor = (profile.abs() ** r).sum().clamp_min(_TINY) ** (1 / r)
    return profile / size
