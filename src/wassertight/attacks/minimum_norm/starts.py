"""Where a minimum-norm search starts: linearised classes, growing sign steps, and donors of another class."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wassertight.attacks.incumbent import Incumbent
from wassertight.geometry import closest_on_hyperplane, dual_direction, norm, project_box
from wassertight.losses import class_margin, margin
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel

_FIRST_STEP, _GROWTH, _WALK = 2 / 255, 1.35, 16


def linearised_classes(
    queries: ModelQueries, incumbent: Incumbent, clean: Float[Tensor, "n k"], targets: int, threat: ThreatModel
) -> tuple[Int[Tensor, "n c"], Float[Tensor, "n c *features"]]:
    """Nearest half-space of every likely class: classes by increasing linearised distance, and the points there.

    Costs `targets` forward and backward passes a sample. Classes are the `targets` largest wrong logits.
    """
    x, y = incumbent.x, incumbent.y
    classes = clean.scatter(1, y[:, None], -torch.inf).topk(targets, dim=1).indices
    points, sizes = [], []
    for column in range(targets):
        logits, rise, g = queries.gradient(x, torch.stack((y, classes[:, column]), 1), class_margin)
        extra = 16 * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
        d, reached = closest_on_hyperplane(x, g, (-rise + extra).to(x.dtype), threat.r, threat.bounds)
        points.append(project_box(x + d, threat.bounds))
        sizes.append(torch.where(reached, norm(d, threat.r), torch.inf))
    order = torch.stack(sizes, 1).argsort(dim=1, stable=True)
    ranked = classes.gather(1, order)
    stacked = torch.stack(points, 1)
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
