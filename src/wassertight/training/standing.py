"""Where a training run stands: history, best score, when to stop and with which words; and what a run returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from wassertight.training.settings import Settings
from wassertight.types import InputError, Passes, TrainingError

_DIVERGED = 100.0
"""A loss so many times larger than one plus the first step's has diverged."""
_COLLAPSED = (3, 0.25)
"""Clean accuracy below this after so many epochs is worth a notice."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run leaves; the model itself was trained in place and holds the kept weights, in eval mode.

    Attributes:
        model: the network.
        history: one row an epoch: means of the steps' numbers and what validation said.
        best_epoch, score: epoch (from 1) and score of the best validation; None without validation.
        ending: "finished", "stopped: no better score", "stopped: collapsed".
        passes: samples through the network, training only.
        seconds: wall time over all sittings.
        notices: what the user should know, in sentences.
        run_dir: where it is kept, or None.
    """

    model: nn.Module = field(repr=False)
    history: list[dict[str, float]] = field(repr=False)
    best_epoch: int | None
    score: float | None
    ending: str
    passes: Passes
    seconds: float
    notices: tuple[str, ...] = ()
    run_dir: Path | None = None


@dataclass(kw_only=True, eq=False)
class Standing:
    """Where a run stands, besides weights and optimiser; part of every checkpoint.

    Attributes:
        step: optimiser steps made.
        first_loss: loss of the first step, what later ones are compared with.
        history: finished epochs.
        best, best_epoch, since_best: best score, its epoch, and validations since.
        ending: why the run ended, "" while it has not.
        seconds: wall time so far.
        notices: sentences for the user.
    """

    step: int = 0
    first_loss: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int | None = None
    since_best: int = 0
    ending: str = ""
    seconds: float = 0.0
    notices: list[str] = field(default_factory=list)

    def check(self, loss: float, size: float, rate: float, per_epoch: int, saved: str) -> None:
        """Stop at a loss or a gradient that is not finite, or at a loss that has grown out of all bounds.

        Raises:
            TrainingError: what happened, what to change, and where the last good checkpoint is.
        """
        self.first_loss = loss if self.first_loss is None else self.first_loss
        if math.isfinite(loss) and math.isfinite(size) and loss <= _DIVERGED * (1 + abs(self.first_loss)):
            return
        if not math.isfinite(loss):
            what, remedy = (
                f"the loss became {loss}",
                "check that the model's logits are finite on the training data, or ",
            )
        elif not math.isfinite(size):
            what, remedy = (
                f"the gradient became {size} at a loss of {loss:.4g}",
                "use precision='fp32' if it is bf16, or ",
            )
        else:
            what, remedy = f"the loss grew from {self.first_loss:.4g} to {loss:.4g}", ""
        raise TrainingError(
            f"training stopped at step {self.step} (epoch {self.step // per_epoch + 1}): {what}; {remedy}lower the rate "
            f"(it was {rate:.3g}), set clip_norm (for example 5), or lower the objective's beta; {saved}"
        )

    def judge(self, found: Mapping[str, float], epoch: int, settings: Settings) -> bool:
        """Take a validation's numbers: whether they are the best so far; stops the run where the settings say so.

        Raises:
            InputError: without a score.
        """
        if "score" not in found:
            raise InputError(f"the validation callback must return a 'score', it returned {sorted(found)}")
        past = [row["score"] for row in self.history if "score" in row]
        better = self.best is None or found["score"] > self.best
        self.since_best += 1
        if better:
            self.best, self.best_epoch, self.since_best = found["score"], epoch, 0
        if past and past[-1] - found["score"] > settings.collapse:
            self.ending = "stopped: collapsed"
            self.notices.append(
                f"the validated score fell from {past[-1]:.1%} to {found['score']:.1%} (catastrophic overfitting); the "
                "best weights are kept. More steps, a smaller step or a lower rate help"
            )
        elif settings.patience is not None and self.since_best > settings.patience:
            self.ending = "stopped: no better score"
        if epoch == _COLLAPSED[0] and found.get("validated clean", 1.0) < _COLLAPSED[1]:
            self.notices.append(
                f"clean accuracy is {found['validated clean']:.1%} after {epoch} epochs: the network may have collapsed to "
                "a constant. A smaller radius, a larger network or a warm start (finetune) help"
            )
        return better
