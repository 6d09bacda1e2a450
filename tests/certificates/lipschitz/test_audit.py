"""The audit of the cone condition: where it always holds, by hand, unit by unit, and against the lower slope itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from wassertight.certificates import cone_audit
from wassertight.certificates.lipschitz.infinity import far_slope
from wassertight.certificates.lipschitz.network import read_network
from wassertight.certificates.lipschitz.recession import lower_slope
from wassertight.types import InputError

NORMS = (1.0, 2.0, math.inf)


def _two(w: list[list[float]], b: list[float]) -> nn.Sequential:
    """2-2-2; the logits are (0, h_1 + h_2)."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double().eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(w))
        model[0].bias.copy_(torch.tensor(b))
        model[2].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        model[2].bias.zero_()
    return model


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_network_is_always_tight(norm: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4)).double().eval()
    audit = cone_audit(model, torch.rand(5, 3).double(), torch.tensor([0, 1, 2, 3, 0]), norm=norm)
    assert audit.pairs == audit.tight == audit.reached == 15
    assert (audit.holds, audit.violated, audit.violated_overall) == ((), (), 0.0)
    w = model[0].weight.detach()
    s = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[norm]
    steepest = max(float(torch.linalg.vector_norm(a - b, s)) for a in w for b in w)
    assert audit.attained_lower == pytest.approx(steepest)
    assert audit.attained_far == pytest.approx(steepest)


@pytest.mark.parametrize("norm", NORMS)
def test_by_hand_where_it_holds(norm: float) -> None:
    """Both units see the sum of the inputs up to a small tilt; from label 0 the steepest direction keeps both on."""
    model = _two([[1.0, 0.9], [0.9, 1.0]], [0.1, 0.1])
    audit = cone_audit(model, torch.tensor([[0.5, 0.5]]).double(), torch.tensor([0]), norm=norm)
    assert (audit.holds, audit.holds_up_to, audit.violated, audit.tight) == ((1.0,), (1.0,), (0.0,), 1)
    assert audit.attained_lower == pytest.approx({1.0: 1.9, 2.0: 1.9 * math.sqrt(2), math.inf: 3.8}[norm])
    assert audit.pair == (0, 1)


@pytest.mark.parametrize("norm", NORMS)
def test_by_hand_where_it_does_not(norm: float) -> None:
    """Label 1 wants both units down: the same cell, the opposite direction. And two units of opposite sight: one fails."""
    x = torch.tensor([[0.5, 0.5]]).double()
    down = cone_audit(_two([[1.0, 0.9], [0.9, 1.0]], [0.1, 0.1]), x, torch.tensor([1]), norm=norm)
    assert (down.holds, down.violated, down.tight, down.reached) == ((0.0,), (1.0,), 0, 0)
    assert (down.attained_lower, down.witness) == (0.0, None)
    half = cone_audit(_two([[2.0, 1.0], [-1.0, -0.8]], [0.0, 5.0]), x, torch.tensor([0]), norm=norm)
    assert (half.holds, half.violated, half.tight) == ((0.0,), (0.5,), 0)
    assert half.reached == 1  # far away the second unit is off, and the first alone is a tight triple
    assert half.attained_lower == pytest.approx({1.0: 2.0, 2.0: math.sqrt(5), math.inf: 3.0}[norm])


def test_layers_one_sample_and_unit_at_a_time() -> None:
    """The condition written out with autograd: derivatives of every argument inside the sample's cell, along u."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 3)).double().eval()
    x, y = torch.randn(40, 2).double(), torch.randint(3, (40,))
    audit = cone_audit(model, x, y, norm=2, bounds=None)
    held: list[list[bool]] = []
    shares: list[list[float]] = []
    for z, label in zip(x, y.tolist(), strict=True):
        arguments = [model[:1], model[:3]]
        for j in set(range(3)) - {label}:
            g = torch.autograd.functional.jacobian(model, z)
            g = g[j] - g[label]
            rows: list[Tensor] = [torch.autograd.functional.jacobian(a, z) @ g for a in arguments]
            wrong = [(v * a(z).sign() < -1e-12) for v, a in zip(rows, arguments, strict=True)]
            nothing = float(g.norm()) == 0
            held.append([not nothing and not bool(w.any()) for w in wrong])
            shares.append([1.0 if nothing else float(w.double().mean()) for w in wrong])
    table = torch.tensor(held)
    assert torch.allclose(torch.tensor(audit.holds), table.float().mean(0))
    assert audit.holds_up_to[0] == audit.holds[0]
    assert audit.holds_up_to[1] == pytest.approx(float(table.all(1).float().mean()))
    assert audit.tight == int(table.all(1).sum()) > 0
    assert audit.violated == pytest.approx(tuple(torch.tensor(shares).median(0).values.tolist()))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("norm", NORMS)
def test_attained_values_stay_below_the_slopes(seed: int, norm: float) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)).double().eval()
    x, y = 3 * torch.randn(200, 2).double(), torch.randint(3, (200,))
    audit = cone_audit(model, x, y, norm=norm, bounds=None)
    network = read_network(model, x)
    small = lower_slope(network, range(3), norm, math.inf, seconds=20)
    assert audit.attained_lower == pytest.approx(small.lower)  # many starts in the plane find every fixed point
    assert audit.attained_far <= far_slope(network, range(3), norm, seconds=20).upper * (1 + 1e-9)
    assert audit.attained_lower <= audit.attained_far
    if audit.witness is not None and audit.pair is not None:
        rise = network.homogeneous.logits(audit.witness.view(1, -1))[0]
        assert float(rise[audit.pair[1]] - rise[audit.pair[0]]) == pytest.approx(audit.attained_lower)


def test_what_it_refuses() -> None:
    model = nn.Sequential(nn.Linear(2, 1)).double().eval()
    with pytest.raises(InputError, match="at least 2"):
        cone_audit(model, torch.rand(2, 2).double(), torch.tensor([0, 0]), norm=2)
    with pytest.raises(InputError, match=">= 1"):
        cone_audit(model, torch.rand(2, 2).double(), torch.tensor([0, 0]), norm=0.5)
