"""The report page: one self-contained HTML file whose bracket moves with order, radius and norm, and the run's tables."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import matplotlib as mpl

from wassertight.records import Record, Result
from wassertight.report.embedding import as_json, embed
from wassertight.report.plots import _STYLE, bracket_figure
from wassertight.report.tables import (
    claim_caption,
    claim_title,
    heaviest_lines,
    html_claim,
    html_freedoms,
    html_table,
    html_widths,
    percent,
)

_LIVE = files("wassertight.report") / "live"
_SCRIPTS = ("knapsack.js", "chart.js", "samples.js", "page.js", "controls.js")


def write_page(record: Record, path: str | Path, arrays: Mapping[str, Any] | None = None) -> Path:
    """Write the page: one file, no network access, everything from the record escaped; returns its path.

    Args:
        record: the run.
        path: where to write.
        arrays: per-sample arrays of the run; with them the bracket is recomputed in the page at any order and radius.
            Without them, the page shows what the record holds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = embed(record, arrays)
    script = "(() => {\n'use strict';\n" + "\n".join(_read(name) for name in _SCRIPTS) + "\n})();"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    content = Template(_read("page.html")).substitute(
        script_hash=f"sha256-{digest}",
        script=script,
        style=_read("page.css"),
        title=html.escape(f"{record.model} on {record.data}: worst case under Wasserstein shift"),
        model=html.escape(record.model.rpartition("#")[2]),
        subtitle=html.escape(f"{record.data}, first {record.n:,} samples, seed {record.seed}"),
        audit=_audit(record),
        details=_violations(record),
        note=_note(record, data is not None),
        static=_static(record, data is not None),
        results=html_table(record),
        resultsnote=html.escape(_RESULTS),
        sections="".join((_about_images(record), _widths(record), _freedoms(record), _claim(record), _flags(record))),
        folds=_folds(record),
        data=as_json(data),
    )
    path.write_text(content, encoding="utf-8")
    return path


def _read(name: str) -> str:
    return (_LIVE / name).read_text(encoding="utf-8")


_RESULTS = (
    "Accuracies in percent, as the run measured and audited them: the attacked side by fresh passes over the stored law. "
    "The live numbers come from the same distances, spent as well as possible."
)
_CAPTION = (
    "Solid: accuracy an attack reaches (upper bound on the worst case). Dashed: accuracy that is proved (lower bound). "
    "The worst case lies in the shaded band. Circles: the radii asked for. Arrow: width of the band. Dotted: "
    "clean accuracy."
)


def _sentence(result: Result) -> str:
    threat = f"Under {result.threat}"
    if result.certified is None:
        return f"{threat} the worst-case accuracy is at most {percent(result.attacked)} % (reached by an attack)."
    if result.attacked is None:
        return f"{threat} the accuracy is at least {percent(result.certified)} % (proved)."
    return (
        f"{threat} the worst-case accuracy lies between {percent(result.certified)} % (proved) and "
        f"{percent(result.attacked)} % (reached by an attack); clean accuracy is {percent(result.clean)} %."
    )


def _svg(record: Record) -> str:
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        bracket_figure(record).savefig(buffer, format="svg", metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    label = html.escape(f"Certified and attacked accuracy against the radius for {record.model}", quote=True)
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _note(record: Record, live: bool) -> str:
    """What the sliders do not show, and why."""
    others = [result.threat for result in record.results if result.reweighting is not None]
    texts = []
    if not live:
        texts.append("This page stands still: it was written without the per-sample distances of the run.")
    elif others:
        texts.append(
            f"The sliders above move samples only. Threats that also re-weight them ({', '.join(others)}) are no plain "
            "knapsack and are not recomputed in the page: see the curves below and the tables."
        )
    return "".join(f"<p class='remark'>{html.escape(text)}</p>" for text in texts)


def _static(record: Record, live: bool) -> str:
    """The drawn curves: where the live ones do not say everything, and for readers without scripts."""
    leads = "".join(f"<p class='lead'>{html.escape(_sentence(result))}</p>" for result in record.results[:1])
    figure = f"<figure class='static'>{_svg(record)}<figcaption>{html.escape(_CAPTION)}</figcaption></figure>"
    if not live:
        return leads + figure
    shown = any(result.reweighting is not None for result in record.results)
    return figure if shown else f"<noscript>{leads}{figure}</noscript>"


def _audit(record: Record) -> str:
    if record.audit.ok:
        return "<span class='ok'>audit passed</span>"
    return f"<span class='bad'>audit failed: {record.audit.violations} violations</span>"


def _violations(record: Record) -> str:
    items = "".join(f"<li>{html.escape(detail)}</li>" for detail in record.audit.details)
    return f"<ul>{items}</ul>" if items else ""


def _widths(record: Record) -> str:
    table = html_widths(record)
    if not table:
        return ""
    return (
        f"<h2>Width of the bracket over all radii</h2><div class='scroll'>{table}</div><p class='sub'>Gaps in points of "
        "accuracy. Tightness: mean proved radius over mean attack distance; 1 is a closed bracket.</p>"
    )


def _freedoms(record: Record) -> str:
    table = html_freedoms(record)
    if not table:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in heaviest_lines(record))
    return (
        f"<h2>What re-weighting adds</h2><div class='scroll'>{table}</div><p class='sub'>Worst-case accuracies in percent at "
        "the same budget: nothing changes, weights only, moves only, both. Budget: what the law found spends on weights and "
        f"on moves.</p><p>The samples it leans on (w: its mass over the sample's own):</p><ul>{items}</ul>"
    )


def _claim(record: Record) -> str:
    if record.claim is None:
        return ""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in record.claim.assumptions)
    return (
        f"<h2>{html.escape(claim_title(record.claim))}</h2><div class='scroll'>{html_claim(record.claim)}</div>"
        f"<p class='sub'>{html.escape(claim_caption(record.claim))}</p><p>This rests on:</p><ul>{items}</ul>"
    )


def _flags(record: Record) -> str:
    if not record.flags:
        return ""
    items = "".join(
        f"<dt>{html.escape(flag.name)}: {html.escape(flag.message)}</dt><dd>{html.escape(flag.remedy)}</dd>"
        for flag in record.flags
    )
    return f"<h2>Health flags</h2><dl class='flags'>{items}</dl>"


def _about_images(record: Record) -> str:
    """What a distance and a classifier are, where light moves."""
    if not any("image-" in result.threat for result in record.results):
        return ""
    text = (
        "Moving light: an image is a pile of light on the pixel grid, and the distance between two images is the light "
        "that has to move, as a share of the image's light, times the grid steps it moves."
    )
    if "smoothing" in record.settings:
        text += (
            " What is bracketed is the smoothed classifier: the most frequent answer on noisy copies of an image. An "
            "abstention on the unmoved image counts as an error."
        )
    if "noisy_votes" in record.settings:
        text += " What is bounded is the share of right answers when every image is answered once, under fresh noise."
    return f"<h2>What moves</h2><p>{html.escape(text)}</p>"


def _folds(record: Record) -> str:
    settings = {
        "seed": record.seed, "settings": record.settings, "methods": record.methods, "versions": record.versions, "device": record.device,
        "passes": record.passes.model_dump(), "seconds": record.seconds.model_dump(),
        "distances": {key: value.model_dump(mode="json") for key, value in record.distances_by_norm.items()},
        "audit": record.audit.model_dump(),
    }  # fmt: skip
    dump = html.escape(json.dumps(settings, indent=2, default=str))
    items = "".join(f"<li>{html.escape(text)}</li>" for text in record.assumptions) or "<li>none: no certificate</li>"
    return (
        f"<details open><summary>What this rests on</summary><ul>{items}</ul></details>"
        f"<details><summary>Settings, versions, passes</summary><pre>{dump}</pre></details>"
    )
