"""The picture of a smoothing certificate: certified radii as a histogram, and the accuracy that follows from them."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wassertight.records import Record
from wassertight.report.plots import _COLOURS, _STYLE, write_figure

_ENDS = {"abstained": "0.6", "wrong": "#D55E00"}


def radii_figure(record: Record) -> Figure | None:
    """Left: how many images have which certified radius, and how many abstained or are wrong. Right: certified accuracy
    where every image has the radius, and where it is the mean over the images. None where no smoothing was run.
    """
    facts = record.settings.get("smoothing")
    if facts is None:
        return None
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.8, 3.3), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        _histogram(left, record)
        _curves(right, record)
        noise = "exact votes" if facts["sigma"] is None else f"sigma {facts['sigma']:g}, {facts['n']:,} draws"
        model, data = (Path(name.rpartition("#")[2]).name for name in (record.model, record.data))
        title = f"{model} on {data}, n = {record.n:,}\n{record.methods['certificate']}, {noise}"
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def save_radii_figure(record: Record, stem: str | Path) -> list[Path]:
    """The figure as stem.pdf, stem.svg and stem.png; returns the paths, none where no smoothing was run."""
    figure = radii_figure(record)
    return [] if figure is None else write_figure(figure, stem)


def _histogram(axis: Axes, record: Record) -> None:
    facts = record.settings["smoothing"]
    edges, counts = facts["histogram"]["edges"], facts["histogram"]["counts"]
    axis.stairs(counts, edges, fill=True, color=_COLOURS[math.inf], alpha=0.75, label="certified")
    width = edges[-1] / 24
    ends = {name: round(record.n * facts[name]) for name in _ENDS if facts[name] > 0}
    for place, (name, count) in enumerate(ends.items(), start=1):
        axis.bar(-1.6 * place * width, count, width, color=_ENDS[name], label=name)
    axis.set_xlim(-(1.6 * len(ends) + 1) * width, edges[-1] + width)
    axis.set_xticks([tick for tick in axis.get_xticks() if 0 <= tick <= edges[-1]])
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.axvline(facts["median"], color="0.25", linestyle=":", linewidth=1)
    axis.annotate(
        f" median {facts['median']:.3g}", (facts["median"], 1), xycoords=("data", "axes fraction"), fontsize=7.5,
        color="0.25", va="top",
    )  # fmt: skip
    axis.set(xlabel="certified radius (share of light x steps)", ylabel="images")
    axis.legend(fontsize=7.5)


def _curves(axis: Axes, record: Record) -> None:
    first = record.results[0]
    for curve in record.curves:
        if curve.certified is None or curve.r != first.r or curve.p not in (1.0, math.inf):
            continue
        pointwise = math.isinf(curve.p)
        axis.plot(
            curve.radii, [100 * value for value in curve.certified], color=_COLOURS[curve.p], linestyle=(0, (4, 2)),
            linewidth=1.4, label="radius of every image" if pointwise else "mean radius over the images",
            drawstyle="steps-post" if pointwise else "default",
        )  # fmt: skip
        axis.set_xlim(0, min(curve.radii[-1], 1.15 * record.settings["smoothing"]["histogram"]["edges"][-1]))
    axis.axhline(100 * first.clean, color="0.35", linestyle=":", linewidth=1, label=f"clean {100 * first.clean:.1f}")
    axis.set(ylim=(0, 100), xlabel="radius (share of light x steps)", ylabel="certified accuracy (%)")
    axis.legend(fontsize=7.5)
    axis.locator_params(axis="x", nbins=5)
