"""What loading a model gives, whatever it was loaded from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wassertight.types import Model


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model with what is known about it.

    Attributes:
        name: as the user gave it.
        model: callable from (n, *features) to logits, in eval mode if it is a module.
        input_shape: shape of one sample, or None if unknown.
        dataset: data set it was trained on, or None.
        description: one line.
        declaration: architecture, input shape and normalisation as a network.json holds them; None for user code.
    """

    name: str
    model: Model
    input_shape: tuple[int, ...] | None = None
    dataset: str | None = None
    description: str = ""
    declaration: Mapping[str, Any] | None = None
