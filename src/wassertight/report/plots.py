"""The bracket figure: certified and attacked accuracy against the radius, one panel a Wasserstein order."""

from __future__ import annotations

import bisect
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from wassertight.records import Curve, Record, Result

# Okabe-Ito colours, distinguishable with any colour vision; line styles tell the sides apart without colour.
_COLOURS = {1.0: "#0072B2", 2.0: "#D55E00", math.inf: "#009E73"}
_FAMILY = "#7A3E9D"
_OTHERS = ("#CC79A7", "#E69F00", "#56B4E9")
_SOFT = "0.35"
_SEEN = 0.9
"""Share of the radii among which the widest place is marked: further right there is no room for its label."""
_STYLE: Any = {
    "font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42, "svg.fonttype": "path",
    "axes.titlesize": 9.5, "legend.frameon": False, "figure.dpi": 110, "svg.hashsalt": "wassertight",
}  # fmt: skip
_MEAN = {1.0: "mean {norm} distance", 2.0: "root mean square {norm} distance", math.inf: "largest {norm} distance"}


def bracket_figure(record: Record) -> Figure:
    """Accuracy against radius: the worst case lies in the shaded band of each panel.

    One row a ground norm, one panel an order asked for. Solid lines are attacked (upper), dashed lines certified
    (lower), dotted is clean accuracy; circles mark the radii asked for, an arrow the widest
    place of the band (short of the right edge).
    """
    rows = _panels(record)
    columns = max(1, *(len(row) for row in rows)) if rows else 1
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(0.9 + 3.5 * max(columns, 1.5), 0.9 + 2.9 * max(1, len(rows))), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(max(1, len(rows)), columns, sharey=True, squeeze=False)
        for line, (axes, row) in enumerate(zip(grid, rows, strict=False)):
            for index, axis in enumerate(axes):
                if index < len(row):
                    _panel(axis, record, row[index])
                else:
                    axis.set_visible(False)
            axes[0].set_ylabel("accuracy (%)")
            if line == 0:
                _name_lines(axes[0], row[0])
        figure.legend(handles=_legend(record), fontsize=8, handlelength=2.4, loc="outside lower center", ncols=5)
        title = f"{record.model} on {record.data}, n = {record.n:,}"
        figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
    return figure


def save_figure(record: Record, stem: str | Path) -> list[Path]:
    """Write the bracket figure as stem.pdf, stem.svg and stem.png (300 dpi); returns the paths."""
    return write_figure(bracket_figure(record), stem)


def write_figure(figure: Figure, stem: str | Path) -> list[Path]:
    """Write a figure as stem.pdf, stem.svg and stem.png (300 dpi); returns the paths."""
    paths = []
    with mpl.rc_context(_STYLE):
        for suffix in ("pdf", "svg", "png"):
            path = Path(f"{stem}.{suffix}")
            path.parent.mkdir(parents=True, exist_ok=True)
            stamp = {"Date": None} if suffix == "svg" else ({"CreationDate": None} if suffix == "pdf" else None)
            figure.savefig(path, dpi=300, metadata=stamp)
            paths.append(path)
    return paths


def ground_name(record: Record, r: float) -> str:
    """Name of the distance behind a curve: that of a norm, or, for light moving inside images, as in the threat."""
    for result in record.results:
        if "image-" in result.threat:
            return result.threat[result.threat.index("image-") :].split("@")[0]
    return "Linf" if math.isinf(r) else f"L{r:g}"


def _panels(record: Record) -> list[list[Curve]]:
    """Curves by ground norm, the orders asked for only (all of them where none of a norm's was)."""
    rows = []
    for r in dict.fromkeys(curve.r for curve in record.curves):
        curves = sorted((curve for curve in record.curves if curve.r == r), key=lambda curve: curve.p)
        asked = {result.p for result in record.results if result.r == r and result.reweighting is None}
        rows.append([curve for curve in curves if curve.family or curve.p in asked] or curves)
    return rows


def _panel(axis: Axes, record: Record, curve: Curve) -> None:
    results = _asked(record, curve)
    norm = ground_name(record, curve.r)
    orders = sorted({other.p for other in record.curves} - set(_COLOURS))
    colour = (_FAMILY if curve.family else _COLOURS.get(curve.p)) or _OTHERS[orders.index(curve.p) % len(_OTHERS)]
    clean, top = 100 * record.results[0].clean, curve.radii[-1]
    axis.axhline(clean, color=_SOFT, linestyle=":", linewidth=1, zorder=1)
    _band(axis, curve, colour)
    for result in results:
        if result.p != curve.p and not curve.family:
            continue
        for value, face in ((result.attacked, colour), (result.certified, "white")):
            if value is not None:
                axis.plot(result.radius, 100 * value, "o", color=colour, markerfacecolor=face, markersize=4.2, zorder=4)
    axis.set(xlim=(0, top), ylim=(0, 100))
    axis.set_title(curve.family or _panel_title(norm, curve.p), loc="left", color=colour, fontweight="bold")
    axis.annotate(
        f"clean {clean:.1f}", (1, clean), (0, 2 if clean < 92 else -2), xycoords=("axes fraction", "data"), ha="right",
        textcoords="offset points", va="bottom" if clean < 92 else "top", fontsize=7.5, color=_SOFT,
    )  # fmt: skip
    _say_tightness(axis, record, curve)
    _radius_ticks(axis, [result.radius for result in results], top)
    mean = _MEAN.get(curve.p, f"order-{curve.p:g} mean of the {{norm}} distance").format(norm=norm)
    box = record.settings.get("bounds")
    unit = f"inputs in [{box[0]:g}, {box[1]:g}]" if isinstance(box, list) and len(box) == 2 else "in input units"
    moved = " moved"
    if norm.startswith("image"):
        unit, moved = "in shares of an image's light x grid steps", ""
    label = "budget of re-weighting" + (" (moves free)" if math.isinf(curve.p) else " and moves")
    axis.set_xlabel(label if curve.family else f"radius: {mean}{moved}\n({unit})", fontsize=8.5)
    axis.grid(axis="y", color="0.92", linewidth=0.7)
    axis.set_axisbelow(True)


def _asked(record: Record, curve: Curve) -> list[Result]:
    """The results whose radii lie on a panel's axis."""
    same = [result for result in record.results if result.r == curve.r]
    if curve.family is None:
        return [result for result in same if result.reweighting is None]
    return [result for result in same if result.reweighting is not None and result.reweighting.family == curve.family]


def _panel_title(norm: str, p: float) -> str:
    """What shares the budget: a mean over the samples, or nothing; light that moves has a distance but no norm."""
    if not norm.startswith("image"):
        return f"{norm}, pointwise (p = inf)" if math.isinf(p) else f"W{p:g} with {norm} ground norm"
    if math.isinf(p):
        return f"{norm} of every image"
    return f"mean {norm} over the images" if p == 1 else f"order-{p:g} mean of {norm} over the images"


def _band(axis: Axes, curve: Curve, colour: str) -> None:
    """Both lines, the band between them and, where there is enough of it to be seen, its width at the widest place."""
    high = None if curve.attacked is None else [100 * v for v in curve.attacked]
    low = None if curve.certified is None else [100 * v for v in curve.certified]
    jumps: Any = {"drawstyle": "steps-post"} if math.isinf(curve.p) and not curve.family else {}
    if high is not None:
        axis.plot(curve.radii, high, color=colour, linewidth=1.6, zorder=3, **jumps)
    if low is not None:
        axis.plot(curve.radii, low, color=colour, linewidth=1.4, linestyle=(0, (4, 2)), zorder=3, **jumps)
    if high is None or low is None:
        return
    step: Any = "post" if jumps else None
    axis.fill_between(curve.radii, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2, step=step)
    seen = range(bisect.bisect_right(curve.radii, _SEEN * curve.radii[-1]))
    at = max(seen, key=lambda index: high[index] - low[index])
    if high[at] - low[at] < 5:
        return
    arrow = {"arrowstyle": "<->", "color": "0.2", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", (curve.radii[at], low[at]), (curve.radii[at], high[at]), arrowprops=arrow, zorder=5)
    above = high[at] < high[0] - 15
    place = high[at] if above else low[at]
    if not above and low[at] < 10:
        above, place = True, (low[at] + high[at]) / 2
    _say(axis, f"{high[at] - low[at]:.0f} pts", (curve.radii[at], place), above=above)


def _name_lines(axis: Axes, curve: Curve) -> None:
    """Write each side's name at its line, away from the band, where there is room."""
    at = bisect.bisect_left(curve.radii, 0.4 * curve.radii[-1])
    for name, line in (("attacked", curve.attacked), ("certified", curve.certified)):
        above = name == "attacked"
        if line is not None and (line[at] < 0.9 if above else line[at] > 0.15):
            _say(axis, name, (curve.radii[at], 100 * line[at]), above=above)


def _say(axis: Axes, text: str, place: tuple[float, float], *, above: bool) -> None:
    """A short text right above or left below a point of a falling line."""
    axis.annotate(
        text, place, (3, 2) if above else (-3, -2), textcoords="offset points", fontsize=7.5, color="0.2", zorder=6,
        ha="left" if above else "right", va="bottom" if above else "top",
    )  # fmt: skip


def _say_tightness(axis: Axes, record: Record, curve: Curve) -> None:
    """The tightness in the corner that the curves leave free."""
    known = [] if curve.family else record.brackets
    found = [one for one in known if (one.p, one.r) == (curve.p, curve.r) and one.tightness is not None]
    lines = [line for line in (curve.attacked, curve.certified) if line is not None]
    if not found or not lines:
        return
    end = bisect.bisect_left(curve.radii, 0.62 * curve.radii[-1])
    above = max(lines[0][end:]) < 0.8
    axis.text(
        0.985 if above else 0.025, 0.86 if above else 0.04, f"tightness {found[0].tightness:.2f}",
        transform=axis.transAxes, fontsize=7.5, color=_SOFT, ha="right" if above else "left", va="top" if above else "bottom",
    )  # fmt: skip


def _legend(record: Record) -> list[Any]:
    """What line styles mean, in grey: the colour names the order, which the panel's title says."""
    attacked = any(curve.attacked is not None for curve in record.curves)
    certified = any(curve.certified is not None for curve in record.curves)
    handles: list[Any] = []
    if attacked:
        text = "attacked: reached by an adversary" + ("" if certified else ", the worst case is no higher")
        handles.append(Line2D([], [], color="0.2", linewidth=1.6, label=text))
    if attacked and certified:
        handles.append(Patch(facecolor="0.2", alpha=0.16, label="worst case lies here"))
    if certified:
        text = "certified: proved" + ("" if attacked else ", the worst case is no lower")
        handles.append(Line2D([], [], color="0.2", linewidth=1.4, linestyle=(0, (4, 2)), label=text))
    if any(result.radius for result in record.results):
        face = "0.2" if attacked else "white"
        dot: Any = {"marker": "o", "linestyle": "", "markersize": 4.2, "markerfacecolor": face}
        handles.append(Line2D([], [], color="0.2", label="radii asked for", **dot))
    return handles


def _radius_ticks(axis: Axes, radii: list[float], top: float) -> None:
    """Ticks in 255ths where the radii asked for are multiples of 1/255."""
    whole = radii and all(abs(255 * radius - round(255 * radius)) < 1e-6 for radius in radii) and top < 0.5
    if whole:
        step = max(1, math.ceil(255 * top / 5))
        ticks = list(range(0, math.floor(255 * top) + 1, step))
        axis.set_xticks([tick / 255 for tick in ticks], [f"{tick}/255" if tick else "0" for tick in ticks])
    else:
        axis.locator_params(axis="x", nbins=5)
