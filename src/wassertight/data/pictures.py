"""Pictures of any kind as tensors in [0, 1]: colours, sizes, and the two resizings evaluation protocols use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wassertight.types import DataError


def is_picture(value: Any) -> bool:
    """Whether it is a Pillow image, without importing Pillow."""
    return hasattr(value, "convert") and hasattr(value, "mode") and hasattr(value, "size")


def picture_tensor(
    picture: Any, *, resize: int | None = None, crop: int | None = None, mode: str | None = None
) -> Tensor:
    """One Pillow image as (channels, height, width) float32 in [0, 1]; one channel if it is grey, else three.

    Args:
        picture: of any mode with 8 bits a channel.
        resize: bring the shorter side to so many pixels (bilinear), keeping the shape of the picture.
        crop: then keep the square of so many pixels in the middle.
        mode: "L" or "RGB"; chosen by the picture where left out.
    """
    if picture.mode.startswith(("I", "F")):
        raise DataError(f"pictures need 8 bits a channel, got mode {picture.mode!r}; convert them first")
    picture = picture.convert(mode or ("L" if picture.mode in ("1", "L", "LA") else "RGB"))
    if resize is not None:
        width, height = picture.size
        short = min(width, height)
        picture = picture.resize((round(width * resize / short), round(height * resize / short)), resample=2)
    if crop is not None:
        width, height = picture.size
        if min(width, height) < crop:
            raise DataError(
                f"a picture of {width} x {height} pixels cannot be cropped to {crop} x {crop}; resize first"
            )
        left, top = (width - crop) // 2, (height - crop) // 2
        picture = picture.crop((left, top, left + crop, top + crop))
    values = np.array(picture, dtype=np.float32) / np.float32(255)
    return torch.from_numpy(values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1)))


def stacked(pictures: Sequence[Any], names: Sequence[str], **options: Any) -> Tensor:
    """Pictures as one tensor (n, channels, height, width); grey ones among coloured ones become coloured.

    Raises:
        DataError: for sizes that differ, naming the first two, and how to make them equal.
    """
    tensors = [picture_tensor(picture, **options) for picture in pictures]
    if any(len(tensor) == 3 for tensor in tensors):
        tensors = [tensor if len(tensor) == 3 else tensor.expand(3, -1, -1) for tensor in tensors]
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.shape != tensors[0].shape:
            one, two = ("x".join(str(size) for size in shape[1:][::-1]) for shape in (tensors[0].shape, tensor.shape))
            raise DataError(
                f"pictures need one size, got {one} ({names[0]}) and {two} ({name}); "
                "append ?resize=256&crop=224 to the name of the data (any numbers), or resize them first"
            )
    return torch.stack(tensors)


def read_options(text: str, name: str) -> dict[str, int]:
    """`resize=256&crop=224` as numbers.

    >>> read_options("resize=256&crop=224", "folder:x")
    {'resize': 256, 'crop': 224}
    """
    found: dict[str, int] = {}
    for part in text.split("&") if text else []:
        key, _, value = part.partition("=")
        if key not in ("resize", "crop") or not value.isdigit() or int(value) < 1:
            raise DataError(f"{name}: options are ?resize=PIXELS and crop=PIXELS joined by &, got {part!r}")
        found[key] = int(value)
    return found
