"""Local Lipschitz bounds beside auto_LiRPA 0.7.1 (l_inf) and eclipse-nn 0.1.7 (l_2): bounds and seconds at several radii.

python benchmarks/jacobian_reference.py MANIFEST MNIST --part lirpa --network mnist_mlpB_adv_0.1 ... \
    --out benchmarks/records/jacobian_reference.json
python benchmarks/jacobian_reference.py MANIFEST MNIST --part eclipse --out benchmarks/records/jacobian_reference.json

Both are needed on the path for this comparison only:

    pip install --no-deps --target /elsewhere/packages eclipse-nn==0.1.7 cvxpy scs clarabel osqp qdldl
    git clone https://github.com/Verified-Intelligence/auto_LiRPA /elsewhere/auto_LiRPA

auto_LiRPA: the l_1 norm of the gradient of `f_j - f_y` (its JacobianOP and GradNorm, method CROWN, as in its example of
local Lipschitz constants) over the l_inf ball cut by the box, j the runner-up; one graph a label pair, building it is not
counted. Also networks with random weights and tanh, for which it relaxes derivatives jointly with values. `ratio`
is ours / theirs, at most 1 where ours is at least as tight; `seconds` are processor seconds a bound, ours divided by
the classes - 1 bounds a sample it gives at once.

eclipse-nn: `estimate_gen_local` with CF, Fast and Acc against ellipsoids in closed form and after 10 and 30 descents; l_2
ball without a box, as it has none; multilayer perceptrons with one output as in its papers (random weights as PyTorch
initialises them), and the logit differences of a trained one. Ours counts everything, bounds of hidden units included;
reading the network is not counted, as extracting weights is not. `estimate_gen_local` prints; its print is swallowed.
Its failures (nan, or an error) are recorded as such. It takes one point a call; ours is also timed on 16 points at once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wassertight.certificates.lipschitz.jacobians import jacobian_bounds
from wassertight.certificates.propagation.reading import read_graph
from wassertight.data import load_data
from wassertight.models import load_model

LINF, L2 = (0.001, 0.003, 0.01, 0.03, 0.1), (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)


def timed(task: Callable[[], Any]) -> tuple[Any, float]:
    """The answer and its processor seconds."""
    begun = time.process_time()
    return task(), time.process_time() - begun


def perceptron(sizes: list[int], activation: type[nn.Module], seed: int = 0) -> nn.Sequential:
    """A multilayer perceptron with PyTorch's random weights."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


class Difference(nn.Module):
    """The l_1 norm of the gradient of one logit difference, in auto_LiRPA's words."""

    def __init__(self, model: nn.Module, row: Tensor) -> None:
        super().__init__()
        from auto_LiRPA.jacobian import GradNorm

        self.model, self.size = model, GradNorm(norm=1)
        self.row = nn.Parameter(row[:, None])

    def forward(self, x: Tensor) -> Tensor:
        from auto_LiRPA.jacobian import JacobianOP

        return self.size(JacobianOP.apply(self.model(x).matmul(self.row), x))


def theirs_linf(model: nn.Module, x: Tensor, row: Tensor, t: float) -> tuple[float, float]:
    """auto_LiRPA's bound for one sample (1, *features) and one difference."""
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    network = BoundedModule(Difference(model, row), x, device="cpu")
    low, high = (x - t).clamp_min(0), (x + t).clamp_max(1)
    point = BoundedTensor(x, PerturbationLpNorm(norm=math.inf, x_L=low, x_U=high))
    (_, upper), seconds = timed(lambda: network.compute_jacobian_bounds(point, optimize=False, bound_lower=False))
    return float(upper), seconds


def compare_linf(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Both bounds at every radius."""
    graph = read_graph(model, x[:2], dtype=torch.float64, device=x.device)
    logits = model(x).detach()
    j = logits.scatter(1, y[:, None], -math.inf).argmax(1)
    eye, found = torch.eye(logits.shape[1]), {}
    for t in LINF:
        ours, seconds = timed(lambda t=t: jacobian_bounds(graph, x, y, torch.full((len(x),), t), math.inf, (0.0, 1.0)))  # type: ignore[misc]
        mine = ours.gather(1, j[:, None]).squeeze(1)
        pairs = [theirs_linf(model, x[k : k + 1], eye[j[k]] - eye[y[k]], t) for k in range(len(x))]
        other = torch.tensor([value for value, _ in pairs])
        ratio = mine / other
        found[f"{t:g}"] = {
            "ours": round(float(mine.mean()), 4),
            "theirs": round(float(other.mean()), 4),
            "ratio": {"mean": round(float(ratio.mean()), 6), "largest": round(float(ratio.max()), 6)},
            "seconds": {
                "ours": round(seconds / len(x) / (logits.shape[1] - 1), 5),
                "theirs": round(sum(s for _, s in pairs) / len(x), 5),
            },
        }
    return found


def theirs_l2(model: nn.Sequential, x: Tensor, t: float, name: str, algorithm: str) -> tuple[Any, float | None]:
    """eclipse-nn's bound around one point."""
    from eclipse_nn import LipConstEstimator

    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    estimator = LipConstEstimator(
        weights=[layer.weight.detach() for layer in linear], biases=[layer.bias.detach()[:, None] for layer in linear]
    )
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found, seconds = timed(lambda: estimator.estimate_gen_local(x, t, name, algorithm)[0])
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:80], None
    return (round(float(found), 6) if math.isfinite(found) else "nan"), round(seconds, 4)


def compare_l2(model: nn.Sequential, x: Tensor, name: str, algorithms: list[str]) -> dict[str, Any]:
    """Bounds of a network with one output f, as logits (0, f), around one point."""
    two = nn.Sequential(*model, nn.Linear(1, 2, bias=False))
    two[-1].weight.data = torch.tensor([[0.0], [1.0]])
    graph = read_graph(two, x[None].expand(2, -1), dtype=torch.float64, device=x.device)
    many = x + 0.1 * torch.randn(16, *x.shape, generator=torch.Generator().manual_seed(2))
    found = {}
    for t in L2:
        rows: dict[str, Any] = {}
        for descents in (0, 10, 30):
            ours, seconds = timed(
                lambda t=t, descents=descents: jacobian_bounds(  # type: ignore[misc]
                    graph, x[None], torch.zeros(1, dtype=torch.long), torch.tensor([t]), 2.0, None, descents=descents
                )
            )
            _, together = timed(
                lambda t=t, descents=descents: jacobian_bounds(  # type: ignore[misc]
                    graph, many, torch.zeros(16, dtype=torch.long), torch.full((16,), t), 2.0, None, descents=descents
                )
            )
            rows[f"ours, {descents} descents"] = {
                "bound": round(float(ours[0, 1]), 6),
                "seconds": round(seconds, 4),
                "seconds a point, 16 at once": round(together / 16, 5),
            }
        for algorithm in algorithms:
            value, seconds = theirs_l2(model, x, t, name, algorithm)
            rows[f"eclipse {algorithm}"] = {"bound": value, "seconds": seconds}
        found[f"{t:g}"] = rows
    return found


def main() -> None:
    """One part of the comparison; the record keeps the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs=2, help="manifest, mnist")
    parser.add_argument("--part", choices=["lirpa", "eclipse"], required=True)
    parser.add_argument("--network", nargs="*", default=[])
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # auto_LiRPA makes some tensors of its own
    data = load_data(given.files[1], n=given.n)
    x, y = data.x.double(), data.y
    trained = {name: load_model(f"{given.files[0]}#{name}").model.double() for name in given.network}

    def keep(name: str, entry: dict[str, Any]) -> None:
        print(name, json.dumps(entry), flush=True)
        if given.out:
            record = json.loads(given.out.read_text()) if given.out.exists() else {}
            record.setdefault(given.part, {})[name] = entry
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    if given.part == "lirpa":
        for name, model in trained.items():
            keep(name, compare_linf(model, x, y))
        for name, kind in (("relu 30-50-50-50-5", nn.ReLU), ("tanh 30-50-50-50-5", nn.Tanh)):
            points = torch.rand(given.n, 30, generator=torch.Generator().manual_seed(0))
            model = perceptron([30, 50, 50, 50, 5], kind)
            keep(name, compare_linf(model, points, model(points).argmax(1)))
    else:
        every = ["CF", "Fast", "Acc"]
        cases = [
            ("relu 5-32-32-1", perceptron([5, 32, 32, 1], nn.ReLU), "relu", every),
            ("relu 10-20-20-20-1", perceptron([10, 20, 20, 20, 1], nn.ReLU), "relu", every),
            ("relu 20-64-64-64-1", perceptron([20, 64, 64, 64, 1], nn.ReLU), "relu", ["CF", "Fast"]),
            ("relu 100-128x4-1", perceptron([100, 128, 128, 128, 128, 1], nn.ReLU), "relu", ["CF"]),
            ("relu 30-40x10-1", perceptron([30, *[40] * 10, 1], nn.ReLU), "relu", ["CF"]),
            ("tanh 10-20-20-20-1", perceptron([10, 20, 20, 20, 1], nn.Tanh), "tanh", every),
            ("silu 10-20-20-20-1", perceptron([10, 20, 20, 20, 1], nn.SiLU), "silu", every),
        ]
        for name, model, activation, algorithms in cases:
            point = torch.rand(model[0].in_features, generator=torch.Generator().manual_seed(1))
            keep(name, compare_l2(model, point, activation, algorithms))
        for name, model in trained.items():
            linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
            logits = model(x[:1])
            j = int(logits[0].scatter(0, y[0], -math.inf).argmax())
            last = nn.Linear(linear[-1].in_features, 1)
            last.weight.data = (linear[-1].weight[j] - linear[-1].weight[y[0]]).detach()[None]
            last.bias.data = (linear[-1].bias[j] - linear[-1].bias[y[0]]).detach()[None]
            layers = [part for layer in linear[:-1] for part in (layer, nn.ReLU())]
            difference = nn.Sequential(*layers, last)
            assert torch.allclose(difference(x[:1].flatten(1))[0, 0], logits[0, j] - logits[0, y[0]])
            keep(name, compare_l2(difference, x[0].flatten(), "relu", ["CF"]))


if __name__ == "__main__":
    main()
