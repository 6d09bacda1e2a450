"""The report page: one self-contained HTML file with the bracket in words, figure, table and settings."""

from __future__ import annotations

import html
import io
import json
import re
from pathlib import Path

import matplotlib as mpl

from wassertight.records import Record, Result
from wassertight.report.plots import _STYLE, bracket_figure
from wassertight.report.tables import claim_caption, claim_title, html_claim, html_table, html_widths, percent

_CSS = """
:root{color-scheme:light dark;--ink:#1c1e21;--soft:#5b6068;--line:#d9dce1;--back:#fff;--card:#f6f7f9;--accent:#0072b2}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a4aab3;--line:#3a3f47;--back:#16181b;--card:#1f2226;--accent:#6bb8ea}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:64rem;margin:0 auto;padding:2rem 1.2rem 4rem}h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2rem 0 .6rem}
.sub{color:var(--soft);margin:0 0 1.4rem}.lead{font-size:1.12rem;border-left:4px solid var(--accent);padding:.4rem 0 .4rem 1rem;margin:1.2rem 0}
figure{margin:1rem 0;background:#fff;border:1px solid var(--line);border-radius:8px;padding:.8rem}figure svg{width:100%;height:auto;display:block}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.45rem .7rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}th:first-child{text-align:left}
thead th{color:var(--soft);font-weight:600;font-size:.86rem}tbody th{font-weight:500}
.ok,.bad{display:inline-block;border-radius:6px;padding:.15rem .6rem;font-size:.9rem}.ok{background:#d9f0e3;color:#0b4a2b}.bad{background:#fbdcdc;color:#7a1212}
details{background:var(--card);border-radius:8px;padding:.6rem 1rem;margin:.6rem 0}summary{cursor:pointer;font-weight:600}
pre{overflow-x:auto;font-size:.82rem}dt{font-weight:600}dd{margin:0 0 .6rem 0;color:var(--soft)}li{margin:.2rem 0}
@media print{details{break-inside:avoid}main{max-width:none}}
"""


def write_page(record: Record, path: str | Path) -> Path:
    """Write the page: no network access, no script, everything from the record escaped; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"{record.model} on {record.data}: worst case under Wasserstein shift"
    body = "".join((
        f"<h1>{html.escape(record.model)}</h1>",
        f"<p class='sub'>{html.escape(record.data)}, first {record.n:,} samples, seed {record.seed}</p>",
        "".join(f"<p class='lead'>{html.escape(_sentence(result))}</p>" for result in record.results[:1]),
        _audit(record),
        f"<figure>{_svg(record)}<figcaption class='sub'>{html.escape(_CAPTION)}</figcaption></figure>",
        f"<h2>Brackets</h2><div class='scroll'>{html_table(record)}</div>",
        _widths(record), _claim(record), _flags(record), _reading(record), _folds(record),
    ))  # fmt: skip
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    path.write_text(
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta http-equiv='Content-Security-Policy' content=\"{policy}\">"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_CSS}</style></head><body><main>{body}</main></body></html>",
        encoding="utf-8",
    )
    return path


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


def _audit(record: Record) -> str:
    if record.audit.ok:
        return "<p><span class='ok'>audit passed</span></p>"
    items = "".join(f"<li>{html.escape(detail)}</li>" for detail in record.audit.details)
    return f"<p><span class='bad'>audit failed: {record.audit.violations} violations</span></p><ul>{items}</ul>"


def _widths(record: Record) -> str:
    table = html_widths(record)
    if not table:
        return ""
    return (
        f"<h2>Width of the bracket over all radii</h2><div class='scroll'>{table}</div><p class='sub'>Gaps in points of "
        "accuracy. Tightness: mean proved radius over mean attack distance; 1 is a closed bracket.</p>"
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
    return f"<h2>Health flags</h2><dl>{items}</dl>"


def _reading(record: Record) -> str:
    return _about_images(record) + (
        "<h2>How to read a bracket</h2><p>The adversary may move the whole test distribution, labels fixed, by at most "
        "the radius in the Wasserstein distance W<sub>p</sub>: it may move some images far and others not at all, as "
        "long as the p-th power mean of the distances stays within the radius. Every law in that ball leaves at least "
        "the certified accuracy; one law in it, stored with this run, leaves the attacked accuracy. For p = inf each "
        "image has the radius to itself, which is the usual robust accuracy.</p>"
    )


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
        "settings": record.settings, "methods": record.methods, "versions": record.versions, "device": record.device,
        "passes": record.passes.model_dump(), "seconds": record.seconds.model_dump(),
        "distances": {key: value.model_dump(mode="json") for key, value in record.distances_by_norm.items()},
    }  # fmt: skip
    dump = html.escape(json.dumps(settings, indent=2, default=str))
    items = "".join(f"<li>{html.escape(text)}</li>" for text in record.assumptions) or "<li>none: no certificate</li>"
    return (
        f"<details open><summary>What this rests on</summary><ul>{items}</ul></details>"
        f"<details><summary>Settings, versions, passes</summary><pre>{dump}</pre></details>"
    )
