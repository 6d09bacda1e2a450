"""All Lipschitz constants of one network beside each other, from the loosest bound to the exact value."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wassertight.certificates.lipschitz.constants import lipschitz_constants
from wassertight.certificates.lipschitz.jacobians import jacobian_bounds
from wassertight.certificates.lipschitz.norms import product_bounds
from wassertight.certificates.lipschitz.slope import check_loss
from wassertight.certificates.propagation.reading import read_graph
from wassertight.geometry import norm_name
from wassertight.inputs import check_inputs
from wassertight.types import Bounds, Model, UnsupportedLayerError

_SMALL = 1024
"""Most hidden units for which the Jacobian's linear bounds take seconds, not minutes."""
_REGION = "the domain is convex; labels do not move; float64 bounds for the network in exact arithmetic, moved outward"


@dataclass(frozen=True, kw_only=True)
class LipschitzRow:
    """One constant, or one bound of a constant.

    Attributes:
        constant: "l", "Lambda", "Lip_N" or "L" (see `lipschitz_constants`).
        lower: attained, or None where the method gives no lower end.
        upper: proved; inf where nothing is.
        how: the method.
        cells, units: of an exact search: masks tested for a cell, and units whose side is not known (2**units masks).
    """

    norm: str
    constant: str
    lower: float | None
    upper: float
    how: str
    domain: str
    exact: bool = False
    cells: int | None = None
    nodes: int | None = None
    units: int | None = None
    seconds: float = 0.0
    assumptions: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """For tables and JSON."""
        return vars(self) | {"seconds": round(self.seconds, 3), "assumptions": list(self.assumptions)}


def lipschitz_table(
    model: Model, x: Tensor, y: Tensor, *, norm: float, bounds: Bounds = (0.0, 1.0), loss: str = "margin",
    exact: bool = False, seconds: float = 60.0, seed: int = 0,
) -> tuple[LipschitzRow, ...]:  # fmt: skip
    """Lipschitz constants of a loss in one ground norm: products of norms, Jacobian bounds and, if asked, exact ones.

    Args:
        model, x, y, norm, bounds, loss, seconds, seed: as for `lipschitz_constants`.
        exact: search the activation cells too (feed-forward ReLU networks only).

    Raises:
        UnsupportedLayerError: the network cannot be read, or `exact` for another architecture.

    Reference: 2510.10000, the constants of its upper and lower bounds.
    """
    check_loss(loss)
    x, y = check_inputs(x, y, bounds)
    domain = "the whole space" if bounds is None else f"the box [{bounds[0]:g}, {bounds[1]:g}]"
    about: dict[str, Any] = {"norm": norm_name(norm), "domain": domain}
    first = _one_a_label(y)
    with torch.no_grad():
        begun = time.perf_counter()
        graph = read_graph(model, x[:2], dtype=torch.float64, device=x.device)
        product = float(product_bounds(graph, norm)[y[first].cpu()].amax())
        rows = [
            LipschitzRow(constant="L", lower=None, upper=product, how="product of norms", **about,
                         seconds=time.perf_counter() - begun, assumptions=(_REGION,))
        ]  # fmt: skip
        if bounds is not None:
            begun = time.perf_counter()
            whole = torch.full((len(first),), torch.inf, dtype=torch.float64, device=x.device)
            method = "linear" if graph.units <= _SMALL else "interval"
            local = jacobian_bounds(graph, x[first], y[first], whole, norm, bounds, method=method)
            rows.append(
                LipschitzRow(constant="L", lower=None, upper=float(local.amax()), how=f"Jacobian, {method} bounds", **about,
                             seconds=time.perf_counter() - begun, assumptions=(_REGION,))
            )  # fmt: skip
    if not exact:
        return tuple(rows)
    try:
        chain = lipschitz_constants(model, x, y, norm=norm, bounds=bounds, loss=loss, seconds=seconds, seed=seed)
    except UnsupportedLayerError as error:
        raise UnsupportedLayerError(f"--exact searches feed-forward ReLU networks only: {error}") from error
    how = {"l": "recession cones", "Lambda": "mixed-integer programme", "Lip_N": "ascent, L", "L": "activation cells"}
    ceiling = min(row.upper for row in rows)  # no constant of the chain exceeds L
    for found in reversed(chain):
        searched = found.name == "L"
        rows.append(
            LipschitzRow(
                constant=found.name, lower=found.lower, upper=min(found.upper, ceiling), exact=found.exact, **about,
                how=how[found.name] + ("" if found.exact or not searched else ", stopped by the clock"),
                cells=found.cells if searched else None, nodes=found.nodes if searched else None,
                units=found.units if searched else None, seconds=found.seconds, assumptions=found.assumptions,
            )
        )  # fmt: skip
    return tuple(rows)


def _one_a_label(y: Tensor) -> Tensor:
    """The position of one sample of every label."""
    return torch.stack([(y == label).nonzero()[0, 0] for label in sorted(set(y.tolist()))])
