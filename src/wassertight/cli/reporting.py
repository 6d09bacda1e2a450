"""The body of `wassertight report`: rewrites table, figure and page from stored records; loads no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from wassertight.cli.showing import print_paths, print_table, write_pictures
from wassertight.records import Record


def show_again(directories: Sequence[Path], *, as_json: bool) -> int:
    """Show finished runs; returns 0, or 3 where a record's audit failed. All are read before anything is written."""
    records = [(path if path.is_dir() else path.parent, Record.read(path)) for path in directories]
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
