"""Backward linear bounds (CROWN, 1811.00866): rows of coefficients pulled from a node to the input, and bounded there."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.hulls import Cover
from wassertight.certificates.propagation.layout import flat_maps, flat_rows, raised_rows
from wassertight.certificates.propagation.operations import Add, Affine, Product
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.relaxations import Relaxation, dot
from wassertight.geometry import conjugate, norm

MEMORY = 3 * 10**7
"""Coefficients held at once, about 240 MB in float64."""
CACHED = 2_500_000
"""Coefficients of one node held at once on a CPU: beyond, rows leave its cache, and every new block of memory has to be
cleared by the system first."""


def lower_bounds(
    graph: Graph,
    start: int,
    a: Tensor,
    region: Region,
    relaxations: Mapping[int, Relaxation],
    *,
    tight: bool,
    multipliers: Mapping[int, tuple[Tensor, Tensor]] | None = None,
    cover: Cover | None = None,
    seen: dict[int, Tensor] | None = None,
) -> Tensor:
    """Proved lower bounds of `<a, v>` over the region, v the value of a node.

    Args:
        a: rows (n, m, *shape of the node).
        relaxations: of every ancestor that is not affine.
        tight: whether ball and box are met together at the input, or only the better of the two is used.
        multipliers: for some nodes signed Lagrange multipliers b (n, m, *shape) and points s: `<b, v - s>` is added to
            the row, which is sound where the node's values satisfy `<b, v - s> <= 0`.
        cover: what takes a part of the rows at some hinges straight to the input.
        seen: filled with the rows that arrive at every operation that is not affine, and at the input.

    Returns:
        (n, m).
    """
    whole = multipliers is not None or cover is not None or seen is not None
    found = []
    for part in (a,) if whole else torch.split(a, rows_at_once(graph, start, len(a), a.device), dim=1):
        taken: dict[int, Tensor] = {}
        rows, constant = _pulled(graph, start, part, relaxations, multipliers or {}, cover, taken, seen)
        if cover is not None and taken:
            found.append(constant + _with_planes(rows, cover, taken, graph, seen))
        else:
            found.append(constant if rows is None else constant + region.minimum(rows, tight=tight))
    return torch.cat(found, 1)


def _with_planes(
    rows: Tensor | None, cover: Cover, taken: Mapping[int, Tensor], graph: Graph, seen: dict[int, Tensor] | None
) -> Tensor:
    """Least values (n, m) of rows on the input together with what was taken from them on the way."""
    if rows is None:
        some = next(iter(taken.values()))
        rows = some.new_zeros(*some.shape[:2], *graph.source)
    least, whole = cover.least(flat_rows(rows), taken)
    if seen is not None:
        seen[0] = raised_rows(whole, graph.source)
    return least


def _pulled(
    graph: Graph,
    start: int,
    a: Tensor,
    relaxations: Mapping[int, Relaxation],
    multipliers: Mapping[int, tuple[Tensor, Tensor]],
    cover: Cover | None,
    taken: dict[int, Tensor],
    seen: dict[int, Tensor] | None,
) -> tuple[Tensor | None, Tensor]:
    """Rows on the input (n, m, *source), None where nothing depends on it, and the constant (n, m).

    `taken` is filled with what the cover takes at its hinges.
    """
    n, m = a.shape[:2]
    constant = a.new_zeros(n, m)
    rows: dict[int, Tensor] = {start: a}
    for index in range(start, 0, -1):
        if index not in rows:
            continue
        a = rows.pop(index)
        node = graph.nodes[index]
        if index in multipliers:
            held, point = multipliers[index]
            a = a + held
            constant = constant - dot(held, point)
        if isinstance(node.operation, Affine):
            flat, shift = node.operation.pull(a.flatten(0, 1))
            pulled, constant = [flat.view(n, m, *flat.shape[1:])], constant + shift.view(n, m)
        elif isinstance(node.operation, Add):
            pulled = [a] * len(node.parents)
        else:
            if seen is not None:
                seen[index] = a
            if cover is not None and index in cover.units:
                a, taken[index] = cover.divert(index, a)
            pulled, shift = relaxations[index].pull(a)
            constant = constant + shift
        for parent, part in zip(node.parents, pulled, strict=True):
            rows[parent] = rows[parent] + part if parent in rows else part
    if seen is not None and 0 in rows:
        seen[0] = rows[0]
    return rows.get(0), constant


def rows_at_once(graph: Graph, start: int, samples: int, device: torch.device) -> int:
    """How many rows of every sample are pulled from a node together; where products are met, small batches do not pay."""
    nodes = [graph.nodes[k] for k in graph.ancestors[start]]
    small = device.type == "cpu" and not any(isinstance(node.operation, Product) for node in nodes)
    widest = max(math.prod(node.shape) for node in nodes)
    return max(1, (CACHED if small else MEMORY // 3) // (widest * samples))


def box_form(a: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Lower bounds of rows (n, m, *shape) on values between low and high (n, *shape): (n, m)."""
    flat, low, high = flat_rows(a), flat_maps(low), flat_maps(high)
    return (flat.clamp_min(0) @ low[:, :, None] + flat.clamp_max(0) @ high[:, :, None]).squeeze(2)


def row_norms(graph: Graph, index: int, r: float, like: Tensor) -> Tensor:
    """Dual norm of every row of the matrix from the input to a node that is affine in it."""
    shape = graph.nodes[index].shape
    units, norms = math.prod(shape), []
    for part in torch.split(torch.arange(units, device=like.device), rows_at_once(graph, index, 1, like.device)):
        a = functional.one_hot(part, units).to(like.dtype).view(1, len(part), *shape)
        rows, _ = _pulled(graph, index, a, {}, {}, None, {}, None)
        norms.append(like.new_zeros(len(part)) if rows is None else norm(rows[0].flatten(1), conjugate(r)))
    return torch.cat(norms).view(shape)
