"""Log-softmax' range and planes against samples and corners, in both precisions and on intervals of every width."""

from __future__ import annotations

import itertools

import pytest
import torch

from wassertight.certificates.propagation.log_softmax import LogSoftmax, Planes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 0.1, 3.0, 100.0])
def test_enclosures_hold_and_touch(dtype: torch.dtype, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    middle = 4 * torch.randn(40, 5, dtype=dtype, generator=generator)
    width = scale * torch.rand(40, 5, dtype=dtype, generator=generator)
    low, high = middle - width, middle + width
    rows = torch.randn(40, 6, 5, dtype=dtype, generator=generator)
    pulled, constant = Planes.of(low, high, torch.zeros_like(low)).pull(rows)
    bottom, top = LogSoftmax(source=(5,)).interval(low, high)
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=5)), dtype=torch.float64)
    inside = torch.rand(400, 5, dtype=torch.float64, generator=generator)
    lowest = torch.full((40, 5), torch.inf, dtype=torch.float64)
    for share in torch.cat((corners, inside)):
        z = low.double() + share * (high.double() - low.double())
        value = z.log_softmax(-1)
        lowest = torch.minimum(lowest, value)
        exact = (rows.double() * value[:, None]).sum(-1)
        bound = constant.double() + (pulled[0].double() * z[:, None]).sum(-1)
        assert bool((bound <= exact + 20 * torch.finfo(dtype).eps * (1 + exact.abs())).all())  # of coefficients
        assert bool((bottom <= value).all())
        assert bool((value <= top).all())
    grain = 400 * torch.finfo(dtype).eps * (1 + middle.abs().sum(1))
    assert bool((lowest - bottom.double() <= (grain + 1e-9)[:, None]).all())  # corners attain the range
    at_middle = constant + (pulled[0] * middle[:, None]).sum(-1)
    loss = (rows * middle.log_softmax(-1)[:, None]).sum(-1) - at_middle
    assert bool((loss <= rows.sum(-1).abs() * (width.amax(1) ** 2 / 2)[:, None] + 10 * grain[:, None]).all())


def test_errors_of_the_argument_are_charged() -> None:
    z, error = torch.tensor([[0.3, -0.2, 1.0]], dtype=torch.float64), torch.full((1, 3), 0.01, dtype=torch.float64)
    rows = torch.randn(1, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pulled, constant = Planes.of(z, z, error).pull(rows)
    bound = constant + (pulled[0] * z[:, None]).sum(-1)
    for signs in itertools.product((-1.0, 1.0), repeat=3):
        value = (z + torch.tensor(signs) * error).log_softmax(-1)
        assert bool((bound <= (rows * value[:, None]).sum(-1)).all())
