"""Where a backward bound loses: the input its rows are least at, and how far every hinge's lines are off there.

With x* that input, the bounded value at x* exceeds the bound by exactly the sum over hinges of what their lines give away
at x*. So a unit whose lines are exact there has nothing to gain from a split, however wide its interval is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.layout import flat_rows, raised_rows
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.relaxations import Elementwise, Relaxation
from wassertight.certificates.propagation.sharing import Shared
from wassertight.certificates.propagation.slopes import Ascent


def losses(
    graph: Graph, region: Region, ascent: Ascent, relaxations: Mapping[int, Relaxation], cover: Shared | None
) -> dict[int, Tensor]:
    """What every undecided unit costs the bound of its row, by hinge, (m, *shape); -1 for units that are decided.

    Args:
        region: of one sample.
        ascent: of its rows, (1, m) bounds.
        relaxations: with lines (1, 1 or m, *shape).
        cover: planes that rows were sent through.
    """
    steered = {k: r for k, r in relaxations.items() if isinstance(r, Elementwise) and r.free is not None}
    if 0 not in ascent.seen:
        return {k: torch.zeros_like(ascent.choices[k][0]) for k in steered}
    points = region.lowest(ascent.seen[0])[0]
    values, planes, found = graph.values(points), {} if cover is None else cover.values(points), {}
    for k, relaxation in steered.items():
        z, lines, (left, right) = values[graph.nodes[k].parents[0]][None], relaxation.lines, relaxation.hinge
        hinge = torch.maximum(left * z, right * z)
        above = lines.upper_slope * z + lines.upper_shift - hinge
        if cover is not None and k in planes:
            units, flat = cover.units[k], flat_rows(above)
            change = planes[k] - flat_rows(hinge)[:, :, units] - flat[:, :, units]
            above = raised_rows(flat.index_add(2, units, cover.share(k) * change), tuple(above.shape[2:]))
        below = hinge - (left + (right - left) * ascent.choices[k]) * z
        a, free = ascent.seen.get(k), relaxation.free
        assert free is not None
        lost = torch.zeros_like(z) if a is None else a.clamp_min(0) * below - a.clamp_max(0) * above
        found[k] = torch.where(free, lost, -1.0)[0]
    return found
