"""Carries out a plan unit by unit, stores every unit when done, and concludes; `benchmark` is the one-line way in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wassertight.attacks import Problem, SmoothedFrankWolfe
from wassertight.certificates import Auto
from wassertight.certificates.smoothing import Smoother
from wassertight.evaluation.certify import certify_units, no_certificate, probe, uppers
from wassertight.evaluation.conclusion import Side, conclude_run
from wassertight.evaluation.plan import Plan, Unit, make_plan
from wassertight.evaluation.refine import refine
from wassertight.evaluation.result import Report
from wassertight.evaluation.sanity import check_answers, class_flags, mode_flags, model_flags
from wassertight.evaluation.sharpen import sharpen
from wassertight.evaluation.smoothed import execute_smoothed
from wassertight.evaluation.store import Outcome, Store, Watch
from wassertight.evaluation.units import carry_out
from wassertight.evaluation.watching import watching
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel
from wassertight.types import Bounds, InputError, Model, UnsupportedLayerError


def benchmark(
    model: Model,
    data: Any,
    threat: str | ThreatModel | Sequence[str | ThreatModel],
    *,
    n_examples: int | None = None,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    seed: int = 0,
    run_dir: str | Path | None = None,
    attack: Any = "wda++",
    certificate: Any = "crown",
    bounds: Bounds = (0.0, 1.0),
    attack_options: Mapping[str, Any] | None = None,
    certificate_options: Mapping[str, Any] | None = None,
    skip_unsupported: bool = False,
    preset: str | None = None,
    draws: int | None = None,
    progress: bool | Watch = True,
    model_name: str | None = None,
    data_name: str | None = None,
) -> Report:
    """Bracket a classifier's worst-case accuracy: certified below, attacked above.

    Problem: `min over laws Q with W_p(Q, P_n) <= radius of Q(argmax f(z) = y)`, P_n the law of the samples. An attack's
    flip distances give an upper bound, a certificate's radii a proved lower bound, both through the exact knapsack.

    Args:
        model: any callable from (n, *features) to logits (n, classes); left as it was.
        data: a pair (x, y) of tensors or arrays, a torch Dataset, a DataLoader, or what `load_data` returns.
        threat: a threat string ("W1-Linf@8/255", radii separated by commas; "KL+Linf@0.1,8/255"), a threat object, or a list of both.
        n_examples: the first so many samples; None for all.
        batch_size: samples a unit of work: passes run in such batches, and a killed run loses at most one unit.
        device: "auto", "cpu", "cuda", ...
        seed: of every random draw.
        run_dir: where to keep the run; the same call again resumes it. None keeps nothing on disk.
        attack, certificate: a name from `wassertight list methods`, a method object, or None to leave that side out.
        bounds: the box inputs live in, in the unit of the radii; None for the whole space.
        attack_options, certificate_options: settings of methods given by name.
        skip_unsupported: leave the certified side out, with a flag, where the certificate cannot read the model.
        preset: passes of 'wda++' and 'min-norm' by name: "quick" (about 100 a sample), "strong" (about 2,000), or "auto":
            quick, and after the certificate strong where the bracket is open and the threats' values depend on it.
        draws: attack the mean logits of so many draws of a randomised model (EOT); without it such a model is refused.
        progress: True for bars on standard error, False for none, or a function (stage, done, total).
        model_name, data_name: names for the record.

    Returns:
        A Report: `report.clean`, `report.attacked`, `report.certified` of the first threat, `report.results` of all.

    Raises:
        WassertightError: inputs, model, threat or run directory that cannot be used.

    Reference: the knapsack is the 0-1 case of the duality in 2306.09844 and 2510.10000.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    >>> weight, bias = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([-0.5, 0.5])
    >>> _ = model[0].load_state_dict({"weight": weight, "bias": bias})
    >>> x, y = torch.tensor([[0.7, 0.5], [0.9, 0.5]]), torch.tensor([0, 0])
    >>> report = benchmark(model, (x, y), "W1-L2@0.1", progress=False)
    >>> round(report.clean, 4), round(report.attacked, 4), round(report.certified, 4)
    (1.0, 0.5, 0.5)
    """
    plan = make_plan(
        model,
        data,
        threat,
        n_examples=n_examples,
        batch_size=batch_size,
        device=device,
        seed=seed,
        attack=attack,
        certificate=certificate,
        bounds=bounds,
        attack_options=attack_options,
        certificate_options=certificate_options,
        skip_unsupported=skip_unsupported,
        preset=preset,
        draws=draws,
        model_name=model_name,
        data_name=data_name,
    )
    return execute(plan, run_dir=run_dir, progress=progress)


def execute(plan: Plan, *, run_dir: str | Path | None = None, progress: bool | Watch = True) -> Report:
    """Do the units of a plan that are not done yet, then conclude and store the record."""
    if isinstance(plan.certificate, Smoother) or isinstance(plan.attack, SmoothedFrankWolfe):
        with _placed(plan.model, plan.device):
            return execute_smoothed(plan, run_dir=run_dir, progress=progress)
    store = Store(None if run_dir is None else Path(run_dir))
    flags = mode_flags(plan.model)
    with _placed(plan.model, plan.device), ModelQueries(plan.model, batch_size=plan.batch_size) as queries:
        torch.manual_seed(plan.seed)
        clean = check_answers(queries, plan.x, plan.y)
        gradients = plan.attack is not None and getattr(plan.attack, "needs_gradients", True)
        flags += model_flags(queries, plan.x, plan.y, clean, gradients=gradients)
        flags += class_flags(plan.attack, clean.shape[1])
        certify = plan.certificate is not None
        try:
            probe(plan, store)
        except UnsupportedLayerError as error:
            if not plan.skip_unsupported or plan.attack is None:
                raise
            certify = False
            flags.append(no_certificate(plan, error))
        store.claim(plan.configuration)
        with watching(progress) as watch:
            attack = _attack(plan, store, watch)
            certificate = Side(outcomes={})
            if certify:
                known = uppers(plan, attack)
                certificate = certify_units(plan, store, watch, known)
                if isinstance(plan.certificate, Auto):
                    certificate = sharpen(plan, store, watch, queries, certificate, known)
            if plan.refine:
                attack = refine(plan, store, watch, queries, attack, certificate)
        record, arrays = conclude_run(plan, queries, clean, attack, certificate, flags)
    if store.path is None:
        record = record.model_copy(update={"arrays": None})
    store.finish(record.to_json(), arrays)
    return Report(record=record, arrays=arrays, run_dir=store.path)


def _attack(plan: Plan, store: Store, watch: Watch) -> Side:
    def work(unit: Unit, step: Callable[[int, int], None]) -> Outcome:
        part = slice(unit.start, unit.stop)
        begun = time.perf_counter()
        with ModelQueries(plan.model, batch_size=plan.batch_size) as queries:
            torch.manual_seed(unit.seed)
            problem = Problem(
                queries=queries, x=plan.x[part], y=plan.y[part], threat=unit.threat, seed=unit.seed, progress=step
            )
            found = plan.attack.find(problem)
            passes = queries.passes
        tensors = {"points": found.points}
        if found.measure is not None:
            measure = found.measure
            tensors |= {"atoms": measure.atoms, "weights": measure.weights, "sources": measure.sources}
        facts = {
            "forward": passes.forward,
            "backward": passes.backward,
            "steps": found.steps,
            "status": found.status.value,
            "price": found.price,
            "seconds": time.perf_counter() - begun,
        }
        return Outcome(tensors=tensors, facts=facts)

    return carry_out(plan, store, watch, list(plan.units("attack")), work)


@contextmanager
def _placed(model: Model, device: torch.device) -> Iterator[None]:
    """The module on the run's device, and back where it was afterwards."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if not isinstance(model, nn.Module) or parameter is None or parameter.device == device:
        yield
        return
    if len({item.device for item in model.parameters()}) > 1:
        raise InputError("the model lies on several devices; give device='cpu' or move it to one device first")
    home = parameter.device
    model.to(device)
    try:
        yield
    finally:
        model.to(home)
