"""Bounds against linear programs, dense CROWN, sampling and attacks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from wassertight.attacks import MinimumNorm
from wassertight.certificates import IntervalPropagation, LinearPropagation
from wassertight.certificates.propagation.linear import Propagation
from wassertight.certificates.propagation.network import read_chain
from wassertight.certificates.propagation.region import Region
from wassertight.data import load_data
from wassertight.geometry import norm, sample_ball
from wassertight.models import Normalise, load_model
from wassertight.threats import PointwiseBall
from wassertight.types import UnsupportedLayerError

ORDERS = [1.0, 2.0, math.inf]


def _networks() -> list[nn.Sequential]:
    torch.manual_seed(5)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 4))
    conv = nn.Sequential(
        Normalise([0.4, 0.5, 0.6], [0.3, 0.2, 0.25]), nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 1, 1, groups=2), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4),
    )  # fmt: skip
    norm_layer = conv[2]
    norm_layer.running_mean.uniform_(-0.2, 0.2)
    norm_layer.running_var.uniform_(0.5, 2)
    pooled = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding="same", dilation=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    )
    return [model.double().eval() for model in (mlp, conv, pooled)]


@pytest.mark.parametrize("r", ORDERS)
def test_minimum_of_a_linear_form_against_a_program(r: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, a, t = rng.random(5), rng.normal(size=5), float(rng.uniform(0.1, 1.5))
        region = Region.of(torch.tensor(x)[None], torch.tensor([t], dtype=torch.float64), r, (0.0, 1.0))
        got = float(region.minimum(torch.tensor(a)[None, None], tight=True))
        loose = float(region.minimum(torch.tensor(a)[None, None], tight=False))
        if r == 2:
            z = x.copy()
            low, high = 0.0, 1e6
            for _ in range(200):
                mid = (low + high) / 2
                z = np.clip(x - mid * a, 0, 1)
                low, high = (mid, high) if np.linalg.norm(z - x) < t else (low, mid)
            exact = float(a @ np.clip(x - low * a, 0, 1))
        elif r == 1:
            sign = np.vstack([np.r_[1, 1, 1, 1, 1, 1, 1, 1, 1, 1]])
            program = linprog(
                np.r_[a, -a], A_ub=sign, b_ub=[t], bounds=[*[(0, 1 - v) for v in x], *[(0, v) for v in x]]
            )
            exact = float(a @ x + program.fun)
        else:
            exact = float(np.minimum(a * np.clip(x - t, 0, 1), a * np.clip(x + t, 0, 1)).sum())
        assert got == pytest.approx(exact, abs=1e-7)
        assert got <= exact + 1e-9
        assert loose <= got + 1e-9


@pytest.mark.parametrize("r", ORDERS)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_margins_are_sound_on_samples_and_corners(index: int, r: float) -> None:
    model = _networks()[index]
    x = torch.rand(6, 3, 4, 4, dtype=torch.float64)
    y = model(x).argmax(1)
    chain = read_chain(model, x, dtype=torch.float64, device=torch.device("cpu"))
    assert torch.allclose(chain.logits(x), model(x), atol=1e-12)
    for scale in (0.02, 0.1, 0.5):
        t = torch.full((6,), scale * {1.0: 8.0, 2.0: 2.0}.get(r, 1.0), dtype=torch.float64)
        region = Region.of(x, t, r, (0.0, 1.0))
        crown = Propagation(chain, r, backward=True).margins(region, y)
        interval = Propagation(chain, r, backward=False).margins(region, y)
        assert (crown >= interval - 1e-9).all()
        generator = torch.Generator().manual_seed(1)
        worst = torch.full((6,), math.inf, dtype=torch.float64)
        for _ in range(200):
            step = sample_ball(x, t, r, generator)
            step = step * (t / norm(step, r)).view(-1, 1, 1, 1)
            z = model((x + step).clamp(0, 1))
            others = z.scatter(1, y[:, None], -math.inf).max(1).values
            worst = torch.minimum(worst, z.gather(1, y[:, None]).squeeze(1) - others)
        assert (crown <= worst + 1e-9).all()


def test_bounds_equal_a_dense_crown_written_apart() -> None:
    """Two hidden layers, l_inf, no box: the textbook recursion with dense matrices."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    w = [model[i].weight.detach().numpy() for i in (0, 2, 4)]
    b = [model[i].bias.detach().numpy() for i in (0, 2, 4)]
    x, eps = np.random.default_rng(0).normal(size=4), 0.3

    def relax(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        upper, shift, lower = np.zeros_like(low), np.zeros_like(low), np.zeros_like(low)
        for i, (lo, u) in enumerate(zip(low, high, strict=True)):
            if lo >= 0:
                upper[i] = lower[i] = 1
            elif u > 0:
                upper[i], shift[i], lower[i] = u / (u - lo), -u * lo / (u - lo), float(u > -lo)
        return lower, upper, shift

    def lower_bound(row: np.ndarray, depth: int, layers: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
        constant = 0.0
        for k in range(depth, -1, -1):
            constant += row @ b[k]
            row = row @ w[k]
            if k:
                lower, upper, shift = layers[k - 1]
                constant += np.minimum(row, 0) @ shift
                row = np.maximum(row, 0) * lower + np.minimum(row, 0) * upper
        return float(constant + row @ x - eps * np.abs(row).sum())

    centre, spread = w[0] @ x + b[0], eps * np.abs(w[0]).sum(1)
    first = relax(centre - spread, centre + spread)
    hl, hu = np.maximum(centre - spread, 0), np.maximum(centre + spread, 0)
    middle, width = w[1] @ ((hl + hu) / 2) + b[1], np.abs(w[1]) @ ((hu - hl) / 2)
    eye = np.eye(6)
    low = np.maximum(middle - width, [lower_bound(eye[i], 1, [first]) for i in range(6)])
    high = np.minimum(middle + width, [-lower_bound(-eye[i], 1, [first]) for i in range(6)])
    second = relax(low, high)
    y = int(np.argmax(model(torch.tensor(x)[None]).detach().numpy()))
    rows = [np.eye(3)[y] - np.eye(3)[j] for j in range(3) if j != y]
    expected = min(lower_bound(row, 2, [first, second]) for row in rows)
    chain = read_chain(model, torch.tensor(x)[None], dtype=torch.float64, device=torch.device("cpu"))
    region = Region.of(torch.tensor(x)[None], torch.tensor([eps], dtype=torch.float64), math.inf, None)
    got = float(Propagation(chain, math.inf, backward=True).margins(region, torch.tensor([y])))
    interval = float(Propagation(chain, math.inf, backward=False).margins(region, torch.tensor([y])))
    assert got == pytest.approx(max(expected, interval), abs=1e-9)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.MaxPool2d(2), "MaxPool2d"),
        (nn.Sigmoid(), "Sigmoid"),
        (nn.Softmax(1), "Softmax"),
        (nn.Upsample(scale_factor=2), "Upsample"),
    ],
)
def test_unsupported_layers_name_themselves(layer: nn.Module, name: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU(), layer), nn.Flatten(), nn.LazyLinear(3))
    x = torch.rand(2, 1, 8, 8)
    model(x)
    with pytest.raises(UnsupportedLayerError, match=rf"layer 1\.1 \({name}"):
        LinearPropagation()(model, x, torch.tensor([0, 1]), PointwiseBall(radius=0.1, r=2.0))
    with pytest.raises(UnsupportedLayerError, match="reads the network's layers"):
        LinearPropagation()(lambda z: model(z), x, torch.tensor([0, 1]), PointwiseBall(radius=0.1, r=2.0))


def test_a_module_that_lies_about_its_layers_is_refused() -> None:
    class Scaled(nn.Module):
        def as_affine(self) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.ones(1), torch.zeros(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    with pytest.raises(UnsupportedLayerError, match="do not reproduce"):
        LinearPropagation()(
            nn.Sequential(Scaled(), nn.Linear(3, 2)),
            torch.rand(2, 3),
            torch.tensor([0, 1]),
            PointwiseBall(radius=0.1, r=2.0),
        )


def test_a_constant_network_is_certified_everywhere() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.copy_(torch.tensor([1.0, 0.0]))
    bound = LinearPropagation()(model, torch.rand(3, 3), torch.tensor([0, 0, 1]), PointwiseBall(radius=0.5, r=math.inf))
    assert bound.radii.values.tolist() == [math.inf, math.inf, 0.0]
    assert bound.accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(("name", "least"), [("mnist_mlpB_adv_0.1", 0.45), ("cifar_wide_kw", 0.5)])
def test_real_networks(name: str, least: float, precision: str, shared: Path) -> None:
    model = load_model(f"{shared / 'manifest.json'}#{name}").model
    data = load_data(str(shared / ("mnist.npz" if name.startswith("mnist") else "cifar10_subset.npz")), n=6)
    ball = PointwiseBall(radius=0.01, r=math.inf)
    upper = MinimumNorm()(model, data.x, data.y, ball).distances.values
    crown = LinearPropagation(precision=precision)(model, data.x, data.y, ball, upper=upper).radii.values
    interval = IntervalPropagation(precision=precision)(model, data.x, data.y, ball, upper=upper).radii.values
    assert (crown <= upper).all()
    assert float(crown.mean()) >= least * float(upper.mean())
    assert float(crown.mean()) >= float(interval.mean())
