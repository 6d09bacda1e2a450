"""The data of a run: order, augmentation and randomness as pure functions of the seed and the step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wassertight.inputs import check_inputs
from wassertight.training.settings import Settings
from wassertight.types import Bounds, InputError

_PAD = 4


def derived_seed(*parts: object) -> int:
    """A seed from anything printable, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Training samples in the order of a seed.

    Attributes:
        data: a pair (x, y) of tensors in memory, or a torch Dataset of (input, label) pairs read as needed.
        size: samples a batch, over all processes.
        seed: of the order.
        workers: processes that read a Dataset.
    """

    data: Any
    size: int
    seed: int
    workers: int = 0

    @property
    def samples(self) -> int:
        return len(self.data[1]) if isinstance(self.data, tuple) else len(self.data)

    def count(self, processes: int = 1) -> int:
        """Batches an epoch; the incomplete last one is left out where several processes share each batch."""
        return self.samples // self.size if processes > 1 else -(-self.samples // self.size)

    def epoch(self, epoch: int, start: int, rank: int = 0, processes: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches `start`, `start + 1`, ... of an epoch, this process's part of each."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", epoch))
        order = torch.randperm(self.samples, generator=generator)
        share = self.size // processes
        parts = [order[at * self.size : (at + 1) * self.size] for at in range(start, self.count(processes))]
        if processes > 1:
            parts = [part[rank * share : (rank + 1) * share] for part in parts]
        if isinstance(self.data, tuple):
            x, y = self.data
            for rows in parts:
                yield x[rows.to(x.device)], y[rows.to(y.device)]
            return
        yield from DataLoader(self.data, batch_sampler=[part.tolist() for part in parts], num_workers=self.workers)

    def first(self, n: int) -> tuple[Tensor, Tensor]:
        """The first n samples, for what needs some data before the first step."""
        if isinstance(self.data, tuple):
            return self.data[0][:n], self.data[1][:n]
        pairs = [self.data[index] for index in range(min(n, self.samples))]
        return torch.stack([torch.as_tensor(x) for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs])


def make_batches(data: Any, settings: Settings, bounds: Bounds, processes: int, device: torch.device) -> Batches:
    """Checked batches; tensors are moved to the device once.

    Raises:
        InputError: data or sizes that cannot be used.
    """
    if isinstance(data, Dataset):
        held: Any = data
    else:
        x, y = (data.x, data.y) if hasattr(data, "x") and hasattr(data, "y") else data
        x, y = check_inputs(torch.as_tensor(x), torch.as_tensor(y), bounds)
        held = (x.to(device), y.to(device))
    batches = Batches(data=held, size=settings.batch_size, seed=settings.seed)
    if settings.batch_size > batches.samples:
        raise InputError(
            f"batch_size {settings.batch_size} is larger than the training set ({batches.samples} samples); lower it"
        )
    if settings.batch_size % processes:
        raise InputError(f"batch_size {settings.batch_size} must be a multiple of the {processes} processes")
    return batches


def crop_flip(x: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Pad by 4 zero pixels, crop at a random place, mirror every other image; one gather for the whole batch."""
    if x.ndim != 4:
        raise InputError(f"augment='crop-flip' needs images (n, c, h, w), got shape {tuple(x.shape)}")
    n, _, h, w = x.shape
    down = torch.randint(0, 2 * _PAD + 1, (n, 1), generator=generator)
    right = torch.randint(0, 2 * _PAD + 1, (n, 1), generator=generator)
    mirror = torch.randint(0, 2, (n, 1), generator=generator).bool()
    columns = torch.arange(w).expand(n, w)
    rows = (torch.arange(h)[None] + down).to(x.device)
    columns = (torch.where(mirror, w - 1 - columns, columns) + right).to(x.device)
    padded = torch.nn.functional.pad(x, (_PAD, _PAD, _PAD, _PAD))
    picked = padded[torch.arange(n, device=x.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()


def held_out(y: Int[Tensor, " n"], count: int, *, seed: int = 0) -> tuple[Int[Tensor, " a"], Int[Tensor, " b"]]:
    """Indices for training and for validation, the latter `count` samples with the classes' shares kept.

    >>> kept, apart = held_out(torch.arange(20) % 2, 4)
    >>> len(kept), (apart % 2).sum().item()
    (16, 2)
    """
    if not 0 <= count < len(y):
        raise InputError(f"validation takes between 0 and {len(y) - 1} of the {len(y)} training samples, got {count}")
    generator = torch.Generator().manual_seed(derived_seed(seed, "held out"))
    shuffled = torch.randperm(len(y), generator=generator).to(y.device)
    order = shuffled[y[shuffled].argsort(stable=True)]
    # every so many-th sample of the list sorted by class: each class gives its share
    apart = order[torch.linspace(0, len(y) - 1, count, dtype=torch.float64).round().long()] if count else order[:0]
    mask = torch.ones(len(y), dtype=torch.bool, device=y.device)
    mask[apart] = False
    return mask.nonzero().squeeze(1), apart.sort().values
