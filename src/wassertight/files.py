"""Writes files whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

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
