"""Models of timm (PyTorch image models) by name, taking inputs in [0, 1]."""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch import nn

from wassertight.errors import nearest
from wassertight.models.architecture import Normalise
from wassertight.models.formats.checkpoints import tensors_only
from wassertight.models.loaded import LoadedModel
from wassertight.packages import optional_package
from wassertight.types import ModelError


def load(reference: str) -> LoadedModel:
    """A model of timm: `name` has weights drawn from seed 0, `name?pretrained` the published ones.

    The normalisation of its configuration becomes the first layer. timm reads safetensors where the hub has them, and
    otherwise pickle files, of which torch takes tensors only.

    Raises:
        PackageError: the package timm (or torchvision, which it imports) is absent or broken.
        ModelError: an unknown name, with the nearest ones, or weights that cannot be had.
    """
    timm = optional_package("timm", "a model of the form timm:")
    name, mark, option = reference.partition("?")
    if mark and option != "pretrained":
        raise ModelError(f"timm:{reference}: the one option is ?pretrained, got {option!r}")
    if not timm.is_model(name):
        near = nearest(name, timm.list_models(), 3)
        raise ModelError(f"timm has no model {name!r}; nearest: {near}")
    try:
        with torch.random.fork_rng(devices=[]), tensors_only():
            torch.manual_seed(0)
            model = timm.create_model(name, pretrained=bool(option))
    except (RuntimeError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise ModelError(f"timm:{reference} cannot be loaded: {(str(error).splitlines() or [''])[0]}") from error
    known: dict[str, Any] = dict(model.pretrained_cfg or {})
    shape = tuple(known["input_size"]) if known.get("input_size") else None
    scaled = bool(known.get("mean") and known.get("std"))
    first = Normalise(known["mean"], known["std"]) if scaled else nn.Identity()
    weights = f"weights {known.get('tag') or 'published'}" if option else "weights drawn from seed 0"
    return LoadedModel(
        name=f"timm:{reference}", model=nn.Sequential(first, model), input_shape=shape,
        description=f"timm {name}, {weights}",
    )  # fmt: skip
