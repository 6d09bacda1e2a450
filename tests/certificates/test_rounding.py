"""A search for points within certified radii that the float32 model misclassifies, where rounding alone decides."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from wassertight.certificates import LinearPropagation
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.geometry import norm
from wassertight.threats import PointwiseBall

ORDERS = [1.0, 2.0, math.inf]
SAMPLES, SIZE, CLASSES = 200, 12, 3


def _linear() -> nn.Module:
    return nn.Sequential(nn.Linear(SIZE, CLASSES))


def _chain() -> nn.Module:
    """Linear all through, and deep: errors add up and the certificate is exact."""
    return nn.Sequential(*[nn.Linear(SIZE, SIZE) for _ in range(6)], nn.Linear(SIZE, CLASSES))


def _shallow() -> nn.Module:
    return nn.Sequential(nn.Linear(SIZE, 20), nn.ReLU(), nn.Linear(20, CLASSES))


def _deep() -> nn.Module:
    layers = [part for _ in range(8) for part in (nn.Linear(6, 6), nn.LeakyReLU(0.3))]
    return nn.Sequential(nn.Linear(SIZE, 6), *layers, nn.Linear(6, CLASSES))


def _cancelling() -> nn.Module:
    """Large terms that cancel: normalisation by far-away means, biases that undo them."""
    model = nn.Sequential(
        nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES)
    )
    with torch.no_grad():
        model[0].bias.add_(50)
        model[1].running_mean.copy_(50 + 0.2 * torch.randn(8))
        model[3].weight.mul_(30)
    return model  # fmt: skip


def _tails() -> nn.Module:
    """Far out in the tail of a GELU most digits are lost."""
    model = nn.Sequential(nn.Linear(SIZE, 8), nn.GELU(), nn.Linear(8, CLASSES))
    with torch.no_grad():
        model[0].bias.sub_(3.5)
        model[2].weight.mul_(100)
        model[2].bias.zero_()
    return model


def _convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 4, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, CLASSES)
    )


NETWORKS: list[Callable[[], nn.Module]] = [_linear, _chain, _shallow, _deep, _cancelling, _tails, _convolutional]


def _balanced(model: nn.Module) -> nn.Module:
    """The same with the classes' mean logits equal, so that every class occurs."""
    with torch.no_grad():
        logits = model.eval()(torch.rand(500, SIZE))
        model[-1].bias.sub_(logits.mean(0))
    return model


def _near_boundaries(model: nn.Module) -> Tensor:
    """Samples close to where the class changes: there radii are small, ReLUs settled and certificates nearly exact."""
    a, b = torch.rand(2, 20 * SAMPLES, SIZE)
    with torch.no_grad():
        ends = model(a).argmax(1), model(b).argmax(1)
        keep = ends[0] != ends[1]
        a, b, first = a[keep][:SAMPLES], b[keep][:SAMPLES], ends[0][keep][:SAMPLES]
        rounds = torch.randint(2, 10, (len(a), 1))
        for index in range(9):
            middle = (a + b) / 2
            same = (model(middle).argmax(1) == first)[:, None]
            a, b = torch.where(same & (index < rounds), middle, a), torch.where(same | (index >= rounds), b, middle)
    return a


def _towards(slope: Tensor, t: Tensor, r: float) -> Tensor:
    """The step of length t that lowers a linear function fastest."""
    t = t[:, None]
    if math.isinf(r):
        return -t * slope.sign()
    if r == 2:
        return -t * slope / norm(slope, 2.0)[:, None].clamp_min(1e-300)
    best = slope.abs().argmax(1, keepdim=True)
    return torch.zeros_like(slope).scatter(1, best, -t * slope.gather(1, best).sign())


def _violations(model: nn.Module, x: Tensor, y: Tensor, radii: Tensor, r: float) -> int:
    """Samples with a float32 point within the radius, exactly, that the float32 model does not put in its class."""
    exact = copy.deepcopy(model).double()
    centre, hit = x.double(), torch.zeros(len(x), dtype=torch.bool)
    for other in range(1, CLASSES):
        z = centre.clone()
        for _ in range(3):
            z.requires_grad_(True)
            logits = exact(z)
            gap = logits.gather(1, y[:, None]) - logits.gather(1, ((y + other) % CLASSES)[:, None])
            (slope,) = torch.autograd.grad(gap.sum(), z)
            z = (centre + _towards(slope, radii, r)).detach()
        for draw in range(24):
            near = z.float()
            for _ in range(draw % 4):  # some entries a few units in the last place inward or outward
                picked = torch.rand(near.shape) < 0.3
                inward = torch.rand(near.shape) < 0.7
                goal = torch.where(inward, x, near + (near - x))
                near = torch.where(picked, torch.nextafter(near, goal), near)
            for _ in range(12):
                outside = norm(near.double() - centre, r) > radii
                near = torch.where(outside[:, None], torch.nextafter(near, x), near)
            inside = norm(near.double() - centre, r) <= radii
            with torch.no_grad():
                hit |= inside & (model(near).argmax(1) != y)
    return int(hit.sum())


def _searched(precision: str, networks: int) -> tuple[int, int]:
    """Violations and samples over so many random networks."""
    found = total = 0
    for index in range(networks):
        torch.manual_seed(index)
        model = _balanced(NETWORKS[index % len(NETWORKS)]())
        r = ORDERS[(index // len(NETWORKS) + index) % 3]
        x = _near_boundaries(model)
        y = model(x).argmax(1)
        certificate = LinearPropagation(precision=precision, tolerance=1e-9, steps=60)
        radii = certificate(model, x, y, PointwiseBall(radius=0.1, r=r, bounds=None), batch_size=256).radii.values
        found += _violations(model, x, y, radii, r)
        total += int((radii > 0).sum())
    return found, total


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("networks", [7, pytest.param(21, marks=pytest.mark.slow)])
def test_rounding_never_turns_a_certified_point(precision: str, networks: int) -> None:
    found, total = _searched(precision, networks)
    assert total > 90 * networks
    assert found == 0


def test_the_search_finds_what_an_ignored_rounding_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same search, with no allowance for rounding: the radii are wrong, and it shows."""
    monkeypatch.setattr(Rounding, "between", classmethod(lambda cls, model, own: cls(unit=0.0)))
    found, total = _searched("float64", 7)
    assert found > total / 20
