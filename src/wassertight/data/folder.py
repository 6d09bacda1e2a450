"""A folder of pictures with one sub-folder a class."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor

from wassertight.data.pictures import read_options, stacked
from wassertight.packages import optional_package
from wassertight.types import DataError

_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_SPLITS = {"test": ("test", "val", "validation"), "train": ("train",)}


def read_folder(text: str, split: str, n: int | None) -> tuple[Tensor, Tensor]:
    """The first n pictures of `path[?resize=256&crop=224]`, as x (n, c, h, w) in [0, 1] and y (n,).

    Classes are numbered in the order of their folders' names. Pictures come one of every class in turn, each class in
    the order of its files' names, so that the first n are of all classes. Where the folder holds `test` or `val`
    (`train` for the training split) with classes inside, that one is read.

    Raises:
        DataError: no such folder, no classes or pictures in it, sizes that differ.
        PackageError: Pillow is absent.
    """
    path, _, options = text.partition("?")
    root, settings = Path(path), read_options(options, text)
    if not root.is_dir():
        raise DataError(f"no such folder: {root}")
    for name in _SPLITS[split]:
        if _classes(root / name):
            root = root / name
            break
    classes = _classes(root)
    files = [sorted(file for file in folder.rglob("*") if file.suffix.lower() in _ENDINGS) for folder in classes]
    if not any(files):
        raise DataError(f"{root} needs one sub-folder a class with pictures inside ({', '.join(sorted(_ENDINGS))})")
    turns = zip_longest(*([(file, label) for file in group] for label, group in enumerate(files)))
    chosen = [pair for turn in turns for pair in turn if pair is not None][:n]
    image = optional_package("PIL.Image", "a folder of pictures")
    pictures = []
    for file, _ in chosen:
        try:
            with image.open(file) as picture:
                picture.load()
                pictures.append(picture.copy())
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{file} is not a readable picture: {error}") from error
    x = stacked(pictures, [str(file.relative_to(root)) for file, _ in chosen], **settings)
    return x, torch.tensor([label for _, label in chosen], dtype=torch.int64)


def _classes(root: Path) -> list[Path]:
    return sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith(".")) if root.is_dir() else []
