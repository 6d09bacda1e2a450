"""Wassertight: attack, certify and bracket a classifier under Wasserstein distribution shift."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wassertight import attacks, certificates, data, evaluation, models, report, threats, training
    from wassertight.data import load_data
    from wassertight.estimator import WassersteinRobustClassifier as WassersteinRobustClassifier
    from wassertight.evaluation import Report, benchmark
    from wassertight.models import load_model
    from wassertight.threats import threat
    from wassertight.training import robust_loss
    from wassertight.transport import DiscreteMeasure, FlipDistances

__version__ = "0.1.0"

_ROOMS = ("attacks", "certificates", "data", "evaluation", "models", "report", "threats", "training")
_HOMES = {
    "DiscreteMeasure": "wassertight.transport",
    "FlipDistances": "wassertight.transport",
    "Report": "wassertight.evaluation",
    "WassersteinRobustClassifier": "wassertight.estimator",  # not in __all__: it needs scikit-learn
    "benchmark": "wassertight.evaluation",
    "load_data": "wassertight.data",
    "load_model": "wassertight.models",
    "robust_loss": "wassertight.training",
    "threat": "wassertight.threats",
}

__all__ = [
    "DiscreteMeasure",
    "FlipDistances",
    "Report",
    "__version__",
    "attacks",
    "benchmark",
    "certificates",
    "data",
    "evaluation",
    "load_data",
    "load_model",
    "models",
    "report",
    "robust_loss",
    "threat",
    "threats",
    "training",
]


def __getattr__(name: str) -> Any:
    """Import a room only when it is used, so that reading a record never loads torch."""
    if name in _ROOMS:
        return importlib.import_module(f"wassertight.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'wassertight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
