"""Exact minimum adversarial distances of small ReLU MLPs in l_inf, l_1 (MILP) and l_2 (branch and bound), in the box [0, 1].

python benchmarks/exact_distances.py digits-mlp digits --norm 2 --n 100 --out benchmarks/records/exact_digits-mlp_2.json
python benchmarks/exact_distances.py --check

Needs `pip install clarabel highspy`. A record holds for each sample a proved lower bound and the distance of a point
whose misclassification a float64 forward pass confirms (f_j >= f_y for some j); a started record is continued,
its unsolved samples too if --limit is larger than what was spent on them. Seconds are processor seconds, the attack
not included. `gap` is the relative difference of the bounds at which a sample counts as solved.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import exact_solvers as solvers
import numpy as np
import torch
from exact_network import Array, Bounds, Network, Region, System, propagate
from torch import nn

from wassertight.attacks import MinimumNorm
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.threats import PointwiseBall

GAPS = {math.inf: 1e-6, 1.0: 1e-6, 2.0: 1e-5}


@dataclass
class Search:
    """One sample's search; `u` and `z` are the best verified distance and point."""

    net: Network
    x: Array
    y: int
    r: float
    deadline: float
    u: float = math.inf
    z: Array = field(default_factory=lambda: np.zeros(0))
    nodes: int = 0

    def offer(self, z: Array) -> bool:
        """Take z, pushed outwards by at most 1e-6 of its length, if it is misclassified in float64 and nearer than u."""
        for push in (0.0, *10.0 ** np.arange(-14, -5.5, 0.5)):
            point = np.clip(self.x + (1 + push) * (z - self.x), 0, 1)
            logits = self.net.pre_activations(point)[-1]
            if np.delete(logits, self.y).max() >= logits[self.y]:
                distance = float(np.linalg.norm(point - self.x, self.r))
                if distance < self.u:
                    self.u, self.z = distance, point
                    return True
                return False
        return False

    def start(self, z: Array | None) -> None:
        """From an attack's point, carried to its cell's optimum, or from the size of the box if there is none."""
        if z is not None:
            self.offer(z)
        size = len(self.x)
        self.u = min(self.u, {math.inf: 1.0, 1.0: float(size)}.get(self.r, math.sqrt(size)))
        while len(self.z) and self.cell(self.z):
            pass

    def cell(self, z: Array, relative: float = 1e-9) -> bool:
        """Offer the nearest misclassified point of z's activation cell; whether u fell by more than `relative`."""
        u = self.u
        pre = self.net.pre_activations(z)
        target = max((j for j in range(len(pre[-1])) if j != self.y), key=lambda j: pre[-1][j])
        region, biases = Region.of(self.x, u, self.r), self.net.around(self.x, u)
        phases = [(np.where(s > 0, 0.0, -np.inf), np.where(s > 0, np.inf, 0.0)) for s in pre[:-1]]
        bounds = propagate(self.net.weights, biases, region, phases)
        if solvers.is_empty(bounds):
            return False
        system = System.build(
            self.net.weights, biases, region, bounds, self.net.margin(target, self.y, biases), objective=True
        )
        if self.r == 2:
            free = [(np.full_like(low, -np.inf), np.full_like(low, np.inf)) for low, _ in bounds]
            d = solvers.quadratic_program(system, bounds, free).d
        else:
            v = solvers.minimum(solvers.linear_program(system, solvers.norm_cost(system)), time.process_time() + 60)[1]
            if v is None:
                return False
            d = system.inputs @ v[: system.inputs.shape[1]]
        return bool(np.isfinite(d).all()) and self.offer(self.x + u * d) and self.u < u * (1 - relative)

    def mixed_integer(self, gap: float) -> tuple[float, str]:
        """Lower bound and status in l_inf and l_1: no target reaches y within u (1 - gap), shown by LPs and MILPs.

        The radius is fixed, which needs no row a pixel for the norm and lets LPs over margin and radius settle most
        neurons; a point found is carried to its cell's optimum and the search starts again below it.
        """
        unit, weights = self.u, self.net.weights
        biases = self.net.around(self.x, unit)
        region = Region.of(self.x, unit, self.r, 1 - gap)
        root = propagate(weights, biases, region)
        lower, status, todo = unit * (1 - gap), "solved", []
        for target in range(len(biases[-1])):
            if target != self.y:
                margin = self.net.margin(target, self.y, biases)
                system = System.build(weights, biases, region, root, margin, objective=False)
                relaxed = solvers.minimum(solvers.linear_program(system, -system.margin()), self.deadline)[0]
                if relaxed < math.inf:
                    todo.append((relaxed, target, margin, system))
        for _, _, margin, system in sorted(todo, key=lambda entry: entry[:2]):
            bounds, before = root, math.inf
            while (count := solvers.count_unstable(bounds)) < before:
                before, tight = count, solvers.tighten(system, bounds, self.deadline)
                bounds = [] if tight is None else propagate(weights, biases, region, tight)
                if tight is None or solvers.is_empty(bounds):
                    break
                system = System.build(weights, biases, region, bounds, margin, objective=False)
            if tight is None or solvers.is_empty(bounds):
                continue
            solver = solvers.linear_program(system, -system.margin(), bounds)
            solver.setOptionValue("mip_max_improving_sols", 1)
            proved, v = solvers.minimum(solver, self.deadline)
            self.nodes += max(1, int(solver.getInfo().mip_node_count))
            if proved == math.inf:
                continue
            if v is not None and self.offer(self.x + unit * (system.inputs @ v[: system.inputs.shape[1]])):
                while self.cell(self.z):
                    pass
                return self.mixed_integer(gap)
            system = System.build(weights, biases, region, bounds, margin, objective=True)
            solver = solvers.linear_program(system, solvers.norm_cost(system))
            lower, status = min(lower, solvers.minimum(solver, time.process_time() + 60)[0] * unit), "time"
        return lower, status

    def branch_and_bound(self, gap: float) -> tuple[float, str]:
        """Lower bound and status by branching on activation phases over QP relaxations (l_2)."""
        unit = self.u
        region, biases = Region.of(self.x, unit, 2.0), self.net.around(self.x, unit)
        weights = self.net.weights
        root = propagate(weights, biases, region)
        count = itertools.count()
        heap: list[tuple[float, int, int, Bounds]] = [
            (0.0, next(count), target, root) for target in range(len(biases[-1])) if target != self.y
        ]
        seen: set[bytes] = set()
        tight, visits = dict.fromkeys(range(len(biases[-1])), root), [0] * len(biases[-1])
        while heap and time.process_time() < self.deadline:
            bound, _, target, bounds = heapq.heappop(heap)
            if bound >= self.u / unit * (1 - gap):
                break
            if self.u < 0.9 * unit:  # the region, and the solvers' tolerances, are relative to unit
                return self.branch_and_bound(gap)
            self.nodes, visits[target] = self.nodes + 1, visits[target] + 1
            margin = self.net.margin(target, self.y, biases)
            if visits[target] in (40, 160):
                system = System.build(weights, biases, region, tight[target], margin, objective=True)
                better = solvers.tighten_ball(system, tight[target], self.u / unit)
                tight[target] = propagate(weights, biases, region, better)
            bounds = solvers.intersect(bounds, tight[target])
            if solvers.is_empty(bounds):
                continue
            system = System.build(weights, biases, region, bounds, margin, objective=True)
            answer = solvers.quadratic_program(system, bounds, root)
            bound = max(bound, answer.bound)
            if bound >= self.u / unit * (1 - gap):
                continue
            z = np.clip(self.x + unit * answer.d, 0, 1)
            self.offer(z)
            phases = np.concatenate([s > 0 for s in self.net.pre_activations(z)[:-1]] or [np.zeros(0)]).tobytes()
            if phases not in seen:
                seen.add(phases)
                self.cell(z)
            if bound >= self.u / unit * (1 - gap):
                continue
            layer, neuron = solvers.worst_neuron(answer.s, answer.a, answer.price, bounds)
            if layer < 0:  # every phase fixed: the bound is the cell's, closed up to the solver's accuracy
                heapq.heappush(heap, (bound, next(count), target, bounds))
                break
            for active in (True, False):
                child = [(low.copy(), high.copy()) for low, high in bounds]
                child[layer][0 if active else 1][neuron] = 0.0
                child = child[: layer + 1] + propagate(weights, biases, region, child)[layer + 1 :]
                if not solvers.is_empty(child):
                    heapq.heappush(heap, (bound, next(count), target, child))
        lower = min((entry[0] for entry in heap), default=math.inf) * unit
        lower = min(max(lower, 0.0), self.u * (1 - gap))
        return lower, "solved" if lower >= self.u * (1 - 2 * gap) else "time"


def exact_distance(
    net: Network, x: Array, y: int, r: float, start: Array | None, limit: float
) -> tuple[Search, float, str]:
    """The finished search (upper bound `u` at `z`, inf if no point was found), the lower bound and "solved" or "time"."""
    search = Search(net, x, y, r, time.process_time() + limit)
    search.start(start)
    lower, status = (search.branch_and_bound if r == 2 else search.mixed_integer)(GAPS[r])
    for weaker in (0.03, 0.1, 0.3) if status == "time" and r != 2 else ():
        search.deadline = time.process_time() + limit / 3
        lower = max(lower, min(search.mixed_integer(weaker)[0], search.u))
    if not len(search.z):  # no misclassified point known: u was the box's size only
        search.u = math.inf
    return search, lower, status


def check() -> None:
    """Linear models against the closed form; 2-8-8-3 networks against a dense grid; lower <= upper."""
    generator = torch.Generator().manual_seed(0)
    axis = np.linspace(0, 1, 1501)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    for r in (math.inf, 1.0, 2.0):
        for seed in range(6):
            torch.manual_seed(seed)
            linear = nn.Linear(12, 4)
            x = 0.5 + 0.02 * torch.randn(1, 12, generator=generator)
            y = linear(x).argmax(1)
            with torch.no_grad():  # so near that the box does not bind
                linear.bias += 0.8 * (linear(x).max() - linear(x)[0])
            net = Network.read(nn.Sequential(linear), (12,))
            search, lower, status = exact_distance(net, x[0].double().numpy(), int(y), r, None, 60)
            logits, w = net.pre_activations(x[0].double().numpy())[-1], net.weights[0]
            others, dual = [j for j in range(4) if j != int(y)], {math.inf: 1, 1.0: math.inf, 2.0: 2}[r]
            true = min((logits[int(y)] - logits[j]) / np.linalg.norm(w[int(y)] - w[j], dual) for j in others)
            assert status == "solved", (r, seed)
            assert lower <= search.u, (r, seed, lower, search.u)
            assert abs(search.u - true) <= 2e-5 * true, (r, seed, search.u, true)
        for seed in range(12):
            torch.manual_seed(100 + seed)
            model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
            for layer in model[::2]:
                nn.init.normal_(layer.weight, std=1.5)
                nn.init.normal_(layer.bias, std=0.5)
            net = Network.read(model, (2,))
            x = np.random.default_rng(seed).random(2)
            y = int(net.pre_activations(x)[-1].argmax())
            a = grid
            for k, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
                a = (np.maximum(a, 0) if k else a) @ w.T + b
            wrong = np.delete(a, y, 1).max(1) >= a[:, y]
            nearest = np.linalg.norm(grid[wrong] - x, r, axis=1).min() if wrong.any() else math.inf
            search, lower, status = exact_distance(net, x, y, r, None, 60)
            print(
                f"r={r:g} seed {seed}: [{lower:.6f}, {search.u:.6f}] {status}, grid {nearest:.6f}, {search.nodes} nodes"
            )
            assert status == "solved", (r, seed)
            assert lower <= search.u, (r, seed, lower, search.u)
            assert lower <= nearest + 1e-9, "the grid found a nearer point"
            assert nearest == math.inf or nearest <= search.u + 5e-3 or wrong.sum() < 20, "the grid found none so near"
    print("all checks passed")


def main() -> None:
    """Solve the first n correctly classified samples, write after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--norm", type=float, choices=[math.inf, 1.0, 2.0], default=math.inf)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a sample")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", action="store_true", help="test the solver itself and stop")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.check or given.model is None:
        return check()
    data, model = load_data(given.data), load_model(given.model).model
    with torch.no_grad():
        right = (model(data.x).argmax(1) == data.y).nonzero().squeeze(1)[: given.n]
    net = Network.read(model, tuple(data.x.shape[1:]))
    names = {"model": Path(given.model).stem, "data": Path(given.data).stem}
    record = {**names, "norm": str(given.norm), "gap": GAPS[given.norm]}
    columns = ("indices", "lower", "upper", "attack", "seconds", "nodes", "status")
    rows: dict[str, list[float | int | str]] = {name: [] for name in columns}
    if given.out and given.out.exists():
        old = json.loads(given.out.read_text(encoding="utf-8"))
        assert all(old[key] == value for key, value in record.items()), f"{given.out} is another record"
        kept = [k for k, s in enumerate(old["status"]) if s == "solved" or old["seconds"][k] >= given.limit]
        rows = {name: [old[name][k] for k in kept] for name in columns}
    todo = [int(i) for i in right if int(i) not in rows["indices"]]
    if todo:
        found = MinimumNorm(passes=2000)(model, data.x[todo], data.y[todo], PointwiseBall(radius=1.0, r=given.norm))
        distances, points = found.distances.values.double().numpy(), found.points.double().flatten(1).numpy()
    for place, i in enumerate(todo):
        begun = time.process_time()
        x, z = data.x[i].double().numpy().ravel(), points[place] if math.isfinite(distances[place]) else None
        search, lower, status = exact_distance(net, x, int(data.y[i]), given.norm, z, given.limit)
        seconds = time.process_time() - begun
        values = (i, lower, search.u, float(distances[place]), round(seconds, 3), search.nodes, status)
        for name, value in zip(columns, values, strict=True):
            rows[name].append(value)
        interval = f"[{lower:.8g}, {search.u:.8g}], attack {distances[place]:.8g}"
        print(f"{i}: {interval}, {seconds:.1f} s, {search.nodes} nodes, {status}", flush=True)
        if given.out:
            given.out.write_text(json.dumps({**record, "n": len(rows["indices"]), **rows}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
