"""The options of `evaluate`, `attack` and `certify` as they were typed, and what they mean to a plan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from wassertight.cli import options as opt
from wassertight.cli.reading import read_confidence, read_cost, read_settings


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all three share."""

    command: ClassVar[str]

    model: opt.ModelName = opt.DEFAULT_MODEL
    data: opt.DataName = opt.DEFAULT_DATA
    threat: opt.Threats = None
    n: opt.Count = opt.DEFAULT_N
    batch_size: opt.BatchSize = 256
    device: opt.Device = "auto"
    seed: opt.Seed = 0
    run_dir: opt.RunDirectory = None
    bounds: opt.BoundsText = "0,1"
    config: opt.ConfigFile = None
    save_config: opt.SaveConfig = None
    dry_run: opt.DryRun = False
    setting: opt.Settings = None
    sigma: opt.Sigma = None
    as_json: opt.Json = False
    quiet: opt.Quiet = False

    def methods(self) -> dict[str, Any]:
        """Arguments of `make_plan` that choose the methods."""
        raise NotImplementedError

    def claim(self) -> tuple[float | None, float]:
        """Confidence around the true law (None: not asked for) and the cost of a label (inf: labels stay)."""
        return None, math.inf


@dataclass(frozen=True, kw_only=True)
class Proved(Run):
    """What has a certified side."""

    n_draws: opt.NoisyDraws = None
    alpha: opt.Alpha = None
    population: opt.AroundTheLaw = False
    confidence: opt.Confidence = None
    label_cost: opt.LabelCost = None

    def claim(self) -> tuple[float | None, float]:
        cost = math.inf if self.label_cost is None else read_cost(self.label_cost)
        return read_confidence(self.population, self.confidence), cost

    def smoothing(self) -> dict[str, Any]:
        """Settings of a smoothing certificate that were given."""
        given = {"sigma": self.sigma, "n": self.n_draws, "alpha": self.alpha}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Evaluate(Proved):
    """Both sides."""

    command: ClassVar[str] = "evaluate"

    attack: opt.AttackName = "wda++"
    certificate: opt.CertificateName = "crown"
    preset: opt.Preset = None
    draws: opt.Draws = None
    skip_unsupported: opt.SkipUnsupported = False

    def methods(self) -> dict[str, Any]:
        return {
            "attack": self.attack,
            "certificate": None if self.certificate == "none" else self.certificate,
            "attack_options": read_settings(self.setting),
            "certificate_options": self.smoothing() or None,
            "skip_unsupported": self.skip_unsupported,
            "preset": self.preset,
            "draws": self.draws,
        }


@dataclass(frozen=True, kw_only=True)
class Attack(Run):
    """The attack alone."""

    command: ClassVar[str] = "attack"

    method: opt.AttackName = "wda++"
    preset: opt.Preset = None
    draws: opt.Draws = None

    def methods(self) -> dict[str, Any]:
        noise = {} if self.sigma is None else {"sigma": self.sigma}
        return {
            "attack": self.method,
            "certificate": None,
            "attack_options": {**noise, **(read_settings(self.setting) or {})} or None,
            "preset": self.preset,
            "draws": self.draws,
        }


@dataclass(frozen=True, kw_only=True)
class Certify(Proved):
    """The certificate alone, or bounds of an expected loss."""

    command: ClassVar[str] = "certify"

    method: opt.CertificateMethod = "crown"
    loss: opt.BoundedLoss = None

    def methods(self) -> dict[str, Any]:
        return {
            "attack": None,
            "certificate": self.method,
            "certificate_options": {**self.smoothing(), **(read_settings(self.setting) or {})} or None,
        }
