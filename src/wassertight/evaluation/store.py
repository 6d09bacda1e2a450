"""The run directory: configuration, finished units, arrays and record, every file written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from wassertight.files import holds, write_whole
from wassertight.types import RunDirectoryError

Watch: TypeAlias = Callable[[str, int, int], None]
"""Called as watch(stage, samples_done, samples_total)."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one finished unit left: its tensors and its facts (JSON)."""

    tensors: dict[str, Tensor] = field(repr=False)
    facts: dict[str, Any]


@dataclass(frozen=True)
class Store:
    """A run directory, or nothing at all when `path` is None.

    Layout: `config.json`, `units/<key>.safetensors`, `record.json`, `arrays.safetensors`.
    """

    path: Path | None

    def holds(self, configuration: Mapping[str, Any]) -> bool:
        """Whether the directory already holds this run; False where it is free. Writes nothing.

        Raises:
            RunDirectoryError: a run of another configuration (naming what differs), or something that is not a run.
        """
        if self.path is None:
            return False
        if holds(self.path / "config.json", configuration, "a run of another configuration"):
            return True
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise RunDirectoryError(
                f"{self.path} exists and is not a run directory (no config.json); give an empty or a new one"
            )
        return False

    def claim(self, configuration: Mapping[str, Any]) -> None:
        """Take the directory for a configuration: new, or the same one resumed.

        Raises:
            RunDirectoryError: as `holds`, or a directory that cannot be written. Nothing is overwritten.
        """
        try:
            if self.path is None or self.holds(configuration):
                return
            (self.path / "units").mkdir(parents=True, exist_ok=True)
            write_whole(self.path / "config.json", json.dumps(configuration, indent=1).encode())
        except OSError as error:
            raise RunDirectoryError(f"cannot write the run directory {self.path}: {error}") from error

    def holds_unit(self, key: str) -> bool:
        """Whether a unit is stored."""
        return self.path is not None and self._unit(key).exists()

    def load(self, key: str) -> Outcome | None:
        """A finished unit, or None where it is missing or unreadable (it is then done again)."""
        if self.path is None or not (file := self._unit(key)).exists():
            return None
        try:
            with safe_open(file, framework="pt") as content:
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
                facts = json.loads((content.metadata() or {})["facts"])
        except (SafetensorError, OSError, KeyError, ValueError):
            return None
        return Outcome(tensors=tensors, facts=facts)

    def save(self, key: str, outcome: Outcome) -> None:
        """Keep a finished unit at once, so that a killed run loses at most the unit it was in."""
        if self.path is None:
            return
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in outcome.tensors.items()}
        self._unit(key).parent.mkdir(exist_ok=True)
        write_whole(self._unit(key), save(tensors, metadata={"facts": json.dumps(outcome.facts)}))

    def finish(self, record: str, arrays: Mapping[str, Tensor]) -> None:
        """Write the arrays, then the record: a record on disk means that the run is complete."""
        if self.path is None:
            return
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in arrays.items()}
        write_whole(self.path / "arrays.safetensors", save(tensors))
        write_whole(self.path / "record.json", record.encode())

    def _unit(self, key: str) -> Path:
        assert self.path is not None
        return self.path / "units" / f"{key}.safetensors"
