"""Re-weighting threats measured: the solver against scipy, its speed, and brackets of real networks.

python benchmarks/reweighting.py solver speed --out benchmarks/records/reweighting.json
python benchmarks/reweighting.py networks --shared ../shared/data --out benchmarks/records/reweighting.json

"solver": values and weights of random losses against SLSQP on the primal (n = 20, 100) and against nested bisections of the
two dual equations (scipy's brentq, n = 1,000). "speed": one list of n losses against scipy's bounded scalar minimisation of
the same dual. "networks": `wassertight evaluate` under re-weighting threats. Parts are added to the record one by one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import logsumexp

import wassertight as wt
from wassertight.transport import KL, AlphaDivergence, worst_weights

ORDERS = (1.0, 0.0, 0.5, 2.0, 3.0, -1.0)
NETWORKS = {
    "digits-cnn-robust": ("digits", "0.05"),
    "digits-mlp": ("digits", "0.02"),
    "mnist_mlpB_adv_0.1": ("mnist.npz", "0.05"),
    "cifar_cnn_a_adv": ("cifar10_subset.npz", "2/255"),
}


def divergence(w: np.ndarray, a: float) -> float:
    """D_a by definition."""
    u = w - 1
    log = np.where(np.abs(u) < 0.5, np.log1p(np.clip(u, -0.5, None)), np.log(np.maximum(w, 1e-300)))
    if a == 1:
        return float(np.mean(np.where(w > 0, w * log, 0) - u))
    return float(np.mean(u - log if a == 0 else (np.expm1(a * log) - a * u) / (a * (a - 1))))


def by_slsqp(losses: np.ndarray, a: float, radius: float) -> float:
    """The primal value, in the variable (w - 1) / sqrt(2 radius)."""
    size, n = math.sqrt(2 * radius), len(losses)

    def weights(v: np.ndarray) -> np.ndarray:
        return np.maximum(1 + size * v, 1e-12)

    def slope(v: np.ndarray) -> np.ndarray:
        w = weights(v)
        return -(np.log(w) if a == 1 else (w ** (a - 1) - 1) / (a - 1)) * size / radius / n

    found = minimize(
        lambda v: -np.mean(v * losses), 0.5 * (losses - losses.mean()) / losses.std(), jac=lambda v: -losses / n,
        method="SLSQP", bounds=[(-1 / size, None)] * n, options={"maxiter": 500, "ftol": 1e-15},
        constraints=[
            {"type": "ineq", "fun": lambda v: 1 - divergence(weights(v), a) / radius, "jac": slope},
            {"type": "eq", "fun": np.mean, "jac": lambda v: np.ones(n) / n},
        ],
    )  # fmt: skip
    return float(losses.mean() - size * found.fun)


def by_bisection(losses: np.ndarray, a: float, radius: float) -> np.ndarray:
    """Weights from the dual equations E[w] = 1 (shift) and D(w) = radius (price), one inside the other."""
    top = losses.max()

    def weights(lam: float) -> np.ndarray:
        def at(nu: float) -> np.ndarray:
            y = (losses - nu) / lam
            return np.exp(y) if a == 1 else np.maximum(1 + (a - 1) * y, 0 if a > 1 else 1e-300) ** (1 / (a - 1))

        low = top - lam * 40 if a <= 1 else top - lam * (len(losses) ** (a - 1) + 40)
        low = max(low, top - lam / (1 - a) * (1 - 1e-15)) if a < 1 else low
        return at(
            brentq(lambda nu: at(nu).mean() - 1, low, top + 1e-12 + lam * 1e-12, xtol=1e-15, rtol=1e-15, maxiter=300)
        )

    sd = losses.std()
    guess = sd / math.sqrt(2 * radius)
    lam = brentq(
        lambda s: math.log(divergence(weights(math.exp(s)), a) / radius),
        math.log(guess) - 2,
        math.log(guess) + 2,
        xtol=1e-14,
    )
    return weights(math.exp(lam))


def solver() -> list[dict[str, Any]]:
    """Largest differences over draws, relative to the losses' standard deviation."""
    rows = []
    for a in ORDERS:
        for n in (20, 100, 1000):
            value, weight, spent = 0.0, 0.0, 0.0
            for seed, radius in ((0, 1e-8), (1, 1e-4), (2, 0.05), (3, 0.3)):
                losses = np.random.default_rng(seed).gamma(2.0, 1.0, n)
                found = worst_weights(AlphaDivergence(order=a), torch.from_numpy(losses), radius)
                if n <= 100 and (a >= 1 or n == 20):  # below order 1 SLSQP steps out of the domain on longer lists
                    value = max(value, abs(float(found.value) - by_slsqp(losses, a, radius)) / losses.std())
                else:
                    w = by_bisection(losses, a, radius)
                    value = max(value, abs(float(found.value) - float(np.mean(w * losses))) / losses.std())
                    weight = max(weight, float(np.abs(w - found.density.numpy()).max()))
                spent = max(spent, float(found.spent) / radius - 1)
            rows.append({"order": a, "n": n, "reference": "SLSQP, primal" if weight == 0 else "bisection of both dual equations",
                         "value": float(value), "weights": weight or None, "overspent": spent})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def median_time(work: Callable[[], object], least: float = 0.3) -> float:
    """Median seconds of a call, repeated for a while."""
    times: list[float] = []
    while sum(times) < least or len(times) < 5:
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return sorted(times)[len(times) // 2]


def scipy_kl(losses: np.ndarray, eps: float) -> float:
    """Bounded minimisation of the dual in the price."""

    def dual(lam: float) -> float:
        return lam * eps + lam * float(logsumexp(losses / lam) - math.log(len(losses)))

    return float(minimize_scalar(dual, bounds=(1e-3, 1e3), method="bounded", options={"xatol": 1e-10}).fun)


def scipy_chi2(losses: np.ndarray, eps: float) -> float:
    """Bounded minimisation of the one-dimensional formula in the shift; it yields no weights."""

    def dual(nu: float) -> float:
        return nu + math.sqrt((1 + 2 * eps) * float(np.mean(np.maximum(losses - nu, 0) ** 2)))

    bounds = (losses.min() - 100, losses.max())
    return float(minimize_scalar(dual, bounds=bounds, method="bounded", options={"xatol": 1e-10}).fun)


def speed() -> list[dict[str, Any]]:
    """Milliseconds a list of n losses, and a thousand lists of 128 together."""
    rows: list[dict[str, Any]] = []
    eps = 0.1
    for n in (128, 1024, 10_000, 100_000):
        losses = np.random.default_rng(0).gamma(2.0, 1.0, n)
        tensor = torch.from_numpy(losses)
        for name, kind, other in (("KL", KL, scipy_kl), ("alpha2", AlphaDivergence(order=2.0), scipy_chi2)):
            ours = 1e3 * median_time(partial(worst_weights, kind, tensor, eps))
            theirs = 1e3 * median_time(partial(other, losses, eps))
            found = worst_weights(kind, tensor, eps)
            rows.append({"n": n, "divergence": name, "ours_ms": ours, "scipy_ms": theirs, "ratio": theirs / ours,
                         "scipy_minus_ours": other(losses, eps) - float(found.value), "steps": found.steps})  # fmt: skip
            print(rows[-1], flush=True)
    many = np.random.default_rng(0).gamma(2.0, 1.0, (1000, 128))
    ours = 1e3 * median_time(partial(worst_weights, KL, torch.from_numpy(many), eps))
    theirs = 1e3 * median_time(lambda: [scipy_kl(row, eps) for row in many[:50]]) * 20
    rows.append({"n": "1000 x 128", "divergence": "KL", "ours_ms": ours, "scipy_ms": theirs, "ratio": theirs / ours})
    print(rows[-1])
    return rows


def networks(shared: Path, names: list[str], found: dict[str, Any]) -> None:
    """Brackets with their splits, n = 100."""
    for name in names:
        source, reach = NETWORKS[name]
        threats = [f"KL+Linf@0.01:0.1:0.5,{reach}", f"KL+W1-Linf@0.1,{reach}", f"alpha2+Linf@0.1,{reach}"]
        model = wt.load_model(name if source == "digits" else f"{shared / 'manifest.json'}#{name}").model
        data = wt.load_data(source if source == "digits" else str(shared / source), n=100)
        begun = time.perf_counter()
        report = wt.benchmark(model, data, threats, preset="quick", progress=False)
        assert report.ok
        found[name] = {
            "seconds": round(time.perf_counter() - begun, 1),
            "curve": next(
                curve.model_dump(mode="json") for curve in report.record.curves if (curve.family or "").startswith("KL, moves within")
            ),
            "results": [
                {"threat": one.threat, "clean": one.clean, "attacked": one.attacked, "certified": one.certified,
                 "reweighting": None if one.reweighting is None else one.reweighting.model_dump(mode="json")}
                for one in report.results
            ],
        }  # fmt: skip
        for one in found[name]["results"]:
            print(name, {key: one[key] for key in ("threat", "clean", "attacked", "certified")}, flush=True)


def main() -> None:
    """Run the parts asked for and add them to the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("solver", "speed", "networks"))
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--network", nargs="+", default=list(NETWORKS))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    record = json.loads(given.out.read_text()) if given.out is not None and given.out.exists() else {}
    for part in given.parts:
        if part == "networks":
            networks(given.shared, given.network, record.setdefault("networks", {}))
        else:
            record[part] = solver() if part == "solver" else speed()
        if given.out is not None:
            given.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
