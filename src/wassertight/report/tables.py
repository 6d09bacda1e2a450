"""The tables of a run, for the terminal and for the page: brackets, their width, and what is claimed beyond."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from rich.table import Table

from wassertight.records import Claim, Record, Result

COLUMNS = ("threat", "clean", "certified", "attacked", "gap", "passes / sample", "seconds")
WIDTHS = ("over all radii", "widest gap", "at radius", "mean gap", "closed from radius", "tightness")
_WIDTH = 86
FREEDOMS = (
    "threat", "side", "nominal", "weights", "moves", "both", "budget: D + moves", "lam", "eff. samples",
)  # fmt: skip
CLAIMS = ("threat", "certified", "attacked", "gap")


def results_table(record: Record) -> Table:
    """One row a threat; accuracies in percent, a dash where a side was not run."""
    rows = [_cells(record, result) for result in record.results]
    state = "[green]audit passed[/]" if record.audit.ok else f"[bold red]audit: {record.audit.violations} violations[/]"
    title = f"{record.model} on {record.data}, n = {record.n}"
    return _table(title, COLUMNS, rows, f"certified <= worst case <= attacked; accuracies in percent; {state}")


def brackets_table(record: Record) -> Table | None:
    """One row for each order asked for: how far both sides are apart; None where a side was not run."""
    rows = _width_rows(record)
    caption = (
        "gaps in points; tightness: mean proved radius over mean attack distance, the same for all orders of a norm"
    )
    return _table("Width of the bracket", WIDTHS, rows, caption) if rows else None


def freedoms_table(record: Record) -> Table | None:
    """For re-weighting threats, both sides with either freedom alone and with both; None where there are none."""
    rows = _freedom_rows(record)
    caption = "worst-case accuracies in percent at the same budget; budget, lam and samples are those of the law found"
    return _table("What re-weighting adds", FREEDOMS, rows, caption) if rows else None


def heaviest_lines(record: Record) -> list[str]:
    """For re-weighting threats, the samples the worst law leans on, one line a threat."""
    lines = []
    for result in record.results:
        part = result.reweighting
        if part is not None and part.heaviest:
            heavy = ", ".join(
                f"{one.sample} (label {one.label}, w {one.weight:.2f}, moved {one.moved:.3g})" for one in part.heaviest
            )
            lines.append(f"{result.threat}: {heavy}")
    return lines


def html_freedoms(record: Record) -> str:
    """The same as HTML; empty where there are none."""
    rows = _freedom_rows(record)
    return _html(FREEDOMS, rows) if rows else ""


def _freedom_rows(record: Record) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for result in record.results:
        part = result.reweighting
        if part is None:
            continue
        spent = "-"
        if part.spent_divergence is not None and part.spent_transport is not None:
            spent = f"{part.spent_divergence:.3g} + {part.spent_transport:.3g}"
        effective = "-" if part.effective is None else f"{part.effective:.1f}"
        lam = "-" if part.lam is None else f"{part.lam:.3g}"
        for side, found in (("attacked", part.attacked), ("certified", part.certified)):
            if found is not None:
                values = (found.nominal, found.reweighting, found.transport, found.joint)
                budget = (spent, lam, effective) if side == "attacked" else ("", "", "")
                rows.append((result.threat, side, *(percent(value) for value in values), *budget))
    return rows


def claim_table(record: Record) -> Table | None:
    """The brackets under the conditions of the claim; None where nothing was claimed."""
    if record.claim is None:
        return None
    return _table(claim_title(record.claim), CLAIMS, _claim_rows(record.claim), claim_caption(record.claim))


def claim_title(claim: Claim) -> str:
    """What the claim's brackets are about."""
    law = "Around the true law" if claim.population else "Around the samples' law"
    return law + ("" if math.isinf(claim.label_cost) else f", labels may move at a cost of {claim.label_cost:g}")


def claim_caption(claim: Claim) -> str:
    """How sure the claim is, and what that costs."""
    if not claim.population:
        return "accuracies in percent"
    return (
        f"accuracies in percent; with confidence {100 * claim.confidence:g} % over the draw of the samples, which costs "
        f"{100 * claim.margin:.1f} points a side"
    )


def html_table(record: Record) -> str:
    """The table of results as HTML, everything escaped."""
    return _html(COLUMNS, [_cells(record, result) for result in record.results])


def html_widths(record: Record) -> str:
    """The table of widths as HTML; empty where a side was not run."""
    rows = _width_rows(record)
    return _html(WIDTHS, rows) if rows else ""


def html_claim(claim: Claim) -> str:
    """The claim's brackets as HTML."""
    return _html(CLAIMS, _claim_rows(claim))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Table:
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", min_width=_WIDTH)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _html(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><th scope='row'>{html.escape(first)}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _width_rows(record: Record) -> list[tuple[str, ...]]:
    asked = {(result.r, result.p) for result in record.results if result.reweighting is None}
    rows: list[tuple[str, ...]] = []
    for bracket in record.brackets:
        if (bracket.r, bracket.p) not in asked:
            continue
        norm = "Linf" if math.isinf(bracket.r) else f"L{bracket.r:g}"
        name = f"{norm} (pointwise)" if math.isinf(bracket.p) else f"W{bracket.p:g}-{norm}"
        closes = "never" if math.isinf(bracket.closes_at) else f"{bracket.closes_at:.3g}"
        tight = "-" if bracket.tightness is None else f"{bracket.tightness:.2f}"
        rows.append(
            (name, percent(bracket.widest), f"{bracket.widest_at:.3g}", percent(bracket.mean_width), closes, tight)
        )
    return rows


def _claim_rows(claim: Claim) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for result in claim.results:
        low, high = result.certified, result.attacked
        gap = None if low is None or high is None else high - low
        rows.append((result.threat, percent(low), percent(high), percent(gap)))
    return rows


def percent(value: float | None) -> str:
    """An accuracy in percent with one decimal; a dash for None.

    >>> percent(0.125), percent(None)
    ('12.5', '-')
    """
    return "-" if value is None else f"{100 * value:.1f}"


def _cells(record: Record, result: Result) -> tuple[str, ...]:
    gap = None if result.attacked is None or result.certified is None else result.attacked - result.certified
    known = [value for value in (result.seconds.attack, result.seconds.certificate) if value is not None]
    passes = (result.passes.forward + result.passes.backward) / max(1, record.n)
    return (
        result.threat, percent(result.clean), percent(result.certified), percent(result.attacked), percent(gap),
        f"{passes:,.0f}", f"{sum(known):.1f}" if known else "-",
    )  # fmt: skip
