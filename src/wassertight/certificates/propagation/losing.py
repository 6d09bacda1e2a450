"""Where a backward bound loses: the input its rows are least at, and how far every hinge's lines are off there.

With x* that input, the bounded value at x* exceeds the bound by exactly the sum over hinges of what their lines give away
at x*. So a unit whose lines are exact there has nothing to gain from a split, however wide its interval is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.hulls import Held
from wassertight.certificates.propagation.layout import flat_maps, flat_rows, raised_rows
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.relaxations import Elementwise, Relaxation
from wassertight.certificates.propagation.slopes import Ascent


def losses(
    graph: Graph, region: Region, ascent: Ascent, relaxations: Mapping[int, Relaxation], covers: Mapping[int, Held]
) -> dict[int, Tensor]:
    """What every undecided unit costs the bound of its row, by hinge, (n, *shape); -1 for units that are decided.

    Args:
        region: of the one sample all rows belong to.
        ascent: of n rows, (n, 1) bounds.
        relaxations: with lines (n or 1, 1, *shape).
        covers: planes that rows were sent through.
    """
    steered = {k: r for k, r in relaxations.items() if isinstance(r, Elementwise) and r.free is not None}
    if 0 not in ascent.seen:
        return {k: ascent.choices[k].new_zeros(ascent.choices[k][:, 0].shape) for k in steered}
    points = region.lowest(ascent.seen[0].transpose(0, 1))[0].to(region.x.dtype)
    values = graph.values(points)
    found = {}
    for k, relaxation in steered.items():
        z, lines, (left, right) = values[graph.nodes[k].parents[0]][:, None], relaxation.lines, relaxation.hinge
        hinge = torch.maximum(left * z, right * z)
        above = lines.upper_slope * z + lines.upper_shift - hinge
        if k in covers:
            above = _through(above, flat_rows(hinge), covers[k], points)
        below = hinge - (left + (right - left) * ascent.choices[k]) * z
        a, free = ascent.seen.get(k), relaxation.free
        assert free is not None
        lost = torch.zeros_like(z) if a is None else a.clamp_min(0) * below - a.clamp_max(0) * above
        found[k] = torch.where(free, lost, -1.0).squeeze(1)
    return found


def _through(above: Tensor, hinge: Tensor, held: Held, points: Tensor) -> Tensor:
    """How far the upper sides are above a hinge, where a share of a row goes through planes."""
    offsets = (flat_maps(points) - held.centre).to(held.coefficients.dtype)
    planes = (offsets @ held.coefficients.T + held.shift)[:, None] - hinge[:, :, held.units]
    flat = flat_rows(above)
    chords = flat[:, :, held.units]
    return raised_rows(flat.index_add(2, held.units, held.share * (planes - chords)), tuple(above.shape[2:]))
