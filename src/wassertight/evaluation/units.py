"""Units of work: each is done once, stored, and found again by the next run."""

from __future__ import annotations

from collections.abc import Callable

from wassertight.evaluation.conclusion import Side
from wassertight.evaluation.plan import Plan, Unit
from wassertight.evaluation.store import Outcome, Store, Watch


def carry_out(
    plan: Plan,
    store: Store,
    watch: Watch,
    units: list[Unit],
    work: Callable[[Unit, Callable[[int, int], None]], Outcome],
) -> Side:
    """Do the units that are not stored yet; outcomes by stage, in sample order."""
    total = len(plan.x)
    outcomes: dict[str, list[Outcome]] = {}
    for unit in units:
        size, start, stage = unit.stop - unit.start, unit.start, unit.stage
        watch(stage, start, total)
        outcome = store.load(unit.key)
        if outcome is None or any(len(outcome.tensors.get(name, ())) != size for name in _expected(unit)):

            def step(done: int, of: int, size: int = size, start: int = start, stage: str = stage) -> None:
                watch(stage, start + size * done // max(of, 1), total)

            outcome = work(unit, step)
            outcome = Outcome(tensors={k: v.detach().cpu() for k, v in outcome.tensors.items()}, facts=outcome.facts)
            store.save(unit.key, outcome)
        outcomes.setdefault(stage, []).append(outcome)
        watch(stage, unit.stop, total)
    return Side(outcomes=outcomes)


def _expected(unit: Unit) -> tuple[str, ...]:
    return ("points",) if unit.kind == "attack" else ("radii",)
