"""Pictures of the samples for the page: originals and scaled differences as PNG sprites, within a limit of size."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LIMIT = 2_300_000
"""Bytes of all pictures of a page, as base64."""
_MOVED_MOST = 8


def encode_pictures(x: Any, moved: Mapping[str, Any], hardest: Sequence[int]) -> dict[str, Any] | None:
    """Sprites of as many of the hardest samples as the limit holds; None where samples are no images.

    Args:
        x: samples (n, channels, height, width), one or three channels.
        moved: name of a norm to the moved samples, of the same shape.
        hardest: all samples, the ones to keep first.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < 2 or not np.isfinite(x).all():
        return None
    low, high = float(min(0.0, x.min())), float(max(1.0, x.max()))
    kept = len(hardest)
    while kept:
        found = _encode(x, moved, sorted(hardest[:kept]), low, high - low)
        size = len(found["original"]) + sum(len(one["difference"]) for one in found["moved"].values())
        if size <= LIMIT:
            return found
        kept = min(kept - 1, math.floor(0.97 * kept * LIMIT / size))
    return None


def _encode(x: Any, moved: Mapping[str, Any], rows: Sequence[int], low: float, span: float) -> dict[str, Any]:
    before = x[rows].astype(np.float64)
    columns = math.ceil(math.sqrt(len(rows)))
    views = {}
    for name, points in moved.items():
        step = np.nan_to_num(points[rows].astype(np.float64) - before) / span
        scale = np.abs(step).reshape(len(rows), -1).max(1)
        coded = 128 + np.rint(127 * step / np.where(scale > 0, scale, 1)[:, None, None, None])
        views[name] = {"difference": _sprite(coded, columns), "scale": [float(f"{value:.4g}") for value in scale]}
    return {
        "width": x.shape[3], "height": x.shape[2], "colour": x.shape[1] == 3, "columns": columns, "rows": list(rows),
        "span": span, "original": _sprite(np.rint(255 * (before - low) / span), columns), "moved": views,
    }  # fmt: skip


def encode_features(x: Any, moved: Mapping[str, Any]) -> dict[str, list[Any]]:
    """For samples that are no images: by norm and sample, [index, original, moved] of the features that moved most."""
    flat, found = x.reshape(len(x), -1).astype(np.float64), {}
    for name, points in moved.items():
        after = points.reshape(len(x), -1).astype(np.float64)
        most = np.argsort(-np.abs(after - flat), axis=1, kind="stable")[:, :_MOVED_MOST]
        found[name] = [
            [[int(j), float(f"{a[j]:.5g}"), float(f"{b[j]:.5g}")] for j in row if math.isfinite(a[j] + b[j])]
            for row, a, b in zip(most, flat, after, strict=True)
        ]
    return found


def _sprite(images: Any, columns: int) -> str:
    """Images (n, channels, height, width) with values in 0..255 on a grid, as the address of a PNG."""
    n, channels, height, width = images.shape
    lines = math.ceil(n / columns)
    grid = np.zeros((lines * columns, channels, height, width), dtype=np.uint8)
    grid[:n] = images.clip(0, 255)
    grid = grid.reshape(lines, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    pixels = grid.reshape(lines * height, columns * width * channels)
    return "data:image/png;base64," + base64.b64encode(_png(pixels, columns * width)).decode("ascii")


def _png(pixels: Any, width: int) -> bytes:
    """Rows of 8-bit grey or RGB values as a PNG file (no filter)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height = len(pixels)
    kind = 0 if pixels.shape[1] == width else 2
    lines = np.concatenate((np.zeros((height, 1), dtype=np.uint8), pixels), axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
