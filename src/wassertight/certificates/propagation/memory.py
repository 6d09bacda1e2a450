"""How many samples are bounded at once: as many as the memory that is free now holds."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from wassertight.certificates.propagation.backward import MEMORY
from wassertight.certificates.propagation.graph import Graph

_SHARE = 0.5
"""Of the free memory, at most."""
_KEPT = 16
"""Numbers kept for every unit of a sample: bounds, errors, enclosures, and copies on the way."""
_MOST = {"cpu": 64, "cuda": 2048}
"""Larger batches gain nothing."""


def fitting_batch(graph: Graph, dtype: torch.dtype, device: torch.device) -> int:
    """Samples whose bounds and rows of coefficients fit in memory; at least one."""
    size = torch.finfo(dtype).bits // 8
    units = sum(math.prod(node.shape) for node in graph.nodes)
    last = graph.classes * max(math.prod(node.shape) for node in graph.nodes)
    room = _SHARE * free_memory(device) - 4 * MEMORY * size
    return int(min(_MOST.get(device.type, 256), max(1, room // (size * (_KEPT * units + 4 * last)))))


def free_memory(device: torch.device) -> float:
    """Bytes that can be had on a device; inf where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        table = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024.0 * int(table["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        return math.inf
