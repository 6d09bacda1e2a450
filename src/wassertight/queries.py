"""The model as methods see it: in eval mode, in batches, checked, its passes counted, and left as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn

from wassertight.inputs import check_labels
from wassertight.types import InputError, Model, ModelError, Passes, logits_of

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (n, k) and labels (n,) to one loss a sample (n,), to be increased."""


class Averaged(nn.Module):
    """A randomised classifier as the mean of the logits of several draws: expectation over transformation (1707.07397).

    Gradients are means over the draws too. Every pass costs `draws` passes of the model and is counted so.

    Args:
        model: any callable from (n, *features) to logits (n, classes).
        draws: how many, at least 2.
    """

    def __init__(self, model: Model, draws: int) -> None:
        super().__init__()
        if draws < 2:
            raise InputError(f"draws must be at least 2, got {draws}")
        self.model, self.draws = model, draws

    def forward(self, x: Tensor) -> Tensor:
        """Mean logits, (n, classes)."""
        return torch.stack([logits_of(self.model(x)) for _ in range(self.draws)]).mean(0)


class ModelQueries:
    """Counted, batched access to a classifier; a context manager that restores everything it changed.

    Inside the `with` block modules are in eval mode, parameters need no gradient and random draws of the model
    do not advance the caller's random state. On leaving, every module's mode, every parameter's flag and the
    random state are as they were.

    Args:
        model: any callable from (n, *features) to logits (n, classes); an nn.Module's device is used for its passes.
        batch_size: samples a pass at most; None picks one from the size of a sample.

    >>> queries = ModelQueries(nn.Linear(2, 3))
    >>> with queries:
    ...     tuple(queries.logits(torch.zeros(5, 2)).shape), queries.passes.forward
    ((5, 3), 5)
    """

    def __init__(self, model: Model, *, batch_size: int | None = None) -> None:
        if not callable(model):
            raise ModelError(f"a model must be callable, got {type(model).__name__}")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model
        self.batch_size = batch_size
        self.cost = model.draws if isinstance(model, Averaged) else 1
        self.forward_passes = 0
        self.backward_passes = 0
        self._modes: list[tuple[nn.Module, bool]] = []
        self._flags: list[tuple[nn.Parameter, bool]] = []
        parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        self.device = parameter.device if parameter is not None else None

    def __enter__(self) -> ModelQueries:
        if isinstance(self.model, nn.Module):
            self._modes = [(module, module.training) for module in self.model.modules()]
            self._flags = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
            self.model.eval()
            for parameter, _ in self._flags:
                parameter.requires_grad_(False)
        devices = [self.device] if self.device is not None and self.device.type == "cuda" else []
        self._fork = torch.random.fork_rng(devices=devices)
        self._fork.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fork.__exit__(kind, error, trace)
        for module, mode in self._modes:
            module.training = mode
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)

    @property
    def passes(self) -> Passes:
        """Passes spent so far, in samples."""
        return Passes(forward=self.forward_passes, backward=self.backward_passes)

    def _size(self, x: Tensor) -> int:
        return self.batch_size or max(1, min(1024, 2**23 // max(1, x[0].numel() * 8)))

    def _run(self, x: Tensor) -> Tensor:
        out = logits_of(self.model(x.to(self.device) if self.device is not None else x))
        self.forward_passes += len(x) * self.cost
        if not isinstance(out, Tensor) or out.ndim != 2:
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ModelError(f"the model must return a tensor of logits (n, classes), got {shape}")
        if len(out) != len(x):
            raise ModelError(
                f"the model returned {len(out)} rows for {len(x)} samples; it must return one row a sample"
            )
        if out.shape[1] < 2:
            raise ModelError(
                "the model returned one logit a sample; two or more classes are needed "
                "(for a binary score s, return torch.stack((-s, s), 1) / 2)"
            )
        return out

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, k) on x's device, without gradient."""
        with torch.no_grad():
            parts = [self._run(part) for part in torch.split(x, self._size(x))]
        return _joined(parts).to(x.device)

    def answer(self, x: Tensor) -> Tensor:
        """Logits (n, k) with whatever gradient the caller's graph asks for; the forward passes are counted."""
        return self._run(x)

    def clean_logits(self, x: Tensor, y: Tensor) -> Tensor:
        """Logits of unperturbed inputs; NaN there, or labels without a logit, are the caller's to mend."""
        logits = self.logits(x)
        bad = torch.isnan(logits).any(1)
        if bad.any():
            raise ModelError(
                f"the model returned NaN for {int(bad.sum())} of {len(x)} unperturbed samples, "
                f"first at sample {int(bad.nonzero()[0, 0])}; check its weights and input scaling"
            )
        check_labels(y, logits.shape[1])
        return logits

    def jitter(self, x: Tensor) -> float:
        """Four standard deviations of a margin's noise, 0 for a deterministic model: what a flip must exceed to last."""
        if self.cost == 1:
            return 0.0
        part = x[:64]
        return 4 * float((self.logits(part) - self.logits(part)).std())

    def gradient(self, x: Tensor, y: Tensor, loss: LossFunction) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (n, k), losses (n,) and the gradient of each sample's loss in its own input (n, *features).

        Non-finite gradient entries are returned as zero, so that one bad pixel cannot turn an iterate into NaN.
        """
        logits, losses, gradients = self.gradients(x, [y], loss)
        return logits, losses[0], gradients[0]

    def gradients(
        self, x: Tensor, labels: Sequence[Tensor], loss: LossFunction
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The same for several labellings of the same inputs: one forward pass, a backward pass each."""
        logits: list[Tensor] = []
        losses: list[list[Tensor]] = [[] for _ in labels]
        gradients: list[list[Tensor]] = [[] for _ in labels]
        size = self._size(x)
        for begin in range(0, len(x), size):
            z = x[begin : begin + size].detach().requires_grad_(True)
            with torch.enable_grad():
                out = self._run(z)
                logits.append(out.detach().to(x.device))
                for index, label in enumerate(labels):
                    value = loss(out, label[begin : begin + size].to(out.device))
                    (g,) = torch.autograd.grad(value.sum(), z, retain_graph=index < len(labels) - 1)
                    losses[index].append(value.detach().to(x.device))
                    gradients[index].append(_finite(g.detach()))
            self.backward_passes += len(z) * len(labels) * self.cost
        return _joined(logits), [_joined(parts) for parts in losses], [_joined(parts) for parts in gradients]


def _finite(g: Tensor) -> Tensor:
    """NaN and infinite entries as zero; a sum over all entries tells cheaply that there are none."""
    return g if bool(torch.isfinite(g.sum())) else torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
