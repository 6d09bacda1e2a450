"""A robust loss for training loops of one's own: any objective by name, one call a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wassertight.inputs import check_inputs
from wassertight.threats import ThreatModel
from wassertight.threats import threat as read_threat
from wassertight.training.base import Context, Objective
from wassertight.training.catalogue import make_objective
from wassertight.types import Bounds


def robust_loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: str | ThreatModel,
    *,
    objective: str | Objective = "trades",
    settings: Mapping[str, Any] | None = None,
    state: Context | None = None,
    bounds: Bounds = (0.0, 1.0),
) -> Tensor:
    """The loss of a batch whose samples an adversary has moved: put it where `cross_entropy(model(x), y)` stood.

    It crafts moved points with the model in eval mode, leaves every mode and gradient as it was, and returns the
    objective's loss at them. At radius 0 "trades" and "pgd" are the clean cross-entropy.

    Args:
        model: an nn.Module from (n, *features) to logits (n, classes).
        x, y: the batch: (n, *features) in the box, and class indices (n,).
        threat: a threat string with one radius, or a threat object; "trades" and most others need p > 1.
        objective: a name from `wassertight list objectives`, or an objective.
        settings: of an objective given by name, for example `{"beta": 3.0}`.
        state: keeps what an objective learns from batch to batch (dual variables, queues: "knapsack", "udr-...") and its
            random state; make one `Context()` before the loop. Without it every call begins anew, its random draws taken
            from torch's global state.
        bounds: the box of the inputs, for threats given as strings; None for the whole space.

    Returns:
        A scalar, ready for `backward()`.

    Raises:
        InputError: inputs, threat, objective or settings that cannot be used.

    >>> net, x, y = nn.Linear(4, 2), torch.rand(8, 4), torch.arange(8) % 2
    >>> calm = robust_loss(net, x, y, "Linf@0")
    >>> bool(torch.isclose(calm, nn.functional.cross_entropy(net(x), y)))
    True
    >>> bool(robust_loss(net, x, y, "Linf@0.2") > calm)
    True
    """
    ball = read_threat(threat, bounds) if isinstance(threat, str) else threat
    x, y = check_inputs(x, y, ball.bounds)
    found: Objective = make_objective(objective, ball, settings) if isinstance(objective, str) else objective
    if state is None:
        state = Context(generator=torch.Generator().manual_seed(int(torch.randint(2**62, ()))))
    if state.step == 0:
        found.prepare(model, x, y, state)
    crafted = found.craft(model, x, y, state)
    outer = found.outer(model, crafted, state)
    with torch.no_grad():
        found.update(crafted, outer, state)
    state.step += 1
    return outer.loss
