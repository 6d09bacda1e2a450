"""How fine-tuning of a trained network begins (2502.09352): weights a little perturbed, or a fresh last layer."""

from __future__ import annotations

import torch
from torch import nn

from wassertight.training.objectives.weight_perturbation import layers, relative
from wassertight.types import InputError, ModelError


def perturb_once(model: nn.Module, size: float, *, seed: int = 0) -> None:
    """Add noise of `size` times each layer's norm to its weights, in place. Proposed: 0.01 to 0.05.

    >>> net = nn.Linear(3, 2)
    >>> before = net.weight.detach().clone()
    >>> perturb_once(net, 0.02)
    >>> round(((net.weight - before).norm() / before.norm()).item(), 4)
    0.02
    """
    if not 0 <= size < 1:
        raise InputError(f"the relative size of weight noise must be in [0, 1), got {size}")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in layers(model).values():
            weight.add_(relative(torch.randn(weight.shape, generator=generator).to(weight), weight, size))


def reset_last_layer(model: nn.Module, *, seed: int = 0) -> str:
    """Draw the last linear or convolutional layer anew, in place; returns its name.

    Raises:
        ModelError: where there is none.
    """
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    if not found:
        raise ModelError("the model has no linear or convolutional layer to initialise anew")
    name, last = found[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        last.reset_parameters()
    return str(name)
