"""The bracket figure: certified and attacked accuracy against the radius, one panel a ground norm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wassertight.records import Curve, Record

# Okabe-Ito colours, distinguishable with any colour vision.
_COLOURS = {1.0: "#0072B2", 2.0: "#D55E00", math.inf: "#009E73"}
_OTHERS = ("#CC79A7", "#E69F00", "#56B4E9")
_STYLE: Any = {
    "font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42, "svg.fonttype": "path",
    "axes.titlesize": 9.5, "legend.frameon": False, "figure.dpi": 110, "svg.hashsalt": "wassertight",
}  # fmt: skip


def bracket_figure(record: Record) -> Figure:
    """Accuracy against radius: the worst case lies in the shaded band of its order p.

    Solid lines are attacked (upper), dashed lines certified (lower), dotted is clean accuracy; circles mark the radii
    asked for.
    """
    norms = list(dict.fromkeys(curve.r for curve in record.curves))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(1.2 + 4.1 * max(1, len(norms)), 3.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, max(1, len(norms)), sharey=True, squeeze=False)[0]
        for axis, r in zip(axes, norms, strict=False):
            _panel(axis, record, r)
        axes[0].set_ylabel("accuracy (%)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=7.5, handlelength=2.2, loc="outside lower center", ncols=3)
        figure.suptitle(f"{record.model} on {record.data}, n = {record.n}", fontsize=10.5, x=0.01, ha="left")
    return figure


def save_figure(record: Record, stem: str | Path) -> list[Path]:
    """Write the bracket figure as stem.pdf, stem.svg and stem.png (300 dpi); returns the paths."""
    figure = bracket_figure(record)
    paths = []
    with mpl.rc_context(_STYLE):
        for suffix in ("pdf", "svg", "png"):
            path = Path(f"{stem}.{suffix}")
            path.parent.mkdir(parents=True, exist_ok=True)
            stamp = {"Date": None} if suffix == "svg" else ({"CreationDate": None} if suffix == "pdf" else None)
            figure.savefig(path, dpi=300, metadata=stamp)
            paths.append(path)
    return paths


def _panel(axis: Axes, record: Record, r: float) -> None:
    curves = [curve for curve in record.curves if curve.r == r]
    name = "Linf" if math.isinf(r) else f"L{r:g}"
    results = [result for result in record.results if result.r == r]
    clean = 100 * results[0].clean
    axis.axhline(clean, color="0.35", linestyle=":", linewidth=1, zorder=1)
    axis.annotate(
        f"clean {clean:.1f}", (1, clean), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7.5,
        color="0.35",
    )  # fmt: skip
    spare = iter(_OTHERS)
    for curve in sorted(curves, key=lambda curve: curve.p):
        _band(axis, curve, _COLOURS.get(curve.p) or next(spare, "0.4"))
    for result in results:
        colour = _COLOURS.get(result.p, "0.4")
        for value, filled in ((result.attacked, True), (result.certified, False)):
            if value is not None:
                face = colour if filled else "white"
                axis.plot(result.radius, 100 * value, "o", color=colour, markerfacecolor=face, markersize=4, zorder=4)
    top = max((curve.radii[-1] for curve in curves), default=1.0)
    axis.set(xlim=(0, top), ylim=(0, min(100, clean + 6)), title=f"{name} ground norm")
    _radius_ticks(axis, [result.radius for result in results], top)
    axis.grid(axis="y", color="0.92", linewidth=0.7)
    axis.set_axisbelow(True)


def _band(axis: Axes, curve: Curve, colour: str) -> None:
    name = "pointwise (p = inf)" if math.isinf(curve.p) else f"W{curve.p:g}"
    if curve.attacked is not None and curve.certified is not None:
        low, high = [100 * v for v in curve.certified], [100 * v for v in curve.attacked]
        axis.fill_between(curve.radii, low, high, color=colour, alpha=0.13, linewidth=0, zorder=2)
    if curve.attacked is not None:
        axis.plot(curve.radii, [100 * v for v in curve.attacked], color=colour, linewidth=1.5, label=f"{name} attacked")
    if curve.certified is not None:
        line = [100 * v for v in curve.certified]
        axis.plot(curve.radii, line, color=colour, linewidth=1.3, linestyle=(0, (4, 2)), label=f"{name} certified")


def _radius_ticks(axis: Axes, radii: list[float], top: float) -> None:
    """Ticks in 255ths where the radii asked for are multiples of 1/255."""
    whole = radii and all(abs(255 * radius - round(255 * radius)) < 1e-6 for radius in radii) and top < 0.5
    if whole:
        step = max(1, math.ceil(255 * top / 7))
        ticks = list(range(0, math.floor(255 * top) + 1, step))
        axis.set_xticks([tick / 255 for tick in ticks], [f"{tick}/255" if tick else "0" for tick in ticks])
    axis.set_xlabel("radius")
