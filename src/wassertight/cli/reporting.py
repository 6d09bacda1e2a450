"""The commands `report` and `leaderboard`: pages and tables from stored records alone; neither loads torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wassertight.cli import options as opt

Directories = Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Directories of finished runs.")]
Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="SOURCE...", help="Run directories, folders searched for runs, and leaderboard.json files made before."
    ),
]
Site = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for index.html, leaderboard.json and the runs' own pages.")
]
Title = Annotated[str, typer.Option("--title", help="Heading of the page.")]


def report(run_dirs: Directories, as_json: opt.Json = False) -> int:
    """Show finished runs again: table, figure and page, from their records alone.

    With --json one run prints its record, several print one object {"runs": [...]}. Exit code 3 where an audit failed.
    """
    from wassertight.cli.showing import print_paths, print_table, write_pictures
    from wassertight.records import Record

    records = [(path if path.is_dir() else path.parent, Record.read(path)) for path in run_dirs]
    paths: list[Path] = []
    for directory, record in records:
        paths += write_pictures(record, directory)
        if not as_json:
            print_table(record)
    if as_json and len(records) == 1:
        print(records[0][1].to_json())
    elif as_json:
        print(json.dumps({"runs": [json.loads(record.to_json()) for _, record in records]}))
    else:
        print_paths(paths)
    return 0 if all(record.audit.ok for _, record in records) else 3


def leaderboard(
    sources: Sources,
    output: Site = Path("site"),
    title: Title = "Wassertight leaderboard",
    as_json: opt.Json = False,
) -> int:
    """A page of all finished runs side by side: one row a threat, sorted and filtered in the browser, no server.

    Rows on the same samples under the same threat are ranked by what is
    proved; rows that failed their audit are marked and never ranked.

    Beside the page lies leaderboard.json: give it again, with more runs,
    and both are merged. Of rows that ask the same of the same network with
    the same settings, the one named later stands.

    The runs' own pages are copied as they are: take runs from people you trust.
    """
    from wassertight.cli.showing import print_paths
    from wassertight.report import write_leaderboard

    page = write_leaderboard(sources, output, title=title)
    if as_json:
        print((output / "leaderboard.json").read_text(encoding="utf-8"), end="")
    else:
        print_paths([page, output / "leaderboard.json"])
    return 0
