"""The picture of moving light: original, attacked, and the flow field as arrows, from the arrays of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors.numpy import load_file

from wassertight.report.plots import _STYLE, write_figure

_FAINT = 0.08
"""Arrows shorter than this share of the longest are left out."""


def flow_figure(arrays: Mapping[str, Any]) -> Figure | None:
    """One column an image: original, attacked, and where light went; None where a run kept no flow.

    An arrow starts at the pixel the light leaves and points where it goes; its length is light times distance, so that
    all arrows of an image add up to its budget. Its colour is the attack's, the image lies grey beneath.
    """
    if "flow" not in arrays:
        return None
    rows = arrays["flow.images"]
    x, z, distances = (arrays[name][rows] for name in ("x", "z", "attacked_distance"))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(1.5 * len(rows) + 0.7, 4.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(3, len(rows), squeeze=False)
        for column, (index, before, after, field) in enumerate(zip(rows, x, z, arrays["flow"], strict=True)):
            top = max(1.0, float(after.max()))
            for axis, image in zip(axes[:, column], (before, after, before), strict=True):
                shown = np.moveaxis(image, 0, -1) / top
                axis.imshow(shown.squeeze(-1) if shown.shape[-1] == 1 else shown, cmap="gray_r", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
            axes[2, column].images[0].set_alpha(0.35)
            _arrows(axes[2, column], field)
            axes[0, column].set_title(f"image {index}", fontsize=8)
            axes[1, column].set_title(f"distance {distances[column]:.3g}", fontsize=8)
        for axis, name in zip(axes[:, 0], ("original", "attacked", "light moved"), strict=True):
            axis.set_ylabel(name)
    return figure


def _arrows(axis: Axes, field: Any) -> None:
    size = np.hypot(field[..., 0], field[..., 1])
    if size.max() == 0:
        return
    y, x = np.nonzero(size > _FAINT * size.max())
    down, right = field[y, x, 0], field[y, x, 1]
    axis.quiver(
        x, y, right, down, angles="xy", scale_units="xy", scale=size.max() / 2.5, color="#D55E00",
        width=0.012, headwidth=3.5, headlength=4, headaxislength=3.5,
    )  # fmt: skip


def save_flow_figure(directory: str | Path, stem: str | Path | None = None) -> list[Path]:
    """The picture of a run directory as `flow.pdf`, `.svg` and `.png` in it; no paths where the run moved no light."""
    stored = Path(directory) / "arrays.safetensors"
    figure = flow_figure(load_file(stored)) if stored.is_file() else None
    return [] if figure is None else write_figure(figure, stem or Path(directory) / "flow")
