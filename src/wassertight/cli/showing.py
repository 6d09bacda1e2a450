"""What the commands print: tables and paths on standard output; figure and page into the run directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wassertight.records import Record


def write_pictures(record: Record, directory: Path) -> list[Path]:
    """The bracket figure, smoothing radii and moving light where there are some (PDF, SVG, PNG), and the page; their paths."""
    from wassertight.report import save_figure, save_flow_figure, save_radii_figure, stored_arrays, write_page

    figures = save_figure(record, directory / "bracket") + save_radii_figure(record, directory / "radii")
    if any("image-" in result.threat for result in record.results):
        figures += save_flow_figure(directory)
    page = directory / "report.html"
    write_page(record, page, stored_arrays(record, directory))
    return [*(Path(path) for path in figures), page]


def print_table(record: Record) -> None:
    """The bracket of every threat, its width, and what was claimed beyond, as tables on standard output."""
    from wassertight.report import brackets_table, claim_table, freedoms_table, heaviest_lines, results_table

    screen = console()
    screen.print(results_table(record))
    for table in (brackets_table(record), freedoms_table(record), claim_table(record)):
        if table is not None:
            screen.print()
            screen.print(table)
    if heaviest_lines(record):
        print_list(
            "The samples the worst law found leans on (w: its mass over the sample's own):", heaviest_lines(record)
        )
    if record.assumptions:
        what = "certified" if any(result.certified is not None for result in record.results) else "attacked"
        print_list(f"What is {what} rests on:", record.assumptions)
    if record.claim is not None:
        print_list("The last table rests on:", record.claim.assumptions)
    sys.stdout.write("\n")


def print_list(title: str, texts: Sequence[str]) -> None:
    """A title and its points on standard output."""
    sys.stdout.write(f"\n{title}\n" + "".join(f"  - {text}\n" for text in texts))
    sys.stdout.flush()


def print_paths(paths: Sequence[Path]) -> None:
    """Where things lie, one path a line, never wrapped."""
    for path in paths:
        sys.stdout.write(f"{path}\n")
    sys.stdout.flush()


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table of texts."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def console() -> Console:
    """Standard output, as wide as the terminal, at least 100 columns where there is none."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=max(plain.width, 120))
