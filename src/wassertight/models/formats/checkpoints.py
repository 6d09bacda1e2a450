"""Other libraries' checkpoints are read as tensors, never as code."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_KEY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextlib.contextmanager
def tensors_only() -> Iterator[None]:
    """torch.load reads tensors and nothing else inside, whatever its caller asks for."""
    before = os.environ.get(_KEY)
    os.environ[_KEY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_KEY]
        else:
            os.environ[_KEY] = before
