"""What the loop asks of Hugging Face accelerate and of torch's random state; the only file that knows their insides."""

from __future__ import annotations

from typing import Any

import torch

from wassertight.types import InputError


def make_accelerator(precision: str, device: str) -> Any:
    """Accelerate's engine for one run.

    Its precision is shared by all engines of a process and cannot be set again; accelerate 1.15 has no public way to
    forget it, so the state is cleared by the call that its own tests use. Process groups stay.

    Raises:
        InputError: for a device other than "auto" and "cpu".
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    if device not in ("auto", "cpu"):
        raise InputError(f"device must be 'auto' or 'cpu' (choose a GPU with CUDA_VISIBLE_DEVICES), got {device!r}")
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision="bf16" if precision == "bf16" else "no",
        cpu=device == "cpu",
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def reseed(seed: int, place: torch.device) -> None:
    """`torch.manual_seed` without its queue of calls for devices that are not in use, which grows step by step."""
    torch.default_generator.manual_seed(seed)
    if place.type == "cuda":
        torch.cuda.manual_seed(seed)
