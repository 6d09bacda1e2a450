"""The table of brackets, for the terminal and for the page."""

from __future__ import annotations

import html

from rich.table import Table

from wassertight.records import Record, Result

COLUMNS = ("threat", "clean", "certified", "attacked", "gap", "passes / sample", "seconds")


def results_table(record: Record) -> Table:
    """One row a threat; accuracies in percent, a dash where a side was not run."""
    table = Table(title=f"{record.model} on {record.data}, n = {record.n}", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "threat" else "right")
    for result in record.results:
        table.add_row(*_cells(record, result))
    state = "[green]audit passed[/]" if record.audit.ok else f"[bold red]audit: {record.audit.violations} violations[/]"
    table.caption = f"certified <= worst case <= attacked; accuracies in percent; {state}"
    table.caption_justify = "left"
    return table


def html_table(record: Record) -> str:
    """The same table as HTML, everything escaped."""
    head = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in COLUMNS)
    rows = []
    for result in record.results:
        first, *rest = _cells(record, result)
        rows.append(
            f"<tr><th scope='row'>{html.escape(first)}</th>" + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


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
