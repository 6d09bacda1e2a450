"""No confirmed flip of a smoothed classifier lies inside a certified radius (wasserstein_smoothing.md section 12, test 10)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from wassertight import benchmark
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.transport.flows import edge_ends, flow_grid

DRAWS = {"sigma": 0.02, "n0": 100, "n": 4000, "alpha": 0.001}


def test_flips_of_the_hardest_model_lie_just_beyond_its_radii() -> None:
    """The half-space along a unit current f through one edge: light W over the edge raises f z by W R, where the noise has
    standard deviation sigma sqrt(R), so that flips at distance margin / R are where the radii end with many draws.
    """
    size, edge, sigma = 6, 7, float(DRAWS["sigma"])
    grid = flow_grid(size, size)
    begin, end = (ends[edge] for ends in edge_ends(size, size))
    assert grid.inverse is not None
    current = (grid.inverse[:, end] - grid.inverse[:, begin]).float()
    x = 0.02 * torch.rand(6, size * size)
    x[:, begin] = 1
    x = x / x.sum(1, keepdim=True)
    border = (x @ current).max() + 1.3 * sigma / grid.kappa()

    def model(z: Tensor) -> Tensor:
        out = z.flatten(1) @ current - border
        return torch.stack((-out, out), 1)

    report = benchmark(
        model, (x.view(6, 1, size, size), torch.zeros(6).long()), ["image-W1-free@0.02,0.04", "W1-image-W1-free@0.03"],
        certificate="wasserstein-smoothing", certificate_options=DRAWS | {"mass_limits": False},
        attack_options={"steps": 12, "draws": 16, "first": 0.03, "screen": 500, "confirm": 4000, "halvings": 4},
        progress=False,
    )  # fmt: skip
    assert report.ok, report.record.audit.details
    low, high = report.arrays["certified_distance"], report.arrays["attacked_distance"]
    exact = (border - x @ current).double() * grid.kappa() ** 2
    assert bool((low > 0).all())
    assert bool((low < exact).all())
    assert bool((high > 0.999 * exact).all())
    assert float(low.sum() / high.sum()) > 0.75
    for one in report.results:
        assert one.certified <= one.attacked <= one.clean


@pytest.mark.slow
def test_flips_of_a_published_network_lie_beyond_its_radii(shared: Path) -> None:
    data = load_data(str(shared / "mnist.npz"), n=None)
    model = load_model(f"{shared}/manifest.json#mnist_small_wasserstein_smooth_base_0.01").model
    report = benchmark(
        model, (data.x[::1000], data.y[::1000]), "image-W1@0.03,0.3", certificate="wasserstein-smoothing",
        certificate_options={"sigma": 0.01, "n": 10_000, "alpha": 0.05}, progress=False,
    )  # fmt: skip
    assert report.ok, report.record.audit.details
    low, high = report.arrays["certified_distance"], report.arrays["attacked_distance"]
    certified = low > 0
    assert bool((low[certified] < high[certified]).all())
    assert int(torch.isfinite(high).sum()) >= 9
    assert report.results[0].certified >= 0.5
    assert report.results[1].attacked <= 0.7
