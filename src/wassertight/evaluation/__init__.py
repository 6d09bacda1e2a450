"""Evaluation: from a model, data and threats to an audited, resumable record of the bracket."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wassertight.evaluation.catalogue import (
        attack_methods,
        certificate_methods,
        find_method,
        foreign_methods,
        study_methods,
    )
    from wassertight.evaluation.claims import check_claim
    from wassertight.evaluation.losses import LossBracket, attack_loss, bracket_loss, split_row
    from wassertight.evaluation.method import Method
    from wassertight.evaluation.plan import Plan, make_plan
    from wassertight.evaluation.result import Report
    from wassertight.evaluation.robustbench import robustbench_benchmark
    from wassertight.evaluation.run import benchmark, execute

_HOMES = {
    "LossBracket": "losses",
    "Method": "method",
    "Plan": "plan",
    "Report": "result",
    "attack_loss": "losses",
    "attack_methods": "catalogue",
    "benchmark": "run",
    "bracket_loss": "losses",
    "certificate_methods": "catalogue",
    "check_claim": "claims",
    "execute": "run",
    "find_method": "catalogue",
    "foreign_methods": "catalogue",
    "make_plan": "plan",
    "robustbench_benchmark": "robustbench",
    "split_row": "losses",
    "study_methods": "catalogue",
}

__all__ = [
    "LossBracket",
    "Method",
    "Plan",
    "Report",
    "attack_loss",
    "attack_methods",
    "benchmark",
    "bracket_loss",
    "certificate_methods",
    "check_claim",
    "execute",
    "find_method",
    "foreign_methods",
    "make_plan",
    "robustbench_benchmark",
    "split_row",
    "study_methods",
]


def __getattr__(name: str) -> Any:
    """Import a file only when it is used, so that listing methods never loads torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"wassertight.evaluation.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'wassertight.evaluation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
