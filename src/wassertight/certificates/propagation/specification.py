"""What a certificate of a classifier bounds: differences of logits, the true class less every other."""

from __future__ import annotations

import torch
from torch import Tensor


def specification(y: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Rows e_y - e_j for every j != y, (n, classes - 1, classes)."""
    eye = torch.eye(classes, dtype=dtype, device=y.device)
    return eye[y][:, None] - eye[other_classes(y, classes)]


def other_classes(y: Tensor, classes: int) -> Tensor:
    """Every j != y, ascending, (n, classes - 1).

    >>> other_classes(torch.tensor([1]), 3).tolist()
    [[0, 2]]
    """
    every = torch.arange(classes, device=y.device).expand(len(y), classes)
    return every[every != y[:, None]].view(len(y), classes - 1)
