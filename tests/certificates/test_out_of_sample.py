"""The radius of concentration: covers simulated laws, falls as it should, says where it is empty."""

from __future__ import annotations

import math

import ot
import pytest
import torch

from wassertight.certificates import concentration_radius
from wassertight.types import InputError


@pytest.mark.parametrize("dimension", [1, 2])
def test_samples_of_a_known_law_stay_inside(dimension: int) -> None:
    generator = torch.Generator().manual_seed(0)
    law = torch.rand(400, dimension, generator=generator, dtype=torch.float64) ** 2
    outside, eta, n = 0, 0.2, 60
    radius = concentration_radius(n, dimension, eta=eta)
    for _ in range(40):
        sample = law[torch.randint(len(law), (n,), generator=generator)]
        cost = (sample[:, None] - law[None]).abs().amax(2).numpy()
        outside += ot.emd2([], [], cost) > radius
    assert outside <= eta * 40
    assert radius < 0.6


def test_rates_and_emptiness() -> None:
    line = [concentration_radius(n, 1) for n in (100, 10_000, 1_000_000)]
    assert line[0] > 8 * line[1] > 60 * line[2]
    plane = [concentration_radius(n, 4) for n in (10**4, 10**8)]
    assert plane[1] / plane[0] == pytest.approx((10**-4) ** (1 / 4), rel=0.6)
    assert concentration_radius(10_000, 784) == 1.0
    assert concentration_radius(1000, 2, classes=10) > concentration_radius(1000, 2)
    assert concentration_radius(1000, 2, diameter=3.0) == pytest.approx(3 * concentration_radius(1000, 2))
    assert math.isfinite(concentration_radius(10, 10**6))


def test_refusals() -> None:
    with pytest.raises(InputError, match="eta in"):
        concentration_radius(10, 2, eta=1.0)
