"""Attack losses: ranges, gradients and the guards for few classes."""

from __future__ import annotations

import pytest
import torch

from wassertight.losses import cross_entropy, dlr, loss_by_name, margin, redlr
from wassertight.types import InputError


def test_signs_and_ranges() -> None:
    logits, y = torch.randn(500, 5, dtype=torch.float64), torch.randint(0, 5, (500,))
    right = logits.argmax(1) == y
    assert torch.equal(margin(logits, y) < 0, right)
    ratio = dlr(logits, y)
    assert ((ratio[right] >= -1) & (ratio[right] <= 0)).all()
    assert torch.allclose(dlr(7 * logits + 3, y), ratio)
    assert torch.equal(redlr(logits, y), torch.where(right, ratio, 0.0))
    assert (cross_entropy(logits, y) > 0).all()


def test_redlr_has_no_gradient_off_the_correct_set() -> None:
    logits = torch.tensor([[1.0, 3.0, 0.0]], requires_grad=True)
    (g,) = torch.autograd.grad(redlr(logits, torch.tensor([0])).sum(), logits)
    assert torch.equal(g, torch.zeros(1, 3))


def test_few_classes() -> None:
    two, three, y = torch.randn(4, 2), torch.randn(4, 3), torch.zeros(4, dtype=torch.long)
    for loss in (dlr, redlr):
        with pytest.raises(InputError, match="at least 3 classes"):
            loss(two, y)
        assert torch.isfinite(loss(three, y)).all()
    assert torch.isfinite(margin(two, y)).all()
    with pytest.raises(InputError, match="allowed"):
        loss_by_name("hinge")
