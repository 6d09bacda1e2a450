"""Affine stretches of a graph as one matrix: rows at a node pulled back to where the stretch begins."""

from __future__ import annotations

from torch import Tensor

from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.operations import Affine


def segment_rows(graph: Graph, index: int, a: Tensor) -> dict[int, Tensor]:
    """Rows a (n, m, *shape) on a node's value as rows (n, m, entries) on the values its affine stretch begins with.

    These are the input (0) and the nearest operations that are not affine; constants are left out.
    """
    pending, found = {index: a}, {}
    for k in range(index, -1, -1):
        if k not in pending:
            continue
        rows, node = pending.pop(k), graph.nodes[k]
        if k == 0 or not node.affine:
            found[k] = rows.flatten(2)
            continue
        for parent in node.parents:
            part = rows
            if isinstance(node.operation, Affine):
                flat = node.operation.pull(rows.flatten(0, 1))[0]
                part = flat.reshape(*rows.shape[:2], *flat.shape[1:])
            pending[parent] = pending[parent] + part if parent in pending else part
    return found
