"""The training loop: one for every objective, on Hugging Face accelerate, resumable to the bit on a CPU."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wassertight.training import checkpoints
from wassertight.training.acceleration import make_accelerator, reseed
from wassertight.training.averaging import averaged_copy, follow
from wassertight.training.base import Context, Crafted, Metrics, Objective, Outer
from wassertight.training.batches import Batches, crop_flip, derived_seed, make_batches
from wassertight.training.logs import Meter, PassCounter, Watch, board, line, watching, write_csv
from wassertight.training.settings import Settings
from wassertight.training.standing import Standing, Trained
from wassertight.training.validation import Validate
from wassertight.types import Bounds, InputError, ModelError

_PREPARE = 2048
"""Samples that an objective may look at before the first step."""
_SHOW_SECONDS = 0.2


def train(
    model: nn.Module,
    data: Any,
    objective: Objective,
    settings: Settings | None = None,
    *,
    validate: Validate | None = None,
    run_dir: str | Path | None = None,
    device: str = "auto",
    bounds: Bounds = (0.0, 1.0),
    progress: bool | Watch = True,
) -> Trained:
    """Train a network in place so that it withstands a threat.

    Args:
        model: an nn.Module from (n, *features) to logits; normalisation belongs inside, radii are in input units.
        data: a pair (x, y) of tensors, what `load_data(..., split="train")` returns, or a torch Dataset of pairs.
        objective: what is minimised, for example `TRADES(threat=wt.threat("Linf@8/255"))`.
        settings: epochs, rates, averaging, ...
        validate: called with the network after an epoch, returns numbers with "score"; see `cheap_attack`.
        run_dir: where checkpoints, weights and logs go; the same call again resumes there. None keeps nothing.
        device: "auto" (accelerate's choice, also under `accelerate launch`) or "cpu".
        bounds: the box of the inputs.
        progress: True for a bar on standard error, False, or a function (text, steps_done, steps_total).

    Raises:
        TrainingError: a loss that diverges or a gradient that is not finite; the last good checkpoint stays.
        InputError, ModelError, RunDirectoryError: what cannot be used, before any work.

    >>> from wassertight.threats import threat
    >>> from wassertight.training.objectives.pgd import PGDTraining
    >>> net, x, y = nn.Linear(2, 2), torch.rand(20, 2), torch.arange(20) % 2
    >>> objective, settings = PGDTraining(threat=threat("Linf@0.1"), steps=2), Settings(epochs=1, batch_size=10)
    >>> train(net, (x, y), objective, settings, device="cpu", progress=False).ending
    'finished'
    """
    settings = settings or Settings()
    if not isinstance(model, nn.Module) or not any(p.requires_grad for p in model.parameters()):
        raise ModelError("training needs an nn.Module with parameters that require gradients")
    if settings.patience is not None and validate is None:
        raise InputError("patience stops on validation scores: give validate=cheap_attack(x, y, threat) too")
    devices = [p.device for p in model.parameters() if p.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices=devices), watching(progress) as watch:
        run = _Run(model, data, objective, settings, validate, run_dir, device, bounds, watch)
        return run.to_the_end()


class _Run:
    """One sitting of a run."""

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        objective: Objective,
        settings: Settings,
        validate: Validate | None,
        run_dir: str | Path | None,
        device: str,
        bounds: Bounds,
        watch: Watch,
    ) -> None:
        self.objective, self.settings, self.validate, self.watch = objective, settings, validate, watch
        self.accelerator = make_accelerator(settings.precision, device)
        self.bare = model.to(self.accelerator.device)
        if settings.channels_last:
            self.bare = self.bare.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batches: Batches = make_batches(
            data, settings, bounds, self.accelerator.num_processes, self.accelerator.device
        )
        self.per_epoch = self.batches.count(self.accelerator.num_processes)
        self.total = settings.length(self.per_epoch)
        self.optimiser = settings.make_optimiser([p for p in self.bare.parameters() if p.requires_grad])
        self.average = None if settings.ema is None else averaged_copy(self.bare)
        self.wrapped: nn.Module = self.accelerator.prepare(self.bare)
        self.context = Context(
            gather=self.accelerator.gather,
            rank=self.accelerator.process_index,
            samples=self.batches.samples,
            craft_mode=settings.craft_mode,
        )
        self.at, self.meter, self.passes = Standing(), Meter(), PassCounter(self.bare)
        self.kept: dict[str, Tensor] | None = None
        self.directory = None if run_dir is None else Path(run_dir)
        self.main = self.accelerator.is_main_process
        if self.directory is not None:
            if self.main:
                checkpoints.claim(
                    self.directory, checkpoints.configuration(self.bare, self.batches, objective, settings)
                )
            self.accelerator.wait_for_everyone()
            self._resume(self.directory)
        self.saved_step, self.saved_at, self.shown = self.at.step, time.perf_counter(), 0.0

    def to_the_end(self) -> Trained:
        """All epochs that are left, then the kept weights."""
        begun, before = time.perf_counter(), self.at.seconds
        writer = board(self.directory) if self.main else None
        try:
            if self.at.step == 0 and not self.at.ending:
                x, y = self.batches.first(_PREPARE)
                self.context.generator.manual_seed(derived_seed(self.settings.seed, "prepare"))
                self.objective.prepare(self.bare, x.to(self._place), y.to(self._place), self.context)
            while self.at.step < self.total and not self.at.ending:
                self._epoch(begun, before)
                if writer is not None:
                    for name, value in self.at.history[-1].items():
                        writer.add_scalar(name, value, len(self.at.history))
            self.at.ending = self.at.ending or "finished"
            self.at.seconds = before + time.perf_counter() - begun
            self._save()
        finally:
            self.passes.close()
            if writer is not None:
                writer.close()
        self._keep()
        self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        self.bare.eval()
        return Trained(
            model=self.bare,
            history=self.at.history,
            best_epoch=self.at.best_epoch,
            score=self.at.best,
            ending=self.at.ending,
            passes=self.passes.passes,
            seconds=self.at.seconds,
            notices=tuple(self.at.notices),
            run_dir=self.directory,
        )

    @property
    def _place(self) -> torch.device:
        place: torch.device = self.accelerator.device
        return place

    def _epoch(self, begun: float, before: float) -> None:
        epoch, start = divmod(self.at.step, self.per_epoch)
        self.context.epoch = epoch
        self.bare.train()
        for x, y in self.batches.epoch(epoch, start, self.context.rank, self.accelerator.num_processes):
            self._step(x.to(self._place), y.to(self._place))
            if self.at.step >= self.total:
                break
            if time.perf_counter() - self.saved_at > self.settings.checkpoint_seconds:
                self.at.seconds = before + time.perf_counter() - begun
                self._save()
        row = {"epoch": float(epoch + 1), **self.meter.means(), "passes": float(self.passes.passes.total)}
        self.meter = Meter()
        if (epoch + 1) % self.settings.validate_every == 0 or self.at.step >= self.total:
            row |= self._validated(epoch + 1)
        self.at.history.append(row)
        self.at.seconds = before + time.perf_counter() - begun
        if self.directory is not None and self.main:
            write_csv(self.directory / "log.csv", self.at.history)
        self._save()

    def _step(self, x: Tensor, y: Tensor) -> None:
        settings, step = self.settings, self.at.step
        rate = settings.rate_at(step, self.per_epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        reseed(derived_seed(settings.seed, "step", step, self.context.rank), self._place)
        self.context.generator.manual_seed(derived_seed(settings.seed, "craft", step, self.context.rank))
        self.context.step = step
        if settings.augment == "crop-flip":
            x = crop_flip(x, self.context.generator)
        if settings.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        crafted = self.objective.craft(self.bare, x, y, self.context)
        outer = self.objective.outer(self.wrapped, crafted, self.context)
        self.accelerator.backward(outer.loss)
        limit = math.inf if settings.clip_norm is None else settings.clip_norm
        size = nn.utils.clip_grad_norm_(self.bare.parameters(), limit)
        loss = float(outer.loss.detach())
        self.at.check(loss, float(size), rate, self.per_epoch, self._saved())
        self.optimiser.step()
        self.optimiser.zero_grad()
        metrics = {"loss": loss, "gradient": float(size), **_accuracies(outer, crafted)}
        metrics |= self.objective.update(crafted, outer, self.context)
        if self.average is not None and settings.ema is not None:
            follow(self.average, self.bare, settings.ema)
        self.meter.add(metrics, len(x))
        self.at.step += 1
        if self.main and (self.at.step == self.total or time.perf_counter() - self.shown > _SHOW_SECONDS):
            self.shown = time.perf_counter()
            epoch = f"epoch {step // self.per_epoch + 1}  "
            self.watch(epoch + line({k: float(v) for k, v in list(metrics.items())[:4]}), self.at.step, self.total)

    def _validated(self, epoch: int) -> dict[str, float]:
        if self.validate is None:
            return {}
        self.passes.paused = True
        found = {name: float(value) for name, value in self.validate(self.average or self.bare).items()}
        self.passes.paused = False
        self.bare.train()
        if self.at.judge(found, epoch, self.settings):
            self.kept = {k: v.detach().clone() for k, v in (self.average or self.bare).state_dict().items()}
            if self.directory is not None and self.main:
                checkpoints.write_weights(self.directory / checkpoints.BEST, self.kept)
        return found

    def _keep(self) -> None:
        """The weights to be kept into the model; both kinds on disk."""
        final = self.average or self.bare
        if self.directory is not None and self.main:
            checkpoints.write_weights(self.directory / checkpoints.LAST, final.state_dict())
        if self.settings.keep == "best" and self.at.best is not None:
            if self.kept is not None:
                self.bare.load_state_dict(self.kept)
            elif self.directory is not None:
                checkpoints.load_weights(self.bare, self.directory / checkpoints.BEST)
        elif self.average is not None:
            self.bare.load_state_dict(self.average.state_dict())

    def _saved(self) -> str:
        if self.directory is None:
            return "no checkpoint was asked for (run_dir=...)"
        return f"the last good checkpoint, of step {self.saved_step}, is kept in {self.directory}"

    def _save(self) -> None:
        self.saved_step, self.saved_at = self.at.step, time.perf_counter()
        if self.directory is None or not self.main:
            return
        content = {
            "model": self.bare.state_dict(),
            "average": {} if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "state": self.context.state,
            "meter": self.meter.plain(),
            "passes": [self.passes.forward, self.passes.backward],
            "at": dataclasses.asdict(self.at),
        }
        checkpoints.write_checkpoint(self.directory, content)

    def _resume(self, directory: Path) -> None:
        found = checkpoints.read_checkpoint(directory)
        if found is None:
            return
        self.bare.load_state_dict(found["model"])
        if self.average is not None:
            self.average.load_state_dict(found["average"])
        self.optimiser.load_state_dict(found["optimiser"])
        self.context.state = found["state"]
        self.meter = Meter(found["meter"])
        self.passes.forward, self.passes.backward = found["passes"]
        self.at = Standing(**found["at"])


def _accuracies(outer: Outer, crafted: Crafted) -> Metrics:
    logits = {"clean": outer.clean, "moved": outer.moved}
    return {k: (v.argmax(1) == crafted.y).double().mean() for k, v in logits.items() if v is not None}
