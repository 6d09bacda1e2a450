"""Saves a trained network so that every command can load it by its path."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from wassertight.files import write_whole
from wassertight.models.loaded import LoadedModel
from wassertight.types import ModelError


def save_network(loaded: LoadedModel, directory: str | Path, **facts: Any) -> str:
    """Write the network's weights, and its declaration where it has one; returns the name `load_model` takes.

    A declared architecture gives `<directory>/network.json`; user code gives `package.module:function@<weights>`, because
    nothing on disk may name code to be run.

    Args:
        loaded: the network, as `load_model` or `new_model` gave it, with its present weights.
        directory: an existing folder; gets `network.safetensors` (and `network.json`).
        facts: what else the declaration says, for example `training="TRADES ..."`.
    """
    if not isinstance(loaded.model, nn.Module):
        raise ModelError(f"{loaded.name} is not an nn.Module; its weights cannot be saved")
    body = loaded.model if loaded.declaration is None else loaded.model[-1]  # type: ignore[index]
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in body.state_dict().items()}
    content = save({k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")})
    file = Path(directory) / "network.safetensors"
    write_whole(file, content)
    if loaded.declaration is None:
        return f"{loaded.name.rpartition('@')[0] if loaded.name.endswith('.safetensors') else loaded.name}@{file}"
    entry = {**loaded.declaration, "file": file.name, "sha256": hashlib.sha256(content).hexdigest(), **facts}
    declared = Path(directory) / "network.json"
    write_whole(declared, (json.dumps(entry, indent=1) + "\n").encode())
    return str(declared)
