"""Local Lipschitz bounds against gradients at corners, vertices and dense points of the regions."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from random_networks import Grown, region_points
from wassertight.certificates.lipschitz.jacobians import jacobian_bounds
from wassertight.certificates.lipschitz.norms import product_bounds
from wassertight.certificates.lipschitz.steps import logit_differences, loss_slopes, nested_bounds
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.reading import read_graph
from wassertight.data import load_data
from wassertight.geometry import conjugate, norm
from wassertight.models import load_model
from wassertight.types import InputError

NORMS = [1.0, 2.0, math.inf]
CPU = torch.device("cpu")


def _read(model: nn.Module, x: Tensor) -> Graph:
    return read_graph(model, x, dtype=torch.float64, device=CPU)


def _steepest(model: nn.Module, points: Tensor, y: Tensor, r: float) -> Tensor:
    """Largest dual norm (n, classes) of the gradients of f_j - f_y over points (p, n, *features)."""
    points = points.clone().requires_grad_()
    logits = model(points.flatten(0, 1)).view(*points.shape[:2], -1)
    differences = logits - logits.gather(2, y.view(1, -1, 1).expand(len(points), -1, 1))
    found = []
    for part in differences.unbind(2):
        (gradient,) = torch.autograd.grad(part.sum(), points, retain_graph=True, allow_unused=True)
        gradient = torch.zeros_like(points) if gradient is None else gradient.nan_to_num(0.0)
        found.append(norm(gradient.flatten(0, 1), conjugate(r)).view(points.shape[:2]).amax(0))
    return torch.stack(found, 1)


@pytest.mark.parametrize("seeds", [range(1000, 1005), pytest.param(range(1005, 1205), marks=pytest.mark.slow)])
def test_no_gradient_exceeds_a_bound(seeds: range) -> None:
    kinds, looseness = Counter[str](), []
    for seed in seeds:
        dice, model = random.Random(seed), Grown(seed).double()
        x, y = torch.rand(2, *model.source).double(), torch.tensor([0, 2])
        r, box = dice.choice(NORMS), dice.choice([(0.0, 1.0), None])
        t = torch.full((2,), dice.choice([0.0, 1e-3, 0.03, 0.2, 0.7])).double()
        graph = _read(model, x)
        interval = jacobian_bounds(graph, x, y, t, r, box, method="interval")
        linear = jacobian_bounds(graph, x, y, t, r, box)
        found = _steepest(model, region_points(x, t, r, box, 60), y, r)
        assert (found <= linear * (1 + 1e-7) + 1e-10).all(), (seed, model.kinds)
        assert (linear <= interval * (1 + 1e-7) + 1e-10).all(), (seed, model.kinds)
        kinds.update(model.kinds)
        looseness += (linear / found)[(found > 1e-9) & torch.isfinite(linear)].tolist()
    assert len(kinds) >= 15
    assert sorted(looseness)[len(looseness) // 2] < 1.5


@pytest.mark.parametrize("r", NORMS)
def test_linear_networks_are_exact(r: float) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).double()
    x, y, w = torch.rand(2, 4).double(), torch.tensor([0, 1]), model[1].weight @ model[0].weight
    expected = torch.stack([norm(w - w[label], conjugate(r)) for label in y])
    for method in ("interval", "linear"):
        found = jacobian_bounds(_read(model, x), x, y, torch.tensor([0.1, 1.0]), r, (0.0, 1.0), method=method)
        assert torch.allclose(found, expected.detach(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("r", NORMS)
def test_networks_with_a_softmax_inside_are_bounded(r: float) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Softmax(dim=1), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x, y, t = torch.rand(2, 4).double(), torch.tensor([0, 1]), torch.full((2,), 0.2).double()
    found = _steepest(model, region_points(x, t, r, (0.0, 1.0), 60), y, r)
    bound = jacobian_bounds(_read(model, x), x, y, t, r, (0.0, 1.0))
    assert (found <= bound * (1 + 1e-7) + 1e-10).all()
    assert torch.isfinite(bound).all()


@pytest.mark.parametrize("r", NORMS)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.SiLU])
def test_the_chain_from_gradient_to_product_of_norms(r: float, activation: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(6, 16), activation(), nn.Linear(16, 16), activation(), nn.Linear(16, 3)).double()
    x, y = torch.rand(3, 6).double(), torch.tensor([0, 1, 2])
    graph, radii = _read(model, x), torch.tensor([0.0, 0.01, 0.1, 0.5, math.inf], dtype=torch.float64)
    steps = nested_bounds(graph, x, y, radii, r, (0.0, 1.0), descents=5)
    assert (steps.diff(dim=0) >= 0).all()
    assert torch.allclose(steps[0], _steepest(model, x[None], y, r), rtol=1e-5)
    assert (steps <= product_bounds(graph, r)[y] * (1 + 1e-6)).all()
    for t, step in zip(radii[1:4], steps[1:4], strict=True):
        assert (_steepest(model, region_points(x, t.expand(3), r, (0.0, 1.0)), y, r) <= step * (1 + 1e-9)).all()


def test_ellipsoids_beat_both_ends_of_the_l2_chain() -> None:
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)).double()
    x, y, t = torch.rand(2, 8).double(), torch.tensor([0, 1]), torch.tensor([0.3, 30.0]).double()
    graph = _read(model, x)
    closed, improved = (jacobian_bounds(graph, x, y, t, 2.0, None, descents=d) for d in (0, 30))
    interval = jacobian_bounds(graph, x, y, t, 2.0, None, method="interval")
    wrong = torch.arange(3) != y[:, None]
    assert (improved <= closed * (1 + 1e-9)).all()
    assert (improved < 0.95 * closed)[wrong].any()
    assert (improved < 0.8 * interval)[wrong].all()


class Block(nn.Module):
    """Tokens, attention, normalisation and a smooth activation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True, activation="gelu")
        self.head = nn.Linear(12, 3)

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.layer(z).flatten(1))


@pytest.mark.parametrize("r", NORMS)
def test_a_transformer_is_bounded_on_balls_and_on_the_box_only(r: float) -> None:
    model = Block().double().eval()
    x, y = torch.rand(2, 3, 4).double(), torch.tensor([0, 1])
    graph = _read(model, x)
    small = torch.full((2,), 0.005).double()
    found = jacobian_bounds(graph, x, y, small, r, (0.0, 1.0))
    gradient = _steepest(model, region_points(x, small, r, (0.0, 1.0)), y, r)
    wrong = torch.arange(3) != y[:, None]
    assert (gradient <= found * (1 + 1e-9)).all()
    assert (found <= 3 * gradient + 1e-9).all()
    everywhere = torch.full((2,), math.inf).double()
    assert torch.isfinite(jacobian_bounds(graph, x, y, everywhere, r, (0.0, 1.0), method="interval")).all()
    assert torch.isinf(jacobian_bounds(graph, x, y, everywhere, r, None)[wrong]).all()


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
def test_losses_change_no_faster_than_their_bounds(loss: str) -> None:
    model = nn.Sequential(nn.Linear(5, 12), nn.GELU(), nn.Linear(12, 4)).double()
    x, r = torch.rand(3, 5).double(), 2.0
    y = model(x).argmax(1)
    graph, radii = _read(model, x), torch.tensor([0.01, 0.1, 0.4]).double()
    steps = loss_slopes(graph, x, y, radii, r, (0.0, 1.0), loss=loss)
    slopes = nested_bounds(graph, x, y, radii, r, (0.0, 1.0))
    assert (steps <= slopes.amax(2) * (1 + 1e-8)).all()
    assert (steps[0] < slopes[0].amax(1)).any()
    for t, step in zip(radii, steps, strict=True):
        points = region_points(x, t.expand(3), r, (0.0, 1.0)).requires_grad_()
        logits = model(points.flatten(0, 1))
        label = y.repeat(len(points))
        if loss == "cross-entropy":
            value = nn.functional.cross_entropy(logits, label, reduction="sum")
        else:
            own = logits.gather(1, label[:, None]).squeeze(1)
            value = (logits.scatter(1, label[:, None], -math.inf).amax(1) - own).sum()
        (gradient,) = torch.autograd.grad(value, points)
        assert (norm(gradient.flatten(0, 1), 2.0).view(len(points), 3).amax(0) <= step * (1 + 1e-9)).all()
        low, high = logit_differences(graph, x, y, t.expand(3), r, (0.0, 1.0))
        change = (logits - logits.gather(1, label[:, None])).view(len(points), 3, 4)
        assert ((low <= change + 1e-9) & (change <= high + 1e-9)).all()


def test_wrong_arguments_are_refused() -> None:
    model, x, y = nn.Linear(2, 2).double(), torch.rand(1, 2).double(), torch.tensor([0])
    graph = _read(model, x)
    with pytest.raises(InputError, match="method"):
        jacobian_bounds(graph, x, y, torch.ones(1), 2.0, None, method="exact")
    with pytest.raises(InputError, match="ascend"):
        nested_bounds(graph, x, y, torch.tensor([1.0, 0.5]), 2.0, None)
    with pytest.raises(InputError, match="loss"):
        loss_slopes(graph, x, y, torch.ones(1), 2.0, None, loss="dlr")


@pytest.mark.parametrize("r", [2.0, math.inf])
def test_a_real_perceptron(r: float, shared: Path) -> None:
    model = load_model(f"{shared / 'manifest.json'}#mnist_mlpB_adv_0.1").model.double()
    data = load_data(str(shared / "mnist.npz"), n=2)
    x, y = data.x.double(), data.y
    t = torch.full((2,), 0.003 if math.isinf(r) else 0.1).double()
    found = jacobian_bounds(_read(model, x), x, y, t, r, (0.0, 1.0))
    gradient = _steepest(model, region_points(x, t, r, (0.0, 1.0), 20)[::40], y, r)
    assert (gradient <= found * (1 + 1e-9)).all()
    assert (found <= 1.5 * gradient).all()


@pytest.mark.slow
def test_a_real_transformer(shared: Path) -> None:
    model = load_model(f"{shared / 'manifest.json'}#cifar_vit_pgd_2_3_16").model.double()
    data = load_data(str(shared / "cifar10_subset.npz"), n=1)
    x, y = data.x.double(), data.y
    graph = _read(model, x)
    t = torch.full((1,), 1e-3).double()
    found = jacobian_bounds(graph, x, y, t, 2.0, (0.0, 1.0))
    gradient = _steepest(model, region_points(x, t, 2.0, (0.0, 1.0), 20)[::300], y, 2.0)
    assert (gradient <= found * (1 + 1e-9)).all()
    assert (found <= 20 * gradient).all()
    whole = jacobian_bounds(graph, x, y, torch.full((1,), math.inf), 2.0, (0.0, 1.0), method="interval")
    assert torch.isfinite(whole).all()
