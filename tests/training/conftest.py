"""A small smooth network in float64 and a batch for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(12, 1, 2, 3, generator=generator, dtype=torch.float64) * 0.6 + 0.2
    return x, torch.randint(0, 4, (12,), generator=generator)
