"""Checks inputs and labels once, with errors that say what was got and what is allowed."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from wassertight.types import Bounds, BoxNotice, InputError

BOX_TOLERANCE = 1e-6
"""Inputs this far outside the box are clipped with a notice; further out they are refused."""


def check_inputs(x: Tensor, y: Tensor, bounds: Bounds = (0.0, 1.0)) -> tuple[Tensor, Tensor]:
    """Check a labelled batch and return it ready for use: floating inputs inside the box, labels int64.

    Args:
        x: inputs, shape (n, *features), floating point, finite.
        y: class indices, shape (n,), integer type, >= 0 (the upper end is checked against the logits).
        bounds: the box every input must lie in, or None.

    Returns:
        x clipped to the box where it was outside by at most 1e-6, and y as int64 on x's device.

    Raises:
        InputError: for anything else, naming the first offending sample.

    >>> check_inputs(torch.zeros(2, 3), torch.tensor([0, 1]))[1].dtype
    torch.int64
    """
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise InputError(f"x and y must be torch tensors, got {type(x).__name__} and {type(y).__name__}")
    if x.ndim < 2:
        raise InputError(f"x must have shape (n, *features), got {tuple(x.shape)}; add the sample dimension")
    if len(x) == 0 or x.numel() == 0:
        raise InputError(f"x is empty (shape {tuple(x.shape)}); at least one sample is needed")
    if not x.is_floating_point():
        raise InputError(f"x must be floating point, got {x.dtype}; divide 8-bit images by 255")
    if y.shape != (len(x),):
        raise InputError(f"y must have shape ({len(x)},), one label a sample, got {tuple(y.shape)}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError(f"y must hold integer class indices, got {y.dtype}; use y.long() if they are whole numbers")
    if (y < 0).any():
        raise InputError(f"labels must be >= 0, got {int(y.min())} at sample {int(y.argmin())}")
    finite = torch.isfinite(x).flatten(1).all(1)
    if not finite.all():
        raise InputError(f"x holds NaN or infinite values, first at sample {int((~finite).nonzero()[0, 0])}")
    return clip_to_box(x, bounds), y.to(device=x.device, dtype=torch.int64)


def clip_to_box(x: Tensor, bounds: Bounds) -> Tensor:
    """Clip rounding noise to the box with a notice; refuse inputs that are really outside."""
    if bounds is None:
        return x
    low, high = bounds
    outside = max(low - float(x.min()), float(x.max()) - high)
    if outside <= 0:
        return x
    if outside > BOX_TOLERANCE:
        raise InputError(
            f"x must lie in the box [{low:g}, {high:g}], got values from {float(x.min()):.6g} to {float(x.max()):.6g}; "
            "scale the inputs or pass the box they live in as bounds=(low, high)"
        )
    warnings.warn(f"inputs outside [{low:g}, {high:g}] by {outside:.1e} were clipped", BoxNotice, stacklevel=3)
    return x.clamp(low, high)


def check_labels(y: Tensor, classes: int) -> None:
    """Refuse labels the model has no logit for."""
    if int(y.max()) >= classes:
        raise InputError(
            f"labels must be in 0..{classes - 1} (the model returns {classes} logits), "
            f"got {int(y.max())} at sample {int(y.argmax())}"
        )


def check_weights(weights: Tensor | None, n: int) -> Tensor:
    """Sample weights as float64 summing to one; None means 1/n each.

    >>> check_weights(None, 4).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    if weights is None:
        return torch.full((n,), 1.0 / n, dtype=torch.float64)
    weights = weights.detach().to(torch.float64)
    if weights.shape != (n,) or not torch.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise InputError(
            f"weights must be {n} finite numbers >= 0 with a positive sum, got shape {tuple(weights.shape)}"
        )
    return weights / weights.sum()


def check_radius(radius: float) -> float:
    """A radius is a finite number >= 0; zero means the clean distribution."""
    radius = float(radius)
    if math.isnan(radius) or math.isinf(radius) or radius < 0:
        raise InputError(f"radius must be a finite number >= 0 (0 = clean), got {radius}")
    return radius
