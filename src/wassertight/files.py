"""Writes files whole or not at all, and tells whose run directory one finds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wassertight.errors import RunDirectoryError


def write_whole(file: Path, content: bytes) -> None:
    """Write through a temporary neighbour and rename, so that no reader ever sees half a file.

    Raises:
        RunDirectoryError: when the disk refuses.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunDirectoryError(f"cannot write {file}: {error}") from error


def holds(file: Path, configuration: Mapping[str, Any], other: str) -> bool:
    """Whether a run directory's file holds this configuration; False where there is no file yet.

    Raises:
        RunDirectoryError: it is not readable, or holds `other` ("another training run"); what differs is named.
    """
    if not file.exists():
        return False
    try:
        old = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{file} is not readable: {error}; give another run directory") from error
    if not isinstance(old, dict):
        raise RunDirectoryError(f"{file} is not a run's configuration; give another run directory")
    new = json.loads(json.dumps(configuration))
    differing = [
        f"{key} ({old.get(key, 'absent')} there, {new.get(key, 'absent')} now)"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise RunDirectoryError(
            f"{file.parent} holds {other}: {'; '.join(differing)}. Give another --run-dir (run_dir=...), or the same "
            "settings to resume; nothing was overwritten"
        )
    return True
