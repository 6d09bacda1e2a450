"""Training: networks that withstand a threat, every published objective one value away."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wassertight.training.base import Context, Crafted, Objective, Outer
    from wassertight.training.catalogue import find_objective, make_objective, objective_entries
    from wassertight.training.drop_in import robust_loss
    from wassertight.training.finetuning import perturb_once, reset_last_layer
    from wassertight.training.loop import train
    from wassertight.training.objectives.armor import ARMOR
    from wassertight.training.objectives.knapsack import Knapsack
    from wassertight.training.objectives.mart import MART
    from wassertight.training.objectives.noise import NoiseTraining
    from wassertight.training.objectives.pgd import PGDTraining
    from wassertight.training.objectives.standard import Standard
    from wassertight.training.objectives.trades import TRADES
    from wassertight.training.objectives.udr import UDR
    from wassertight.training.objectives.wdro import WDRO
    from wassertight.training.objectives.weight_perturbation import AdversarialWeights, RandomWeights
    from wassertight.training.objectives.wrm import WRM
    from wassertight.training.settings import Settings
    from wassertight.training.standing import Trained
    from wassertight.training.validation import cheap_attack

_HOMES = {
    "ARMOR": "objectives.armor",
    "AdversarialWeights": "objectives.weight_perturbation",
    "Context": "base",
    "Crafted": "base",
    "Knapsack": "objectives.knapsack",
    "MART": "objectives.mart",
    "NoiseTraining": "objectives.noise",
    "Objective": "base",
    "Outer": "base",
    "PGDTraining": "objectives.pgd",
    "RandomWeights": "objectives.weight_perturbation",
    "Settings": "settings",
    "Standard": "objectives.standard",
    "TRADES": "objectives.trades",
    "Trained": "standing",
    "UDR": "objectives.udr",
    "WDRO": "objectives.wdro",
    "WRM": "objectives.wrm",
    "cheap_attack": "validation",
    "find_objective": "catalogue",
    "make_objective": "catalogue",
    "objective_entries": "catalogue",
    "perturb_once": "finetuning",
    "reset_last_layer": "finetuning",
    "robust_loss": "drop_in",
    "train": "loop",
}

__all__ = [
    "ARMOR",
    "MART",
    "TRADES",
    "UDR",
    "WDRO",
    "WRM",
    "AdversarialWeights",
    "Context",
    "Crafted",
    "Knapsack",
    "NoiseTraining",
    "Objective",
    "Outer",
    "PGDTraining",
    "RandomWeights",
    "Settings",
    "Standard",
    "Trained",
    "cheap_attack",
    "find_objective",
    "make_objective",
    "objective_entries",
    "perturb_once",
    "reset_last_layer",
    "robust_loss",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a file only when it is used, so that listing objectives never loads torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"wassertight.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'wassertight.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
