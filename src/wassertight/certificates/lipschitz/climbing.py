"""Large gradients at real points: the best of many points, then from cell to neighbouring cell uphill."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.lipschitz.network import ReluNetwork
from wassertight.certificates.lipschitz.programmes import INTERIOR, Cells

_CLEAR = 1e-9
"""Points whose arguments are closer to a hinge, relative to the largest, are not used: their mask is not certain."""
_PROGRAMMES = 150
_ENTRIES = 4 * 10**6


@dataclass(frozen=True, kw_only=True)
class Found:
    """A gradient at a point: its norm, the row of the specification, the mask and the point."""

    value: float
    pair: int
    on: Tensor | None
    z: Tensor | None


def dual_norm(v: Tensor, s: float) -> Tensor:
    """The s-norm over the last axis."""
    size: Tensor = torch.linalg.vector_norm(v, s, dim=-1)
    return size


def sample(network: ReluNetwork, spec: Tensor, s: float, z: Tensor) -> tuple[Found, Tensor]:
    """The largest gradient at points (n, inputs), and all masks met, (m, units); points on a hinge are left out."""
    a = network.arguments(z)
    clear = ((a.abs() > _CLEAR * a.abs().amax(1, keepdim=True)) | _constant(network)).all(1)
    if not bool(clear.any()):
        return Found(value=0.0, pair=0, on=None, z=None), a[:0] > 0
    on, mask = torch.unique(a[clear] > 0, dim=0, return_inverse=True)
    at = torch.full((len(on),), len(mask)).scatter_reduce(0, mask, torch.arange(len(mask)), "amin")
    some = max(1, _ENTRIES // (len(spec) * network.inputs))
    norms = torch.cat([dual_norm(network.gradients(part[:, None], spec), s) for part in torch.split(on, some)])
    best, pair = norms.max(1)
    k = int(best.argmax())
    return Found(value=float(best[k]), pair=int(pair[k]), on=on[k], z=z[clear][at[k]]), on


def climb(
    network: ReluNetwork, cells: Cells, spec: Tensor, s: float, start: Found, end: float
) -> tuple[Found, int]:  # fmt: skip
    """Flip one unit at a time, largest gain first, as long as the new mask has a cell in the domain.

    Returns:
        the last gradient, and the number of linear programmes solved.
    """
    best, solved, at = start, 0, start.on
    if at is None:
        return start, 0
    flips = torch.eye(network.units, dtype=torch.bool)
    c = spec[start.pair]
    refused: set[bytes] = set()
    while solved < _PROGRAMMES and time.perf_counter() < end:
        masks = at ^ flips
        values = dual_norm(network.gradients(masks, c), s)
        for k in values.argsort(descending=True).tolist():
            if not values[k] > best.value * (1 + 1e-12) or solved >= _PROGRAMMES:
                return best, solved
            on = masks[k]
            name = on.numpy().tobytes()
            if name in refused:
                continue
            solved += 1
            radius, z = cells.meets(on.to(torch.int8).numpy())
            a = network.arguments(z[None])[0]
            if (
                radius > INTERIOR
                and cells.domain.contains(z[None]).item()
                and bool(torch.where(on, a >= 0, a <= 0).all())
            ):
                at, best = on, Found(value=float(values[k]), pair=start.pair, on=on, z=z)
                break
            refused.add(name)
        else:
            return best, solved
    return best, solved


def ascend(
    network: ReluNetwork, spec: Tensor, s: float, pair: Tensor, generator: torch.Generator, end: float
) -> list[Found]:
    """Masks that no flip of one unit improves, whether or not they have a cell; no points, best first.

    Args:
        pair: rows of spec, one a random start.
        end: by `time.perf_counter`; what is reached by then is returned.
    """
    flips = torch.eye(network.units, dtype=torch.bool)
    on = torch.rand(len(pair), network.units, generator=generator) < 0.5
    value = dual_norm(network.gradients(on, spec[pair]), s)
    moving = torch.ones(len(on), dtype=torch.bool)
    for _ in range(4 * network.units):
        rows = moving.nonzero().squeeze(1)
        if not len(rows):
            break
        for part in torch.split(rows, max(1, _ENTRIES // (network.units * network.inputs))):
            if time.perf_counter() > end:
                moving[:] = False
                break
            masks = on[part, None] ^ flips
            best, k = dual_norm(network.gradients(masks, spec[pair[part], None]), s).max(1)
            better = best > value[part] * (1 + 1e-12)
            moving[part] = better
            on[part] ^= flips[k] & better[:, None]
            value[part] = torch.where(better, best, value[part])
    order = value.argsort(descending=True).tolist()
    found = {(int(pair[k]), on[k].numpy().tobytes()): k for k in order}
    return [Found(value=float(value[k]), pair=int(pair[k]), on=on[k], z=None) for k in found.values()]


def _constant(network: ReluNetwork) -> Tensor:
    """Units of the first layer that do not see the input: their side is their shift's."""
    known = torch.zeros(network.units, dtype=torch.bool)
    if network.sizes:
        known[: network.sizes[0]] = (network.weights[0] == 0).all(1)
    return known
