"""Data files and adapters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from wassertight.data import as_tensors, load_data
from wassertight.types import DataError


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    test, train = load_data("digits"), load_data("digits", split="train")
    assert (len(test.y), len(train.y)) == (500, 1297)
    ours = torch.cat((test.x, train.x)).flatten(1).sum(1).sort().values
    theirs = torch.tensor(load_digits().data.sum(1) / 16, dtype=torch.float32).sort().values
    assert torch.allclose(ours, theirs)


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((3, 8, 8, 3), np.uint8, (3, 3, 8, 8)), ((3, 1, 8, 8), np.float32, (3, 1, 8, 8)), ((3, 8, 8), np.uint8, (3, 1, 8, 8)),
        ((3, 20), np.float64, (3, 20)), ((3, 3, 4, 4), np.float32, (3, 3, 4, 4)),
    ],
)  # fmt: skip
def test_layouts(shape: tuple[int, ...], dtype: type, expected: tuple[int, ...], tmp_path: Path) -> None:
    x = np.full(shape, 255 if dtype is np.uint8 else 1.0).astype(dtype)
    np.savez(tmp_path / "d.npz", x_test=x, y_test=np.arange(3))
    data = load_data(str(tmp_path / "d.npz"), n=2)
    assert tuple(data.x.shape) == (2, *expected[1:])
    assert data.x.dtype == torch.float32
    assert float(data.x.max()) == 1.0


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ({"x": np.zeros((2, 3)), "z": np.zeros(2)}, "needs x_test and y_test"), ({"x": np.zeros((0, 3)), "y": np.zeros(0, int)}, "at least one"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(2)}, "integer"), ({"x": np.zeros((2, 3), int), "y": np.zeros(2, int)}, "uint8 or floats"),
        ({"x": np.array([None, 1], dtype=object), "y": np.zeros(2, int)}, "pickled"), ({"x": np.zeros((2, 1, 1, 1, 1)), "y": np.zeros(2, int)}, "shape"),
    ],
)  # fmt: skip
def test_bad_content(content: dict[str, np.ndarray], hint: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **content)
    with pytest.raises(DataError, match=hint):
        load_data(str(tmp_path / "d.npz"))


def test_missing_truncated_and_unknown(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((9, 30)), y=np.zeros(9, int))
    whole = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(whole[: len(whole) // 2])
    for name, hint in (
        (str(tmp_path / "d.npz"), "readable"),
        (str(tmp_path / "e.npz"), "no such file"),
        ("digit", "did you mean 'digits'"),
    ):
        with pytest.raises(DataError, match=hint):
            load_data(name)


def test_adapters_keep_the_order() -> None:
    x, y = torch.rand(7, 3), torch.arange(7)
    sources = [(x, y), (x.numpy(), y.numpy()), TensorDataset(x, y), DataLoader(TensorDataset(x, y), batch_size=3)]
    for source in sources:
        a, b = as_tensors(source, n=5)
        assert torch.equal(a, x[:5])
        assert b.tolist() == [0, 1, 2, 3, 4]
    for bad in (x, DataLoader(TensorDataset(x[:0], y[:0]))):
        with pytest.raises(DataError):
            as_tensors(bad)
