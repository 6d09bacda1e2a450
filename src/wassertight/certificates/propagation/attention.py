"""`nn.MultiheadAttention` with the batch first, in place of PyTorch's own forward while a model is recorded.

PyTorch's forward moves the batch behind the tokens and merges it with the heads, which hides what is one sample's; the
values are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wassertight.types import UnsupportedLayerError


@contextmanager
def batch_first_attention() -> Iterator[None]:
    """Inside the block every `nn.MultiheadAttention` computes what it always does, in operations on one sample each."""
    original = nn.MultiheadAttention.forward
    try:
        nn.MultiheadAttention.forward = _forward  # type: ignore[method-assign]
        yield
    finally:
        nn.MultiheadAttention.forward = original  # type: ignore[method-assign]


def _forward(
    self: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    reasons = {
        "batch_first=False": not self.batch_first or query.ndim != 3,
        "a key padding mask": key_padding_mask is not None,
        "bias_k, bias_v or add_zero_attn": self.bias_k is not None or self.add_zero_attn,
        "dropout in training mode": self.training and self.dropout > 0,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedLayerError(f"multi-head attention with {reason} cannot be bounded")

    def heads(z: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        parts = functional.linear(z, weight, bias)
        return parts.reshape(*parts.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    if self.in_proj_weight is not None:
        weights = self.in_proj_weight.chunk(3)
    else:
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
    biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
    q, k, v = (heads(z, w, b) for z, w, b in zip((query, key, value), weights, biases, strict=True))
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask)
    shares = None
    if need_weights:
        scores = q @ k.transpose(2, 3) * self.head_dim**-0.5
        shares = torch.softmax(scores if attn_mask is None else scores + attn_mask, 3)
        shares = shares.mean(1) if average_attn_weights else shares
    return functional.linear(out.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias), shares
