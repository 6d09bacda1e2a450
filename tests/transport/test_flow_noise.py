"""Noise has the law that certificates assume: covariance, mass, independence between images and channels."""

from __future__ import annotations

import math

import pytest
import torch

from wassertight.transport.flow_noise import (
    GaussianFlow,
    GaussianPixels,
    LaplaceFlow,
    LaplacePixels,
    Noise,
    SplittingPixels,
    UniformPixels,
    light,
)
from wassertight.transport.flows import apply_flow, edge_count, flow_grid
from wassertight.types import InputError

ALL = (
    GaussianFlow(sigma=0.1), LaplaceFlow(sigma=0.1), GaussianPixels(sigma=0.1), LaplacePixels(sigma=0.1),
    UniformPixels(sigma=0.1), SplittingPixels(half_width=0.3),
)  # fmt: skip


@pytest.mark.parametrize("weighted", [True, False])
def test_gaussian_flow_has_the_weighted_laplacian_as_covariance(weighted: bool) -> None:
    x = torch.rand(1, 2, 3, 4) + 0.5
    draws = 100_000
    noise = ((GaussianFlow(sigma=0.1, weighted=weighted)(x, draws) - x) / light(x))[:, 0].double()
    assert float(noise.sum((-1, -2)).abs().max()) < 1e-5
    d = apply_flow(torch.zeros(edge_count(3, 4), 3, 4), torch.eye(edge_count(3, 4))).flatten(1).T.double()
    wanted = 0.01 * d @ torch.diag(flow_grid(3, 4, weighted).roots.double() ** 2) @ d.T
    flat = noise.flatten(1)
    found = flat.T @ flat / draws
    deviation = ((wanted.diagonal()[:, None] * wanted.diagonal()[None, :] + wanted**2) / draws).sqrt()
    for channel in (slice(0, 12), slice(12, 24)):
        assert float(((found[channel, channel] - wanted) / deviation).abs().max()) < 5
    across = found[:12, 12:] / (wanted.diagonal()[:, None] * wanted.diagonal()[None, :] / draws).sqrt()
    assert float(across.abs().max()) < 5


def test_laplace_flow_moments() -> None:
    x = torch.ones(1, 1, 1, 2)
    flow = ((LaplaceFlow(sigma=0.1)(x, 400_000) - x) / 2)[:, 0, 0, 0, 1].double()
    assert float(flow.std()) == pytest.approx(0.1, rel=0.01)
    assert float((flow**4).mean()) / 0.1**4 == pytest.approx(6, rel=0.06)
    assert float((flow > 0.1 / math.sqrt(2) * 3).double().mean()) == pytest.approx(math.exp(-3) / 2, rel=0.05)


@pytest.mark.parametrize(("noise", "fourth"), [(ALL[2], 3.0), (ALL[3], 6.0), (ALL[4], 1.8)])
def test_pixel_noise_moments(noise: Noise, fourth: float) -> None:
    x = torch.rand(1, 1, 2, 2) + 0.5
    found = ((noise(x, 200_000) - x) / light(x)).double()
    assert float(found.std()) == pytest.approx(0.1, rel=0.01)
    assert float((found**4).mean()) / 0.1**4 == pytest.approx(fourth, rel=0.05)


def test_splitting_shows_nothing_but_the_cell() -> None:
    x = torch.rand(1, 1, 2, 2, dtype=torch.float64)
    seen = SplittingPixels(half_width=0.3)(x, 100_000)
    assert float((seen - x).abs().max()) <= 0.6
    z = x + 0.12
    again = SplittingPixels(half_width=0.3)(z, 100_000, torch.Generator().manual_seed(3))
    before = SplittingPixels(half_width=0.3)(x, 100_000, torch.Generator().manual_seed(3))
    assert float((again != before).double().mean()) == pytest.approx(0.12 / 0.6, abs=0.01)


@pytest.mark.parametrize("noise", ALL, ids=lambda noise: type(noise).__name__)
def test_every_image_and_draw_has_noise_of_its_own(noise: Noise) -> None:
    assert isinstance(noise, Noise)
    x = torch.rand(1, 2, 4, 4).expand(2, 2, 4, 4)
    found = noise(x, 3, torch.Generator().manual_seed(1))
    assert found.shape == (3, 2, 2, 4, 4)
    assert found.dtype == x.dtype
    assert not torch.equal(found[0, 0], found[0, 1])
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found, noise(x, 3, torch.Generator().manual_seed(1)))
    with pytest.raises(InputError, match="images"):
        noise(torch.rand(3, 5))


def test_gradients_pass_and_light_is_constant() -> None:
    x = torch.rand(2, 1, 4, 4, requires_grad=True)
    GaussianFlow(sigma=0.1)(x, 5).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, torch.full_like(x, 5.0))
    with pytest.raises(InputError, match="sigma must be"):
        GaussianFlow(sigma=0.0)
