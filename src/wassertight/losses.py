"""Attack losses, one value a sample: cross-entropy, margin, DLR and ReDLR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from wassertight.types import InputError


def cross_entropy(logits: Float[Tensor, "n k"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Cross-entropy `-log softmax(z)_y`, one value a sample, in nats.

    >>> round(float(cross_entropy(torch.zeros(1, 4), torch.tensor([2]))), 6)
    1.386294
    """
    return functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Float[Tensor, "n k"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Margin loss `max over j != y of z_j, minus z_y`: positive exactly when misclassified.

    Two classes or more. 2510.10000 section 1 (there ML).

    >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])).tolist()
    [-1.0]
    """
    return best_other(logits, y)[0] - logits.gather(1, y[:, None]).squeeze(1)


def best_other(logits: Float[Tensor, "n k"], y: Int[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Largest logit among the classes other than y, and its class."""
    value, index = logits.scatter(1, y[:, None], -torch.inf).max(1)
    return value, index


def class_margin(logits: Float[Tensor, "n k"], pairs: Int[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """Margin towards one class, `z_j - z_y`, for rows (y, j) of `pairs`.

    >>> class_margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[0, 2]])).tolist()
    [-1.0]
    """
    picked = logits.gather(1, pairs)
    return picked[:, 1] - picked[:, 0]


def weighted(logits: Float[Tensor, "n k"], v: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """A linear combination `<v, z>` of the logits, one weight vector a sample: the loss of diversified starts.

    >>> weighted(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, -1.0]])).tolist()
    [2.0]
    """
    return (logits * v).sum(1)


def dlr(logits: Float[Tensor, "n k"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Difference of logits ratio `-(z_y - max_{j != y} z_j) / (z_(1) - z_(3) + 1e-12)`.

    Invariant to shift and scale of the logits; in [-1, 0] on correctly classified samples. Needs three classes.
    2003.01690 equation 6.

    Raises:
        InputError: for two classes, where the ratio is constant; use the margin loss there.
    """
    if logits.shape[1] < 3:
        raise InputError(f"DLR needs at least 3 classes, the model returns {logits.shape[1]}; use loss='margin'")
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def redlr(logits: Float[Tensor, "n k"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Rectified DLR `min(DLR, 0)`: value and gradient are zero once a sample is misclassified.

    2306.09844 section 5 (ReDLR). Needs three classes, as DLR.
    """
    return dlr(logits, y) * (margin(logits, y) < 0)


def targeted_dlr(logits: Float[Tensor, "n k"], pairs: Int[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """Targeted DLR `-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12)` for rows (y, t) of `pairs`.

    Needs four classes. 2003.01690 equation 7.

    Raises:
        InputError: for fewer classes; use the class margin there.
    """
    if logits.shape[1] < 4:
        raise InputError(f"targeted DLR needs at least 4 classes, the model returns {logits.shape[1]}")
    top = logits.topk(4, dim=1).values
    return class_margin(logits, pairs) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"cross-entropy": cross_entropy, "margin": margin, "dlr": dlr, "redlr": redlr}
)
"""Attack losses by the name users give."""


def loss_name(name: str) -> str:
    """The name in lower case, spelled out: "ce" is short for cross-entropy."""
    return "cross-entropy" if name.lower() in ("ce", "cross_entropy") else name.lower()


def loss_by_name(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of that name; "ce" is short for cross-entropy."""
    key = loss_name(name)
    if key not in LOSSES:
        raise InputError(f"unknown loss {name!r}; allowed: {', '.join(LOSSES)}")
    return LOSSES[key]
