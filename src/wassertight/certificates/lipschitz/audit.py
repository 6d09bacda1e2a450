"""How often a sample's own cell contains, out to infinity, the direction in which its gradient is steepest.

For a sample x with mask D, its label y and another class j let `g = J_D' (e_j - e_y)` and `u = M_r(g)`. The lower slope l
counts the triple (D, y, j) where `(2 D^t - I) A_D^t u >= 0` in every layer t: the condition audited here, layer by layer.
Then `u <- M_r(grad (f_0,j - f_0,y)(u))` is followed from every u; where it rests there is a triple as well.

Departures from 2510.10000:
1. Where M_r is a set (entries of g that are 0 for r = inf, ties for r = 1) one direction is tried.
2. A gradient of zero has no steepest direction; such pairs count as failing in every layer.
3. The condition is read to 1e-9 of a layer's largest argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from wassertight.certificates.lipschitz.climbing import dual_norm
from wassertight.certificates.lipschitz.infinity import ROUNDS
from wassertight.certificates.lipschitz.network import ReluNetwork, read_network
from wassertight.certificates.lipschitz.recession import own_direction
from wassertight.geometry import conjugate, dual_direction, norm_name
from wassertight.inputs import check_inputs, check_labels
from wassertight.types import Bounds, InputError, Model

_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class ConeAudit:
    """Counts over all (sample, other class) pairs. Nothing here is proved from above: the values are attained ones.

    Attributes:
        norm: of the ground cost, "L1", "L2" or "Linf".
        pairs: how many were audited, n (classes - 1).
        holds: share of the pairs for which the condition holds in layer t, one number a hidden layer.
        holds_up_to: the same for layers 1..t together; the last entry is the share of tight triples.
        violated: share of a layer's units on the wrong side, the median over pairs, one number a hidden layer.
        violated_overall: the same over all units.
        tight: pairs whose own cell satisfies it in all layers.
        reached: pairs from which the iteration comes to rest at a tight triple.
        distinct: how many different (class pair, mask) triples were reached.
        attained_lower: l is at least this: the largest gradient of a tight triple met, 0 if none was.
        attained_far: Lambda is at least this: the largest slope of the network without shifts along a direction met.
        pair: (y, j) of `attained_lower`.
        witness: its unit direction, in the input's shape.
        assumptions: what the values rest on.
    """

    norm: str
    pairs: int
    holds: tuple[float, ...]
    holds_up_to: tuple[float, ...]
    violated: tuple[float, ...]
    violated_overall: float
    tight: int
    reached: int
    distinct: int
    attained_lower: float
    attained_far: float
    pair: tuple[int, int] | None
    witness: Tensor | None = field(repr=False)
    assumptions: tuple[str, ...] = (
        "p = 1, the whole space, labels do not move: no lower slope on a box or for p > 1",
        "attained values bound l and Lambda from below; float64, sides read to a relative 1e-9",
    )


def cone_audit(
    model: Model, x: Tensor, y: Tensor, *, norm: float, bounds: Bounds = (0.0, 1.0), rounds: int = ROUNDS
) -> ConeAudit:
    """Whether the paper's lower slope has anything to stand on at real samples.

    Args:
        model: feed-forward with hinges (ReLU, leaky ReLU) in a row.
        x, y: samples (n, *features), (n,).
        norm: order r of the ground norm, r >= 1.
        bounds: the box the samples are checked against, or None; the cones are those of the whole space.
        rounds: steps of the iteration from every pair.

    Raises:
        UnsupportedLayerError: for networks with anything but affine operations and hinges in a row.
        InputError: for a norm below 1, a single class, or samples and labels that do not fit.

    Reference: 2510.10000, the theorem on the lower slope, whose condition this is.
    """
    s = conjugate(norm)
    x, y = check_inputs(x, y, bounds)
    network = read_network(model, x[:4])
    check_labels(y, network.classes)
    if network.classes < 2:
        raise InputError("the model returns one logit; an audit compares pairs of classes, at least 2 are needed")
    flat, y = x.detach().double().cpu().flatten(1), y.cpu()
    row, other = (torch.arange(network.classes) != y[:, None]).nonzero(as_tuple=True)
    eye = torch.eye(network.classes, dtype=torch.float64)
    c = eye[other] - eye[y[row]]
    on = (network.arguments(flat) > 0)[row]
    g = network.gradients(on, c)
    size, u = dual_norm(g, s), dual_direction(g, norm)

    sides = torch.split(own_sides(network, on, u) & (size > 0)[:, None], network.sizes, 1) if network.sizes else ()
    layers = torch.stack([side.all(1) for side in sides], 1) if sides else torch.ones(len(c), 0, dtype=torch.bool)
    first = layers.cumprod(1).bool()
    tight = layers.all(1) & (size > 0)

    found, start, far = torch.where(tight, size, 0.0), u, torch.zeros(len(c), dtype=torch.float64)
    net = network.homogeneous
    for _ in range(rounds):
        far = torch.maximum(far, (net.logits(u) * c).sum(1))
        u = dual_direction(net.gradients(net.arguments(u) > 0, c), norm)
    rest = own_direction(net, c[:, None], norm, u)[:, 0]
    at = torch.where((rest > found)[:, None], u, start)
    found, reached = torch.maximum(found, rest), rest > 0
    best = int(found.argmax())
    some = bool(found[best] > 0)
    return ConeAudit(
        norm=norm_name(norm),
        pairs=len(c),
        holds=_means(layers),
        holds_up_to=_means(first),
        violated=tuple(float((~side).double().mean(1).median()) for side in sides),
        violated_overall=float((~torch.cat(sides, 1)).double().mean(1).median()) if sides else 0.0,
        tight=int(tight.sum()),
        reached=int(reached.sum()),
        distinct=len(torch.unique(torch.cat((c, net.arguments(u) > 0), 1)[reached], dim=0)),
        attained_lower=float(found[best]),
        attained_far=float(torch.maximum(far, found).max()),
        pair=(int(y[row[best]]), int(other[best])) if some else None,
        witness=at[best].view(x.shape[1:]) if some else None,
    )


def own_sides(network: ReluNetwork, on: Tensor, u: Tensor) -> Tensor:
    """Unit by unit, whether direction u (n, inputs) keeps to the sides of mask on: `(2 D - I) A_D u >= 0`, (n, units)."""
    sides = []
    slopes = torch.split(network.slopes(on), network.sizes, 1) if network.sizes else ()
    for w, slope, side in zip(
        network.weights, slopes, torch.split(on, network.sizes, 1) if slopes else (), strict=False
    ):
        a = u @ w.T
        sides.append(torch.where(side, a, -a) >= -_ROUNDING * a.abs().amax(1, keepdim=True))
        u = slope * a
    return torch.cat(sides, 1) if sides else on


def _means(held: Tensor) -> tuple[float, ...]:
    return tuple(held.double().mean(0).tolist())
