"""Where a minimum-norm search starts: linearised classes, growing sign steps, and donors of another class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wassertight.attacks.incumbent import Incumbent
from wassertight.geometry import closest_on_hyperplane, dual_direction, norm, project_box
from wassertight.losses import class_margin, margin
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel

_FIRST_STEP, _GROWTH, _WALK = 2 / 255, 1.35, 16


@dataclass(frozen=True, kw_only=True, eq=False)
class HalfSpace:
    """A margin linearised at points z: `rise` is what is missing to the boundary, `displacement` the way onto it."""

    logits: Tensor
    rise: Tensor
    g: Tensor
    displacement: Tensor
    reached: Tensor
    target: Tensor


def half_spaces(
    queries: ModelQueries, z: Tensor, y: Tensor, targets: list[Tensor], threat: ThreatModel
) -> list[HalfSpace]:
    """The half-space `f_target >= f_y` linearised at z of each target, and the shortest way into it inside the box.

    A forward pass, and a backward pass for each target. The boundary is met with a margin of 16 roundings.
    """
    pairs = [torch.stack((y, target), 1) for target in targets]
    logits, heights, slopes = queries.gradients(z, pairs, class_margin)
    extra = 16 * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
    spaces = []
    for target, height, g in zip(targets, heights, slopes, strict=True):
        rise = (extra - height).to(z.dtype)
        d, reached = closest_on_hyperplane(z, g, rise, threat.r, threat.bounds)
        spaces.append(HalfSpace(logits=logits, rise=rise, g=g, displacement=d, reached=reached, target=target))
    return spaces


def all_half_spaces(
    queries: ModelQueries, z: Tensor, y: Tensor, threat: ThreatModel, candidates: int | None
) -> list[HalfSpace]:
    """Half-spaces of the `candidates` classes of largest wrong logits at z (None: all)."""
    logits = queries.logits(z)
    count = min(candidates or logits.shape[1], logits.shape[1] - 1)
    classes = logits.scatter(1, y[:, None], -torch.inf).topk(count, dim=1).indices
    return half_spaces(queries, z, y, list(classes.unbind(1)), threat)


def nearest_half_space(
    queries: ModelQueries, z: Tensor, y: Tensor, threat: ThreatModel, candidates: int | None
) -> HalfSpace:
    """The nearest of them, sample by sample."""
    spaces = all_half_spaces(queries, z, y, threat, candidates)
    sizes = torch.stack([torch.where(s.reached, norm(s.displacement, threat.r), torch.inf) for s in spaces], 1)
    choice, rows = sizes.argmin(1), torch.arange(len(z), device=z.device)

    def pick(name: str) -> Tensor:
        return torch.stack([getattr(space, name) for space in spaces], 1)[rows, choice]

    return HalfSpace(
        logits=spaces[0].logits,
        rise=pick("rise"),
        g=pick("g"),
        displacement=pick("displacement"),
        reached=pick("reached"),
        target=pick("target"),
    )


def linearised_classes(
    queries: ModelQueries, incumbent: Incumbent, targets: int, threat: ThreatModel
) -> tuple[Int[Tensor, "n c"], Float[Tensor, "n c *features"]]:
    """Classes by increasing linearised distance, and the points where the linearised boundaries are met."""
    x = incumbent.x
    spaces = all_half_spaces(queries, x, incumbent.y, threat, targets)
    sizes = [torch.where(s.reached, norm(s.displacement, threat.r), torch.inf) for s in spaces]
    order = torch.stack(sizes, 1).argsort(dim=1, stable=True)
    ranked = torch.stack([space.target for space in spaces], 1).gather(1, order)
    stacked = torch.stack([project_box(x + space.displacement, threat.bounds) for space in spaces], 1)
    index = order.view(*order.shape, *(1,) * (x.ndim - 1)).expand_as(stacked)
    return ranked, stacked.gather(1, index)


def walk_out(queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel) -> None:
    """Growing sign steps up the margin for samples without a flip; sign steps move even where gradients are tiny."""
    rows = (~incumbent.found).nonzero().squeeze(1)
    z = incumbent.x[rows].clone()
    scale = 1.0 if threat.bounds is None else threat.bounds[1] - threat.bounds[0]
    step = _FIRST_STEP * scale
    for index in range(_WALK):
        if len(rows) == 0:
            return
        logits, _, g = queries.gradient(z, incumbent.y[rows], margin)
        keep = ~incumbent.offer(z, logits, rows)
        rows, z, g = rows[keep], z[keep], g[keep]
        z = project_box(z + step * dual_direction(g, torch.inf), threat.bounds)
        step *= _GROWTH if index >= 2 else 1.0
    if len(rows):
        incumbent.offer(z, queries.logits(z), rows)


def donors(queries: ModelQueries, incumbent: Incumbent, x: Tensor, clean: Float[Tensor, "m k"]) -> None:
    """For samples still without a flip: the nearest sample of the batch that the model gives another class."""
    rows = (~incumbent.found).nonzero().squeeze(1)
    if len(rows) == 0:
        return
    answer = clean.argmax(1)
    gap = torch.stack([norm(x - incumbent.x[row], incumbent.r) for row in rows.tolist()])
    gap = torch.where(answer[None, :] != incumbent.y[rows][:, None], gap, torch.inf)
    nearest = gap.argmin(1)
    usable = torch.isfinite(gap.gather(1, nearest[:, None]).squeeze(1))
    incumbent.offer(x[nearest[usable]], clean[nearest[usable]], rows[usable])
