"""Optimised slopes (alpha-CROWN, 2011.13824) and multipliers of splits (beta-CROWN, 2103.06624), by gradient ascent.

The lower line of an undecided hinge may have any slope between the hinge's two; any choice is sound, so slopes are
variables of an ascent on the bound itself. Where a branch fixes the sign of an argument, the constraint is priced with
a multiplier >= 0, another variable. The best bound seen is kept, whatever the ascent does later.

Differs from the papers: multipliers are priced at the argument's sign with the rounding error of the argument added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.propagation.backward import lower_bounds
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.hulls import Cover
from wassertight.certificates.propagation.layout import flat_rows
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.relaxations import Elementwise, Relaxation

_PRICE = 0.3
"""Step of multipliers, in steps of slopes."""
_DECAY = 0.97
_MOMENTS = (0.4, 0.99)
"""Adam's; ascents are a few steps long, over which its usual 0.9 carries the first direction too far."""


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """Result of an ascent.

    Attributes:
        best: (n, m) best lower bounds seen.
        last: bounds of the last evaluation.
        choices: for every steered node its slopes (n, m, *shape) in [0, 1], where the best was seen.
        held: signed multipliers (n, m, *shape) of the nodes with splits, likewise.
        seen: rows that arrived at every operation that is not affine, and at the input, in the last evaluation.
    """

    best: Tensor
    last: Tensor
    choices: dict[int, Tensor]
    held: dict[int, Tensor]
    seen: dict[int, Tensor]


def ascend(
    graph: Graph,
    start: int,
    a: Tensor,
    region: Region,
    relaxations: Mapping[int, Relaxation],
    *,
    iterations: int,
    rate: float = 0.25,
    choices: Mapping[int, Tensor] | None = None,
    held: Mapping[int, Tensor] | None = None,
    sides: Mapping[int, Tensor] | None = None,
    cover: Cover | None = None,
    offset: Tensor | None = None,
    tight: bool = True,
    latest: bool = False,
) -> Ascent:
    """Raise the lower bounds of rows `a` at a node by choosing slopes and multipliers.

    Args:
        start, a, region, relaxations: as for `lower_bounds`.
        iterations: gradient steps; 0 evaluates the choices given.
        rate: first step in slopes.
        choices, held: where to start; CROWN's own slopes (also for NaN) and 0 without.
        sides: for split nodes +1 where the argument is known >= 0, -1 where <= 0, else 0, (n, m, *shape).
        cover: as for `lower_bounds`; its variables end where the best was seen, those that rows share where the sum was
            best.
        offset: (n, m) added to bounds to decide which rows are settled (bound + offset > 0) and need no more ascent;
            without it all rows go through all steps.
        tight: of the last evaluation, as for `lower_bounds`.
        latest: whether variables are kept from the last evaluation, instead of where the best was seen.
    """
    steered = {
        index: r
        for index, r in relaxations.items()
        if isinstance(r, Elementwise) and r.free is not None and index in graph.ancestors[start]
    }
    sides = sides or {}
    shape = a.shape[:2]
    free: dict[int, Tensor] = {}
    for index, r in steered.items():
        left, right = r.hinge
        given = own = (r.lines.lower_slope - left) / (right - left)
        if choices is not None and index in choices:
            given = torch.where(choices[index].isnan(), own, choices[index])
        free[index] = given.detach().expand(*shape, *given.shape[2:]).clone()
    prices = {
        index: (
            torch.zeros_like(side, dtype=a.dtype) if held is None or index not in held else held[index].detach().clone()
        )
        for index, side in sides.items()
    }
    moved, shares = ([], []) if cover is None else (cover.variables, cover.shares)
    variables = [*free.values(), *prices.values(), *moved]
    count = len(free) + len(prices)
    groups = [{"params": [v], "share": share} for v, share in zip(moved, shares, strict=True)]
    rest = (variables[: len(free)], 1.0), (variables[len(free) : count], _PRICE)
    groups += [{"params": part, "share": share} for part, share in rest if part]
    optimizer = (
        torch.optim.Adam(groups, lr=rate, maximize=True, betas=_MOMENTS, eps=1e-12, fused=True)
        if groups and iterations
        else None
    )
    best = torch.full(shape, -torch.inf, dtype=a.dtype, device=a.device)
    kept = list(variables)
    seen: dict[int, Tensor] = {}
    most = best.new_full((1, 1), -torch.inf)
    for step in range(iterations + 1):
        last = step == iterations
        with torch.enable_grad():
            for variable in variables:
                variable.requires_grad_(not last)
            lines = dict(relaxations) | {index: r.steered(free[index]) for index, r in steered.items()}
            multipliers = {
                index: (price, _edge(steered_at(graph, index, relaxations), sides[index]))
                for index, price in prices.items()
            }
            seen = {}
            value = lower_bounds(
                graph, start, a, region, lines,
                tight=tight and last, multipliers=multipliers, cover=cover, seen=seen,
            )  # fmt: skip
            total = value.sum()
        better, raised = value.detach() > best, total.detach() >= most
        best, most = torch.where(better, value.detach(), best), torch.fmax(most, total.detach())
        if not latest:
            kept = [
                torch.where(_wide(better if v.shape[1] == shape[1] else raised, v), v.detach(), old)
                for v, old in zip(variables, kept, strict=True)
            ]
        if last or optimizer is None or (offset is not None and bool((best + offset > 0).all())):
            break
        gradients = torch.autograd.grad(total, variables, allow_unused=True)
        with torch.no_grad():
            for v, gradient in zip(variables, gradients, strict=True):
                # the fused step takes memory as it lies
                same = gradient is None or gradient.stride() == v.stride()
                v.grad = gradient if same else torch.empty_like(v).copy_(gradient)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"] * _DECAY**step
            optimizer.step()
            for v in (*free.values(), *moved):
                v.requires_grad_(False).clamp_(0, 1)
            if cover is not None and 0 in seen:
                cover.turn(flat_rows(seen[0]), rate * _DECAY**step)
            for index in prices:
                price, side = prices[index].requires_grad_(False), sides[index]
                # known >= 0 is priced from below (<= 0), known <= 0 from above (>= 0)
                price.copy_(torch.where(side > 0, price.clamp_max(0), torch.where(side < 0, price.clamp_min(0), 0.0)))
    with torch.no_grad():
        for v, old in zip(moved, kept[count:], strict=True):
            v.requires_grad_(False).copy_(old)
            v.grad = None
    return Ascent(
        best=best, last=value.detach(), choices=dict(zip(free, kept, strict=False)),
        held=dict(zip(prices, kept[len(free) :], strict=False)),
        seen={index: a.detach() for index, a in seen.items()},
    )  # fmt: skip


def steered_at(graph: Graph, argument: int, relaxations: Mapping[int, Relaxation]) -> Elementwise:
    """The hinge whose argument a node is."""
    for index, relaxation in relaxations.items():
        if argument in graph.nodes[index].parents and isinstance(relaxation, Elementwise):
            return relaxation
    raise KeyError(argument)


def _edge(relaxation: Elementwise, side: Tensor) -> Tensor:
    """The point constraints are priced at: the argument is computed, its exact value may be off by the error."""
    return -side.to(relaxation.error.dtype) * relaxation.error


def _wide(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(*mask.shape, *(1,) * (like.ndim - 2))
