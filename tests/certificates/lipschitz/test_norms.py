"""Operator norms against dense matrices, and products of norms against gradients and by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from random_networks import Grown
from wassertight.certificates.lipschitz.blocks import blocks
from wassertight.certificates.lipschitz.norms import matrix_of, operator_norm, product_bounds
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.operations import Affine, Convolution
from wassertight.certificates.propagation.reading import read_graph
from wassertight.geometry import conjugate, norm

NORMS = [1.0, 2.0, math.inf]


def _read(model: nn.Module, *source: int) -> Graph:
    return read_graph(model.double(), torch.rand(2, *source).double(), dtype=torch.float64, device=torch.device("cpu"))


def test_norms_of_every_affine_operation() -> None:
    kinds = set()
    for seed in range(10):
        model = Grown(seed)
        operations = [node.operation for node in _read(model, *model.source).nodes]
        for operation, r in itertools.product(operations, NORMS):
            if isinstance(operation, Affine):
                exact = float(torch.linalg.matrix_norm(matrix_of(operation), ord=r))
                found, kind = operator_norm(operation, r), type(operation).__name__
                assert found >= exact * (1 - 1e-12)
                if r != 2 or kind != "Rearrangement":
                    assert found <= exact * (1 + 1e-6) + 1e-12
                kinds.add(kind)
    assert kinds == {"Dense", "Convolution", "Elementwise", "Rearrangement"}


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"), [(1, 1, 1, 1), (2, 1, 1, 1), (2, 3, 2, 2), (3, 0, 1, 4)]
)
def test_the_torus_bound_of_large_convolutions(
    stride: int, padding: int, dilation: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = nn.Conv2d(4, 8, 3, stride, padding, dilation, groups).double()
    graph = _read(nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)), 4, 11, 9)
    convolution = graph.nodes[1].operation
    assert isinstance(convolution, Convolution)
    exact = float(torch.linalg.matrix_norm(matrix_of(convolution), ord=2))
    monkeypatch.setattr("wassertight.certificates.lipschitz.norms._DENSE", 0)
    bound = operator_norm(convolution, 2.0)
    assert exact <= bound <= 1.2 * exact


def test_products_bound_every_difference() -> None:
    finite = 0
    for seed in range(12):
        model = Grown(seed, depth=3)
        graph = _read(model, *model.source)
        x, z = (3 * torch.randn(200, *model.source).double() for _ in range(2))
        f = (model(z) - model(x)).detach()
        change = (f[:, None, :] - f[:, :, None]).abs()
        for r in NORMS:
            bound = product_bounds(graph, r)
            assert (change <= bound * norm(z - x, r)[:, None, None] * (1 + 1e-9) + 1e-9).all()
            finite += int(torch.isfinite(bound).all())
    assert finite >= 10


def test_linear_networks_are_exact() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    graph = _read(model, 5)
    w = model[1].weight @ model[0].weight
    for r in NORMS:
        expected = norm((w[None] - w[:, None]).flatten(0, 1), conjugate(r)).view(3, 3)
        assert torch.allclose(product_bounds(graph, r), expected, rtol=1e-8, atol=1e-12)


def test_normalisation_and_attention_on_the_whole_space() -> None:
    layer = nn.LayerNorm(6, eps=1e-2)
    nn.init.uniform_(layer.weight, -2, 2)
    graph = _read(nn.Sequential(layer, nn.Linear(6, 2)), 6)
    assert {block.kind for block in blocks(graph).values()} == {"norm"}
    head = (graph.nodes[-1].operation.weight * layer.weight).detach()  # type: ignore[union-attr]
    # mean and scale taken off: the row is multiplied by 1 / sqrt(eps) at most
    assert float(product_bounds(graph, 2.0)[0, 1]) == pytest.approx(float((head[1] - head[0]).norm() / 0.1), rel=1e-6)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(4, 2, batch_first=True)
            self.head = nn.Linear(12, 3)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.head(self.inner(z, z, z, need_weights=False)[0].flatten(1))

    graph = _read(Attention().eval(), 3, 4)
    assert {block.kind for block in blocks(graph).values()} == {"softmax"}
    bound = product_bounds(graph, 2.0)
    assert torch.isinf(bound[~torch.eye(3, dtype=torch.bool)]).all()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_rows_are_pulled_by_the_transpose_whatever_the_padding(size: int) -> None:
    for stride, padding, height in itertools.product((2, 3), (0, 1, 2, 3), (3, 5, 7)):
        weight = torch.randn(4, 2, size, size).double()
        z = torch.randn(3, 2, height, height).double()
        out = nn.functional.conv2d(z, weight, None, stride, padding)
        operation = Convolution(
            weight=weight, bias=torch.zeros(4).double(), stride=(stride, stride), padding=(padding, padding),
            dilation=(1, 1), groups=1, source=(2, height, height), target=tuple(out.shape[1:]),
        )  # fmt: skip
        a = torch.randn_like(out)
        assert torch.allclose((operation.pull(a)[0] * z).sum(), (a * out).sum(), atol=1e-9)
