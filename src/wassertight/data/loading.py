"""Loads labelled data: the embedded digits, an .npz file, or tensors, arrays, Datasets and DataLoaders of the caller."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from wassertight.data.folder import read_folder
from wassertight.data.hugging_face import is_table, read_dataset, table_tensors
from wassertight.data.pictures import is_picture, picture_tensor
from wassertight.errors import nearest
from wassertight.types import DataError

_EMBEDDED = {
    "digits": "UCI optical digits, 8 x 8, 10 classes, 1,297 training and 500 test images (scikit-learn's copy)"
}


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Inputs (n, *features) float32 in [0, 1] and labels (n,) int64, in file order."""

    name: str
    x: Tensor
    y: Tensor


DATA_FORMS = {
    "path/to/file.npz": "x_test and y_test (x_train, y_train for training): uint8, or floats in [0, 1]",
    "path/to/folder/": "pictures, one sub-folder a class; or folder:path, with ?resize=256&crop=224 where sizes differ",
    "hf:organisation/name:split": "a Hugging Face data set of images, or its local folder (package datasets)",
}
"""Forms of names other than those of embedded data, with one line each."""


def list_data() -> dict[str, str]:
    """Embedded data sets and their one-line descriptions."""
    return dict(_EMBEDDED)


def load_data(name: str, *, split: str = "test", n: int | None = None) -> LabelledData:
    """Load the first n samples of a data set.

    Args:
        name: `digits`, or the path of an .npz file with `x_test` and `y_test` (or `x` and `y`); images as uint8 or
            floats in [0, 1], channels last where the last size is 1, 3 or 4 and the second is not, or channels first.
            A folder with one sub-folder of pictures a class (`path/to/folder/` or `folder:path`), or
            `hf:<repository or folder>[:split]`; both may end in `?resize=256&crop=224`.
        split: "test" or "train".
        n: how many, or None for all.

    Raises:
        DataError: missing, truncated or mis-shaped file, unknown name (with the nearest one).
        PackageError: a package that reads this form is absent.

    >>> load_data("digits", n=5).x.shape
    torch.Size([5, 1, 8, 8])
    """
    if n is not None and n < 1:
        raise DataError(f"n must be at least 1, got {n}")
    if split not in ("test", "train"):
        raise DataError(f"split must be 'test' or 'train', got {split!r}")
    prefix, _, rest = name.partition(":")
    bare = name.partition("?")[0]
    if name not in _EMBEDDED and (prefix in ("hf", "folder") or Path(bare).is_dir() or bare.endswith("/")):
        read = read_dataset if prefix == "hf" else read_folder
        images, labels = read(rest if prefix in ("hf", "folder") else name, split, n)
        return LabelledData(name=name, x=images, y=labels)
    path = Path(__file__).parent / "digits.npz" if name in _EMBEDDED else Path(name)
    if name not in _EMBEDDED and path.suffix != ".npz":
        near = nearest(name, _EMBEDDED)
        raise DataError(
            f"unknown data {name!r}; did you mean {near!r}? Allowed: {', '.join(_EMBEDDED)}; {'; '.join(DATA_FORMS)}"
        )
    x, y = _read(path, split)
    return LabelledData(name=name, x=_inputs(x[:n], path), y=_labels(y[:n], path))


def _read(path: Path, split: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            for keys in ((f"x_{split}", f"y_{split}"), ("x", "y")):
                if keys[0] in content and keys[1] in content:
                    x, y = content[keys[0]], content[keys[1]]
                    break
            else:
                raise DataError(f"{path} needs x_{split} and y_{split} (or x and y), it holds {sorted(content)}")
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is not a readable .npz file (truncated, or holding pickled objects): {error}"
        ) from error
    if len(x) == 0 or len(x) != len(y):
        raise DataError(f"{path}: x and y need the same number of samples, at least one; got {len(x)} and {len(y)}")
    return x, y


def _inputs(x: npt.NDArray[Any], path: Path) -> Tensor:
    if x.dtype == np.uint8:
        x = x.astype(np.float32) / 255
    elif not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"{path}: inputs must be uint8 or floats in [0, 1], got {x.dtype}")
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x = x.transpose(0, 3, 1, 2)
    elif x.ndim not in (2, 4):
        raise DataError(
            f"{path}: inputs must have shape (n, d), (n, h, w), (n, h, w, c) or (n, c, h, w), got {x.shape}"
        )
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))


def _labels(y: npt.NDArray[Any], path: Path) -> Tensor:
    if not np.issubdtype(y.dtype, np.integer) or y.ndim != 1:
        raise DataError(f"{path}: labels must be one integer a sample, got {y.dtype} of shape {y.shape}")
    return torch.from_numpy(y.astype(np.int64))


def as_tensors(data: Any, n: int | None = None) -> tuple[Tensor, Tensor]:
    """The first n samples of whatever the caller has, as (x, y), order kept.

    Args:
        data: a pair (x, y) of tensors or arrays, LabelledData, a torch Dataset of (input, label) pairs (torchvision's
            among them; pictures without a transform become tensors in [0, 1]), a DataLoader of batches (read only as
            far as needed), or a table of the package datasets.
        n: how many, or None for all.

    Raises:
        DataError: for anything else, or when nothing is in it.

    >>> as_tensors((np.zeros((4, 2), dtype=np.float32), np.arange(4)), n=3)[1].tolist()
    [0, 1, 2]
    """
    if n is not None and n < 1:
        raise DataError(f"the number of samples must be at least 1, got {n}")
    if isinstance(data, LabelledData):
        return data.x[:n], data.y[:n]
    if is_table(data):
        return table_tensors(data, n, type(data).__name__, {})
    if isinstance(data, DataLoader):
        return _gather(((batch[0], batch[1]) for batch in data), n)
    if isinstance(data, IterableDataset):
        return _gather((_single(pair) for pair in data), n)
    if isinstance(data, Dataset):
        return _gather((_single(data[index]) for index in range(len(data))), n)  # type: ignore[arg-type]
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return torch.as_tensor(data[0])[:n], torch.as_tensor(data[1])[:n]
    raise DataError(
        f"data must be a pair (x, y), a Dataset, a DataLoader or a table of datasets, got {type(data).__name__}"
    )


def _single(pair: Any) -> tuple[Tensor, Tensor]:
    """One labelled sample as a batch."""
    try:
        x, y = pair[0], pair[1]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"each item of the data set must be a pair (input, label), got {type(pair).__name__}"
        ) from error
    return (picture_tensor(x) if is_picture(x) else torch.as_tensor(x))[None], torch.as_tensor(y).reshape(1)


def _gather(batches: Iterable[tuple[Tensor, Tensor]], n: int | None) -> tuple[Tensor, Tensor]:
    inputs, labels, count = [], [], 0
    for x, y in batches:
        inputs.append(x)
        labels.append(y)
        count += len(x)
        if n is not None and count >= n:
            break
    if count == 0:
        raise DataError("the data set is empty; at least one sample is needed")
    shapes = {tuple(x.shape[1:]) for x in inputs}
    if len(shapes) > 1:
        raise DataError(f"the samples need one shape, got {', '.join(map(str, sorted(shapes)[:3]))}; resize them first")
    return torch.cat(inputs)[:n], torch.cat(labels)[:n]
