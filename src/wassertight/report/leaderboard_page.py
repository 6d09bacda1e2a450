"""The leaderboard as files: a static page that sorts and filters, its rows as JSON, and the runs' own pages."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from wassertight.errors import DataError
from wassertight.report.leaderboard import Leaderboard, LeaderboardRow, gather, page_name
from wassertight.report.tables import percent

_REPORT = files("wassertight.report")
_TEXT, _PLACE, _NUMBER, _BEST = "text", "place", "number", "number best"
COLUMNS = (
    ("rank", "#", _NUMBER, "Place among the rows on the same samples under the same threat, the best proved value first"),
    ("model", "model", _TEXT, "Name of the model; below it the run, which leads to its own page"),
    ("data", "data", _TEXT, ""),
    ("n", "n", _NUMBER, "Samples"),
    ("threat", "threat", _PLACE, "What the adversary may do, and how far"),
    ("clean", "clean", _BEST, "Accuracy without an adversary, in percent"),
    ("certified", "certified", _BEST, "Proved: the worst case is not below; in percent"),
    ("attacked", "attacked", _BEST, "Reached by an attack: the worst case is not above; in percent"),
    ("width", "width", _NUMBER, "Attacked less certified, in points"),
    ("attack", "attack", _TEXT, "Method of the attacked value"),
    ("certificate", "certificate", _TEXT, "Method of the certified value"),
    ("passes", "passes", _NUMBER, "Forward and backward passes a sample"),
    ("seed", "seed", _NUMBER, ""),
    ("audit", "audit", _TEXT, "Whether everything the run returned was found right when measured again"),
    ("flags", "flags", _TEXT, "What looked odd"),
    ("date", "date", _TEXT, "When the record was written (UTC)"),
    ("version", "version", _TEXT, "Version of wassertight"),
)  # fmt: skip
"""Key, heading, how it sorts ("best": the largest first) and what it says."""


def write_leaderboard(
    sources: Sequence[str | Path], directory: str | Path, *, title: str = "Wassertight leaderboard"
) -> Path:
    """Write `index.html`, `leaderboard.json` and `reports/` from runs and earlier leaderboards; returns the page's path.

    The page needs no network and no server: a plain table without scripts, sorted and filtered with them. Everything
    from the records is escaped; the runs' pages are copied as they are, so take runs from people you trust.

    Args:
        sources: as for `read_leaderboard`.
        directory: where to write; made where it is missing.
        title: heading of the page.

    Raises:
        DataError: nothing there, something unreadable, or a folder that cannot be written.
    """
    directory = Path(directory)
    rows = []
    try:
        for row, page in gather(sources):
            rows.append(row.model_copy(update={"report": _copied(row, page, directory)}))
        board = Leaderboard(rows=rows)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "leaderboard.json").write_text(board.to_json(), encoding="utf-8")
        (directory / "index.html").write_text(render(board, title), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write the leaderboard {directory}: {error}") from error
    return directory / "index.html"


def _copied(row: LeaderboardRow, page: Path | None, directory: Path) -> str | None:
    """The run's page beside the leaderboard; one that is there already is left alone."""
    if page is None:
        return None
    content = page.read_bytes()
    name = row.report or page_name(row, content)
    target = directory / name
    if not target.is_file() or target.read_bytes() != content:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return name


def render(board: Leaderboard, title: str) -> str:
    """The page as text."""
    script = "(() => {\n'use strict';\n" + _read("board", "page.js") + "\n})();"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    places = {place: index for index, place in enumerate(sorted({row.place for row in board.rows}))}
    before = [None, *(row.contest for row in board.rows)]
    body = "".join(
        _line(row, rank, places[row.place], first=row.contest != other)
        for row, rank, other in zip(board.rows, board.ranks, before, strict=False)
    )
    failed = sum(not row.audited for row in board.rows)
    return Template(_read("board", "page.html")).substitute(
        script_hash=f"sha256-{digest}",
        script=script,
        style=_read("live", "page.css") + _read("board", "page.css"),
        title=html.escape(title),
        summary=html.escape(_summary(board)),
        audit=f"<span class='bad'>{failed} rows failed their audit</span>" if failed else "<span class='ok'>all audited</span>",
        head="".join(_heading(*column) for column in COLUMNS),
        body=body,
    )  # fmt: skip


def _read(folder: str, name: str) -> str:
    return (_REPORT / folder / name).read_text(encoding="utf-8")


def _summary(board: Leaderboard) -> str:
    models = len({(row.model, row.model_sha256) for row in board.rows})
    threats = len({row.place for row in board.rows})
    return ", ".join(
        f"{count} {word}{'' if count == 1 else 's'}"
        for count, word in ((models, "model"), (threats, "threat"), (len(board.rows), "row"))
    )


def _heading(key: str, name: str, kind: str, about: str) -> str:
    title = f" title='{html.escape(about, quote=True)}'" if about else ""
    return f"<th scope='col' data-key='{key}' data-kind='{kind}'{title}>{html.escape(name)}</th>"


def _line(row: LeaderboardRow, rank: int | None, place: int, *, first: bool) -> str:
    passes = (row.passes.forward + row.passes.backward) / row.n
    cells = {
        "rank": _number(rank, "" if rank is None else str(rank)),
        "model": _named(row),
        "data": _titled(Path(row.data).name, row.data),
        "n": _number(row.n, f"{row.n:,}"),
        "threat": _number(place, html.escape(row.threat)),
        **{side: _number(getattr(row, side), percent(getattr(row, side))) for side in ("clean", "certified", "attacked")},
        "width": _number(row.width, f"{_bar(row)}<span>{percent(row.width)}</span>"),
        "attack": _method(row.attack, row.attack_settings, row.preset),
        "certificate": _method(row.certificate, row.certificate_settings, None),
        "passes": _number(passes, f"{passes:,.0f}"),
        "seed": _number(row.seed, str(row.seed)),
        "audit": "<td><span class='ok'>passed</span></td>" if row.audited
                 else f"<td><span class='bad'>failed: {row.violations}</span></td>",
        "flags": _flags(row),
        "date": _titled((row.date or "-")[:10], row.date or ""),
        "version": f"<td>{html.escape(row.version or '-')}</td>",
    }  # fmt: skip
    kind = "failed" if not row.audited else "first" if first else ""
    return f"<tr class='{kind}'>{''.join(cells[key] for key, *_ in COLUMNS)}</tr>\n"


def _number(value: float | None, shown: str) -> str:
    """A cell that sorts by a number; without one it sorts last."""
    return "<td class='number'>-</td>" if value is None else f"<td class='number' data-value='{value!r}'>{shown}</td>"


def _titled(text: str, title: str) -> str:
    return f"<td title='{html.escape(title, quote=True)}'>{html.escape(text)}</td>"


def _named(row: LeaderboardRow) -> str:
    run = html.escape(row.run)
    if row.report:
        run = f"<a href='{html.escape(row.report, quote=True)}'>{run or 'report'}</a>"
    title = html.escape(f"{row.model} {row.model_sha256 or ''}".strip(), quote=True)
    return f"<th scope='row'><span title='{title}'>{html.escape(row.model.rpartition('#')[2])}</span><small>{run}</small></th>"


def _method(name: str | None, settings: Mapping[str, Any], preset: str | None) -> str:
    if name is None:
        return "<td>-</td>"
    title = ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    return _titled(f"{name} ({preset})" if preset else name, title)


def _flags(row: LeaderboardRow) -> str:
    shown = ", ".join(
        f"<span title='{html.escape(f'{flag.message}. Remedy: {flag.remedy}', quote=True)}'>{html.escape(flag.name)}</span>"
        for flag in row.flags
    )
    return f"<td>{shown or '-'}</td>"


def _bar(row: LeaderboardRow) -> str:
    """The bracket drawn: proved, open, and a mark at the clean accuracy."""
    low, high = 100 * (row.certified or 0.0), 100 * (row.attacked or 0.0)
    return f"<i class='bar' style='--low:{low:.2f}%;--high:{high:.2f}%;--clean:{100 * row.clean:.2f}%'></i>"
