"""Checkpoints of a training run: everything a step depends on, written whole, read without running code."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from wassertight.files import holds, write_whole
from wassertight.training.base import Objective
from wassertight.training.batches import Batches
from wassertight.training.settings import Settings
from wassertight.types import RunDirectoryError

CHECKPOINT, BEST, LAST = "checkpoint.pt", "best.safetensors", "last.safetensors"


def claim(directory: Path, configuration: Mapping[str, Any]) -> None:
    """Take a directory for a configuration: new, or the same one resumed; nothing is overwritten otherwise.

    Raises:
        RunDirectoryError: naming what differs from the run that is there.
    """
    file = directory / "training.json"
    if holds(file, configuration, "another training run"):
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"cannot write the run directory {directory}: {error}") from error
    write_whole(file, json.dumps(configuration, indent=1).encode())


def write_checkpoint(directory: Path, content: Mapping[str, Any]) -> None:
    """Replace the checkpoint; a kill leaves the old one or the new one."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_whole(directory / CHECKPOINT, buffer.getvalue())


def read_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The checkpoint on the CPU, or None where there is none. Tensors and plain values only: nothing is executed.

    Raises:
        RunDirectoryError: for a file that is not such a checkpoint.
    """
    file = directory / CHECKPOINT
    if not file.exists():
        return None
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RunDirectoryError(f"{file} is not a readable checkpoint: {error}; delete it to begin anew") from error
    return dict(content)


def write_weights(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Weights as safetensors."""
    write_whole(file, save({name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}))


def load_weights(model: nn.Module, file: Path) -> None:
    """Weights written by `write_weights` back into the model.

    Raises:
        RunDirectoryError: for a file that is missing, truncated or of another network.
    """
    try:
        model.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise RunDirectoryError(f"{file} does not hold this network's weights: {error}") from error


def configuration(model: nn.Module, batches: Batches, objective: Objective, settings: Settings) -> Mapping[str, Any]:
    """What a run directory belongs to; two runs of one configuration are the same run."""
    x, y = batches.first(256)
    digest = hashlib.sha256(x.cpu().numpy().tobytes() + y.cpu().numpy().tobytes()).hexdigest()[:16]
    shapes = json.dumps([[name, list(p.shape)] for name, p in model.named_parameters()])
    values = dataclasses.asdict(settings)
    values.pop("checkpoint_seconds")
    return {
        "objective": repr(objective),
        "model": hashlib.sha256(shapes.encode()).hexdigest()[:16],
        "data": digest,
        "samples": batches.samples,
        **values,
    }
