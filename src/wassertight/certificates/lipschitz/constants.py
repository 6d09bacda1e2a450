"""The chain of slopes of a ReLU network's loss: `l <= Lambda <= Lip_N <= L`, each an interval with its assumptions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wassertight.certificates.lipschitz.cells import largest_gradient
from wassertight.certificates.lipschitz.infinity import AtInfinity, far_slope
from wassertight.certificates.lipschitz.network import read_network
from wassertight.certificates.lipschitz.outcome import CellSearch, Effort
from wassertight.certificates.lipschitz.programmes import Domain
from wassertight.certificates.lipschitz.recession import lower_slope
from wassertight.certificates.lipschitz.slope import check_loss, steepest_rise
from wassertight.geometry import norm_name
from wassertight.inputs import check_inputs, check_labels
from wassertight.types import Bounds, InputError, Model

_FLOATS = "computed in float64 for the stored weights; proved sides are rounded outward"
_CELLS = "cells whose largest ball has radius at most 1e-9 count as empty; HiGHS decides emptiness to 1e-10"


@dataclass(frozen=True, kw_only=True)
class LipschitzBounds:
    """One constant between two bounds.

    Attributes:
        name: "l", "Lambda", "Lip_N" or "L".
        lower: attained: there is a witness.
        upper: proved.
        exact: whether `upper - lower` is within the relative tolerance.
        norm: of the ground cost, "L1", "L2" or "Linf".
        domain: where inputs may lie.
        loss: the loss it is a slope of.
        pair: (y, j), the label and the other class that attain `lower`.
        witness: a point of the cell (L), a unit direction (Lambda, l), or the moved point (Lip_N); the input's shape.
        mask: sides of all units there, (units,) bool.
        slack: l and Lambda: how far inside its cone the direction lies, the smallest `(2 D - I) A u`.
        cells: full masks tested; nodes: partial ones bounded (Lambda: nodes of the solver); units: undecided ones.
        assumptions: everything `upper` and `lower` rest on.
    """

    name: str
    lower: float
    upper: float
    exact: bool
    norm: str
    domain: str
    loss: str
    pair: tuple[int, int] | None
    witness: Tensor | None = field(repr=False)
    mask: Tensor | None = field(repr=False)
    slack: float | None = None
    cells: int = 0
    nodes: int = 0
    units: int = 0
    seconds: float = 0.0
    assumptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.lower <= self.upper:
            raise InputError(f"{self.name}: lower {self.lower} exceeds upper {self.upper}; one of the two is wrong")


def lipschitz_constants(
    model: Model, x: Tensor, y: Tensor, *, norm: float, bounds: Bounds = (0.0, 1.0), loss: str = "margin",
    seconds: float = 60.0, tolerance: float = 1e-7, seed: int = 0,
) -> tuple[LipschitzBounds, ...]:  # fmt: skip
    """How steep a ReLU network's loss is: the constants of the linear worst-case bounds, smallest first.

    On the whole space (`bounds=None`) and for p = 1, `l <= Lambda <= excess(radius) / radius <= Lip_N <= L`; for every p
    `excess <= radius L`. On a box no direction is unbounded, so only Lip_N and L are returned. L, Lambda and l are those
    of the cross-entropy, the margin loss and the logit differences alike; Lip_N depends on the loss.

    Args:
        model: feed-forward with hinges (ReLU, leaky ReLU) in a row.
        x, y: samples (n, *features), (n,); labels that are present are the ones that count.
        norm: order r of the ground norm, 1, 2 or inf.
        bounds: the box of admissible inputs, or None for the whole space.
        loss: "cross-entropy", "margin" or "logit-difference".
        seconds: wall time of every constant.

    Raises:
        UnsupportedLayerError: for networks with anything but affine operations and hinges in a row.
        InputError: for another norm, or a loss without a Lipschitz constant.

    Reference: 2510.10000, theorems on the upper and lower slope; Lambda, Lip_N and the search are ours.
    """
    check_loss(loss)
    x, y = check_inputs(x, y, bounds)
    network = read_network(model, x[:4])
    check_labels(y, network.classes)
    flat = x.detach().double().cpu().flatten(1)
    labels = sorted(set(y.tolist()))
    domain = Domain.of(network.inputs, bounds)
    about: dict[str, Any] = {
        "norm": norm_name(norm),
        "domain": "the whole space" if bounds is None else f"the box [{bounds[0]:g}, {bounds[1]:g}]",
        "loss": loss,
    }
    effort = Effort(seconds=seconds, tolerance=tolerance)
    search = largest_gradient(network, labels, norm, domain, effort=effort, points=flat[:256], seed=seed)
    top = _of_cells(search, x.shape[1:], about)
    chain: list[LipschitzBounds] = []
    directions, floor = None, 0.0
    if bounds is None and network.units:
        far = far_slope(network, labels, norm, seconds=seconds, tolerance=tolerance, seed=seed)
        small = lower_slope(network, labels, norm, min(far.upper, search.upper), seconds=seconds, seed=seed)
        shape = x.shape[1:]
        chain.append(_far("l", small, min(far.upper, search.upper), tolerance, shape, about))
        chain.append(_far("Lambda", far, search.upper, tolerance, shape, about))
        directions = None if far.direction is None else far.direction[None]
        floor = far.lower
    rise, sample, z = steepest_rise(network, flat, y.cpu(), norm, domain, loss=loss, directions=directions)
    lower = min(max(rise, floor), search.upper)
    chain.append(
        LipschitzBounds(
            name="Lip_N",
            lower=lower,
            upper=search.upper,
            exact=search.upper <= lower * (1 + tolerance),
            **about,
            pair=None,
            witness=z.view(x.shape[1:]),
            mask=None,
            seconds=0.0,
            assumptions=(
                f"lower: rise from sample {sample} to the witness" + (", or Lambda" if floor > rise else ""),
                "upper: L",
                "p = 1, labels do not move",
                _FLOATS,
            ),
        )
    )
    return (*chain, top)


def local_lipschitz(
    model: Model, x: Tensor, radius: float, *, norm: float, labels: tuple[int, ...], bounds: Bounds = (0.0, 1.0),
    seconds: float = 60.0, tolerance: float = 1e-7, seed: int = 0,
) -> LipschitzBounds:  # fmt: skip
    """L over the cells that meet the ball of a radius around one sample x (1, *features), cut with the box."""
    network = read_network(model, x)
    domain = Domain.of(network.inputs, bounds, x[0], radius, norm)
    about = {
        "norm": norm_name(norm),
        "domain": f"the ball of radius {radius:g} around the sample, in the box",
        "loss": "margin",
    }
    effort = Effort(seconds=seconds, tolerance=tolerance)
    search = largest_gradient(network, labels, norm, domain, effort=effort, seed=seed)
    return _of_cells(search, x.shape[1:], about)


def _of_cells(search: CellSearch, shape: torch.Size, about: dict[str, Any]) -> LipschitzBounds:
    return LipschitzBounds(
        name="L", lower=search.lower, upper=search.upper, exact=search.converged, **about, pair=search.pair,
        witness=None if search.point is None else search.point.view(shape), mask=search.mask, cells=search.cells,
        nodes=search.nodes, units=search.units, seconds=search.seconds,
        assumptions=("the domain is convex; labels do not move", _CELLS, _FLOATS),
    )  # fmt: skip


def _far(
    name: str, found: AtInfinity, ceiling: float, tolerance: float, shape: torch.Size, about: dict[str, Any]
) -> LipschitzBounds:
    upper = max(min(found.upper, ceiling), found.lower)
    more = ("cones of the network without shifts that have no interior are left out",) if name == "l" else ()
    return LipschitzBounds(
        name=name, lower=found.lower, upper=upper, exact=upper - found.lower <= max(tolerance, 3e-6) * ceiling, **about,
        pair=found.pair, witness=None if found.direction is None else found.direction.view(shape), mask=found.mask,
        slack=found.slack, nodes=found.nodes, seconds=found.seconds,
        assumptions=("p = 1, the whole space, labels do not move: no lower slope on a box or for p > 1",
                     "upper: HiGHS to a relative 1e-6", *more, _FLOATS),
    )  # fmt: skip
