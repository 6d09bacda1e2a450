"""Matrices kept in strips: the same products as dense ones, with fewer entries where rows see windows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wassertight.certificates.propagation import strips
from wassertight.certificates.propagation.layout import flat_rows
from wassertight.certificates.propagation.strips import Strips


def _windows(side: int = 12, channels: int = 3, size: int = 3) -> Tensor:
    """Rows of a convolution with random weights, one a place of its output and channel."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, channels, size, size, dtype=torch.float64, generator=generator)
    hot = torch.eye(2 * side * side, dtype=torch.float64).view(-1, side, side, 2).movedim(-1, 1)
    rows = torch.nn.functional.conv_transpose2d(hot, weight, padding=1)
    return flat_rows(rows[None])[0]


def _cases() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    full = torch.randn(40, 30, dtype=torch.float64, generator=generator)
    gaps = full.clone()
    gaps[5:9] = 0
    return {"windows": _windows(), "full": full, "with rows of zeros": gaps, "zeros": torch.zeros_like(full)}


@pytest.mark.parametrize("name", list(_cases()))
def test_products_are_those_of_the_dense_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "_WORTH", 50)
    dense, generator = _cases()[name], torch.Generator().manual_seed(2)
    matrix, (units, width) = Strips.of(dense), dense.shape
    x = torch.randn(2, 4, units, dtype=torch.float64, generator=generator)
    y = torch.randn(2, 4, width, dtype=torch.float64, generator=generator)
    assert len(matrix) == units
    assert torch.equal(matrix.dense(), dense)
    torch.testing.assert_close(matrix.across(x), x @ dense)
    torch.testing.assert_close(matrix.onto(y), y @ dense.T)
    torch.testing.assert_close(matrix.sums(y[0, 0]), dense @ y[0, 0])
    outer = matrix.outer(x, y).dense()
    kept = matrix.like(torch.ones_like(matrix.flat)).dense() > 0
    assert (dense[~kept] == 0).all()
    torch.testing.assert_close(outer, (x.flatten(0, 1).T @ y.flatten(0, 1)) * kept)
    chosen = torch.rand(units, generator=generator) > 0.4
    assert torch.equal(matrix.part(chosen).dense(), dense[chosen])
    both = Strips.joined([matrix, matrix.part(chosen)])
    assert torch.equal(both.dense(), torch.cat((dense, dense[chosen])))
    scaled = matrix.like(matrix.flat.clone())
    for block, value in scaled.by_rows(x[0, 0]):
        block.mul_(value)
    torch.testing.assert_close(scaled.dense(), dense * x[0, 0][:, None])
    assert torch.equal(Strips.fitted(dense, matrix.runs).flat, matrix.flat)
    nothing = matrix.part(torch.zeros(units, dtype=torch.bool))
    assert nothing.across(x[:, :, :0]).abs().sum() == 0


def test_windows_take_a_fraction_of_the_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "_WORTH", 500)
    dense = _windows()
    assert Strips.of(dense).flat.numel() < 0.4 * dense.numel()
    shuffled = dense[:, torch.randperm(dense.shape[1], generator=torch.Generator().manual_seed(0))]
    assert Strips.of(shuffled).flat.numel() > 0.9 * dense.numel()  # no order, little to save
