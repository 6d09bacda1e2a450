"""Image data sets of the Hugging Face hub, of a local folder, or already loaded by the package datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wassertight.data.pictures import is_picture, read_options, stacked
from wassertight.packages import optional_package
from wassertight.types import DataError

_INPUTS, _LABELS = ("image", "img", "pixel_values", "x"), ("label", "labels", "fine_label", "y")


def read_dataset(text: str, split: str, n: int | None) -> tuple[Tensor, Tensor]:
    """The first n rows of `repository[:split][?resize=256&crop=224]`, as x (n, c, h, w) in [0, 1] and y (n,).

    Args:
        text: a repository of the hub, or a folder (files the package reads, or what its `save_to_disk` wrote);
            the split may be a slice such as `test[:500]`. Code of a repository is never run.
        split: the split where the name has none.

    Raises:
        PackageError: the package datasets is absent.
        DataError: no such data or split, or columns that are no images and labels.
    """
    datasets = optional_package("datasets", "data of the form hf:")
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise DataError(f"datasets {datasets.__version__} can run code of a repository; 4 or newer is needed")
    rest, _, options = text.partition("?")
    path, _, given = rest.partition(":")
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        if any((Path(path) / name).is_file() for name in ("dataset_dict.json", "state.json")):
            table = datasets.load_from_disk(path)
            table = table[given or split] if isinstance(table, dict) else table
        else:
            table = datasets.load_dataset(path, split=given or split)
    except Exception as error:  # the hub, the network, files and splits fail in many ways
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"hf:{text} cannot be loaded: {first}") from error
    finally:
        if shown:
            datasets.enable_progress_bars()
    return table_tensors(table, n, f"hf:{text}", read_options(options, f"hf:{text}"))


def is_table(data: Any) -> bool:
    """Whether it is a table of the package datasets, without importing it."""
    return hasattr(data, "column_names") and hasattr(data, "features") and hasattr(data, "__getitem__")


def table_tensors(table: Any, n: int | None, name: str, options: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Images and labels of the first n rows."""
    columns = list(table.column_names)
    kinds = {column: type(table.features[column]).__name__ for column in columns}
    image = _column(columns, kinds, "Image", _INPUTS)
    label = _column(columns, kinds, "ClassLabel", _LABELS)
    if image is None or label is None:
        raise DataError(f"{name} needs a column of images and one of labels, it has {', '.join(columns) or 'none'}")
    rows = range(len(table) if n is None else min(n, len(table)))
    if not rows:
        raise DataError(f"{name} is empty; at least one sample is needed")
    values, labels = [], []
    for index in rows:
        row = table[index]
        values.append(row[image])
        labels.append(row[label])
    y = torch.as_tensor(labels)
    if y.ndim != 1 or y.is_floating_point():
        raise DataError(f"{name}: the column {label!r} must hold one whole number a sample")
    if is_picture(values[0]):
        return stacked(values, [f"row {index}" for index in rows], **options), y.long()
    x = torch.stack([torch.as_tensor(value) for value in values])
    return (x.float() if x.is_floating_point() else x.float() / 255), y.long()


def _column(columns: list[str], kinds: dict[str, str], kind: str, names: tuple[str, ...]) -> str | None:
    """A column by its usual name, or the first of its type."""
    typed = [column for column in columns if kinds[column] == kind]
    named = [name for name in names if name in columns]
    return next((column for column in [*(c for c in typed if c in names), *typed, *named]), None)
