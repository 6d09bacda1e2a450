"""Memory layout of rows on feature maps: channels last, where transposed convolutions are several times faster."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_last(z: Tensor) -> Tensor:
    """A batch of feature maps (n, C, H, W) with channels innermost in memory; other tensors as they are."""
    return z.contiguous(memory_format=torch.channels_last) if z.ndim == 4 else z


def flat_rows(a: Tensor) -> Tensor:
    """Rows (n, m, *shape) as (n, m, entries); feature maps with channels last, so that nothing is copied."""
    return a.movedim(2, -1).flatten(2) if a.ndim == 5 else a.flatten(2)


def flat_maps(z: Tensor) -> Tensor:
    """A batch (n, *shape) as (n, entries), in the order of `flat_rows`."""
    return z.movedim(1, -1).flatten(1) if z.ndim == 4 else z.flatten(1)


def raised_rows(flat: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `flat_rows`: rows (n, m, entries) as (n, m, *shape)."""
    if len(shape) != 3:
        return flat.view(*flat.shape[:2], *shape)
    return flat.view(*flat.shape[:2], *shape[1:], shape[0]).movedim(-1, 2)
