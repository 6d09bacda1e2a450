"""Lipschitz bounds as step functions of the radius, for logit differences and for losses: what W_p bounds integrate.

With `L_i(t)` a bound of the loss's slope on the ball of radius t, `loss(z) <= loss(x_i) + integral of L_i from 0 to
||z - x_i||` for every z of the (convex) region. The gradient of cross-entropy is `sum over j of p_j J'(e_j - e_y)`, p the
softmax of the logits, so its slope is at most `sum p_j L_j`, maximised over what bounds of the logit differences leave
of p; in particular it is at most `(1 - p_y) max L_j`. That of the margin loss `max over j != y of f_j - f_y` is the largest
L_j among classes that can be the runner-up in the region. The ratio loss DLR has no such bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wassertight.certificates.lipschitz.jacobians import jacobian_bounds
from wassertight.certificates.lipschitz.norms import SLACK
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.region import Region, covering_radius
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.certificates.propagation.specification import other_classes, specification
from wassertight.types import Bounds, InputError

LOSSES = ("cross-entropy", "margin")


def nested_bounds(
    graph: Graph,
    x: Float[Tensor, "n *features"],
    y: Int[Tensor, " n"],
    radii: Tensor,
    r: float,
    bounds: Bounds,
    **options: Any,
) -> Float[Tensor, "m n classes"]:
    """Bounds of the slopes of `f_j - f_y`: row k holds on balls of radius `radii[k]`, and never falls with k.

    Args:
        graph, x, y, r, bounds, options: as for `jacobian_bounds`.
        radii: ascending, (m,), or (m, n) with radii of each sample.
    """
    radii = _ascending(radii, len(x))
    steps = [jacobian_bounds(graph, x, y, t, r, bounds, **options) for t in radii]
    return _monotone(torch.stack(steps))


def loss_slopes(
    graph: Graph,
    x: Float[Tensor, "n *features"],
    y: Int[Tensor, " n"],
    radii: Tensor,
    r: float,
    bounds: Bounds,
    *,
    loss: str = "cross-entropy",
    differences: Sequence[tuple[Tensor, Tensor]] | None = None,
    **options: Any,
) -> Float[Tensor, "m n"]:
    """Bounds of a loss's slope: row k holds on balls of radius `radii[k]`, and never falls with k.

    Args:
        graph, x, y, r, bounds, options: as for `jacobian_bounds`.
        radii: ascending, (m,), or (m, n) with radii of each sample.
        loss: "cross-entropy" or "margin" (`max over j != y of f_j - f_y`).
        differences: what `logit_differences` gives for every radius, where it is known already.
    """
    radii = _ascending(radii, len(x))
    slopes = nested_bounds(graph, x, y, radii, r, bounds, **options)
    method = str(options.get("method", "linear"))
    if differences is None:
        differences = [logit_differences(graph, x, y, t, r, bounds, method=method) for t in radii]
    rows = [slope_of_loss(part, *ends, y, loss) for part, ends in zip(slopes, differences, strict=True)]
    return _monotone(torch.stack(rows))


@torch.no_grad()
def logit_differences(
    graph: Graph, x: Tensor, y: Tensor, t: Tensor, r: float, bounds: Bounds, *, method: str = "linear"
) -> tuple[Tensor, Tensor]:
    """Proved range (n, classes) of `f_j - f_y` over every sample's region; infinite where nothing is proved."""
    x, t = x.double(), torch.minimum(t.to(x.device).double(), covering_radius(x.double(), r, bounds))
    known, spec = torch.isfinite(t), -specification(y, graph.classes, torch.float64)
    rounding = Rounding.between(torch.float64, torch.float64)
    kind = "crown" if method == "linear" else "interval"
    propagation = Propagation(graph, r, method=kind, rounding=rounding)
    region = propagation.enter(Region.of(x, torch.where(known, t, 1.0), r, bounds))
    found = propagation.bounds(region)
    ends = []
    others = other_classes(y, graph.classes)
    for sign in (1.0, -1.0):
        low = torch.where(known[:, None], propagation.final(region, found, sign * spec), -torch.inf)
        ends.append(sign * x.new_zeros(len(x), graph.classes).scatter(1, others, low))
    return ends[0], ends[1]


def slope_of_loss(slopes: Tensor, low: Tensor, high: Tensor, y: Tensor, loss: str) -> Tensor:
    """The slope (n,) of a loss from slopes (n, classes) and ranges (n, classes) of the logit differences.

    >>> slopes, flat = torch.tensor([[0.0, 2.0, 4.0]]), torch.zeros(1, 3)
    >>> y = torch.tensor([0])
    >>> float(slope_of_loss(slopes, flat, flat, y, "margin")), round(float(slope_of_loss(slopes, flat, flat, y, LOSSES[0])), 6)
    (4.0, 2.0)
    """
    if loss not in LOSSES:
        raise InputError(f"the loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    own = torch.zeros_like(slopes, dtype=torch.bool).scatter(1, y[:, None], True)
    if loss == "margin":
        runner = low.masked_fill(own, -torch.inf).amax(1, keepdim=True)
        return torch.where((high >= runner) & ~own, slopes, 0.0).amax(1)
    # p_j = 1 / (exp(-d_j) + sum over k != j of exp(d_k - d_j)); the true class has d = 0
    itself = torch.eye(low.shape[1], dtype=torch.bool, device=low.device)
    rest = torch.logsumexp(low[:, None].masked_fill(itself, -torch.inf), 2)
    most = torch.sigmoid(high - rest).nan_to_num(1.0).masked_fill(own, 0.0)
    wrong = torch.logsumexp(high.masked_fill(own, -torch.inf), 1)
    left = torch.sigmoid(wrong).nan_to_num(1.0)
    order = torch.where(own, 0.0, slopes).sort(dim=1, descending=True)
    share = most.gather(1, order.indices)
    before = share.cumsum(1) - share
    share = torch.minimum(share, (left[:, None] - before).clamp_min(0))
    value = torch.where(share > 0, order.values * share, 0.0).sum(1)
    return value * (1 + SLACK)


def _ascending(radii: Tensor, n: int) -> Tensor:
    radii = radii[:, None].expand(-1, n) if radii.ndim == 1 else radii
    if any(bool((a > b).any()) for a, b in pairwise(radii)):
        raise InputError("radii must ascend")
    return radii


def _monotone(steps: Tensor) -> Tensor:
    """A bound on a larger ball holds on every smaller one."""
    return steps.flip(0).cummin(0).values.flip(0)
