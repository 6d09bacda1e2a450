"""The exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


def averaged_copy(model: nn.Module) -> nn.Module:
    """A copy that holds the average; it needs no gradient and stays in eval mode."""
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, rate: float) -> None:
    """`average <- rate average + (1 - rate) model` for parameters; buffers are copied.

    >>> fast = nn.Linear(1, 1)
    >>> slow = averaged_copy(fast)
    >>> _ = nn.init.constant_(slow.weight, 0.0), nn.init.constant_(fast.weight, 1.0)
    >>> follow(slow, fast, 0.75)
    >>> slow.weight.item()
    0.25
    """
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - rate)
    for held, now in zip(average.buffers(), model.buffers(), strict=True):
        held.copy_(now)
