"""Our CROWN certificates beside auto_LiRPA 0.7.1: the same bounds, the radii and the seconds, in one process.

python benchmarks/crown_reference.py MANIFEST MNIST CIFAR --n 30 --norms Linf L2 --network cifar_wide_kw ... \
    --out benchmarks/records/crown_reference.json

Needs auto_LiRPA's source on the path, for this comparison only; it is no dependency and nothing of it is kept here:

    git clone https://github.com/Verified-Intelligence/auto_LiRPA /elsewhere/auto_LiRPA
    pip install --no-deps --target /elsewhere/packages appdirs graphviz tqdm ninja
    PYTHONPATH=src:/elsewhere/auto_LiRPA:/elsewhere/packages python benchmarks/crown_reference.py ...

On a busy machine set OMP_WAIT_POLICY=passive (else idle threads spin and are counted) and read the processor seconds.

Samples: the first n that are classified correctly. Both sides start from the distances of MinimumNorm(passes=200).

Bounds: lower bounds of `min over j of z_y - z_j` in float64 on the first --check samples at fractions of each sample's
attack distance, "ball" without the box [0, 1] and (l_inf) "box" with it; `least` and `most` (and `relative` to the size
of theirs) are the extremes of ours - theirs, so a negative `least` means that ours are looser; `looser` and `tighter`
count differences above 1e-4. Both occur: ours keep interval bounds of hidden units where they are better, and a tighter
interval may turn the slope below a ReLU, which helps or harms the margin.

Radii: theirs by 7 bisections between 0 and the attack distance in float32, at the batch size (of 1, 8, 30) that is
fastest in a trial; building their graph and the trial are not counted. Ours is LinearPropagation as a user calls it,
reading the network included, which closes the bracket to 1e-3 instead of 1/128. In l_1 and l_2 theirs has no box.
`tightness` is mean certified over mean attacked radius, `ratio` our seconds over theirs.

Favours done to theirs: in l_inf the input normalisation is folded into the input box; in l_1 and l_2 it becomes a 1 x 1
convolution (it rejects the module's buffers in patches mode); radii may differ within a batch in l_2 too; our
VisionTransformer is rewritten without shapes taken from the input and without BatchNorm1d of transposed tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
from auto_LiRPA.bound_ops import BoundConv, Interval
from torch import Tensor, nn

from wassertight.attacks import MinimumNorm
from wassertight.certificates import LinearPropagation
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.reading import read_graph
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.data import load_data
from wassertight.models import VisionTransformer, load_model
from wassertight.threats import PointwiseBall
from wassertight.types import Bounds, UnsupportedLayerError

NORMS = {"Linf": math.inf, "L2": 2.0, "L1": 1.0}
SIZES, FRACTIONS, BISECTIONS = (1, 8, 30), (0.25, 0.5, 1.0), 7


def our_margins(model: nn.Module, x: Tensor, y: Tensor, t: Tensor, r: float, bounds: Bounds) -> Tensor:
    """Our lower bound of min over j of z_y - z_j, (n,), model and x of one dtype: the only contact with our internals."""
    graph = read_graph(model, x[:2], dtype=x.dtype, device=x.device)
    with torch.no_grad():
        return Propagation(graph, r, rounding=Rounding(unit=0.0)).margins(Region.of(x, t, r, bounds), y)


def per_sample_intervals(self: BoundConv, *v: Interval, C: object = None) -> tuple[Tensor, Tensor]:
    """auto_LiRPA's intervals of a convolution, also over l_1 and l_2 balls whose radii (n, 1) differ within the batch."""
    r, radii = Interval.get_perturbation(v[0])[:2]
    if math.isinf(r):
        return LINF_INTERVALS(self, *v, C=C)
    weight, bias = v[1][0], v[2][0] if self.has_bias else None
    centre = self.F_conv(v[0][0], weight, bias, self.stride, self.padding, self.dilation, self.groups)
    width = (radii * weight.flatten(1).norm(dim=1))[:, :, None, None]  # l_2 for l_1 too, no padding: as in theirs
    return centre - width, centre + width


LINF_INTERVALS, BoundConv.interval_propagate = BoundConv.interval_propagate, per_sample_intervals


class PlainBlock(nn.Module):
    """A transformer block with constant shapes, its normalisations as scale and shift."""

    def __init__(self, block: nn.Module, tokens: int) -> None:
        super().__init__()
        self.block, self.tokens = block, tokens
        for name, norm in enumerate((block.bn1, block.bn2), 1):
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            setattr(self, f"scale{name}", nn.Parameter(scale.detach()))
            setattr(self, f"shift{name}", nn.Parameter((norm.bias - norm.running_mean * scale).detach()))

    def forward(self, x: Tensor) -> Tensor:
        block, h = self.block, x * self.scale1 + self.shift1
        dim = h.shape[-1]
        q, k, v = (
            layer(h).view(-1, self.tokens, block.heads, dim // block.heads).transpose(1, 2)
            for layer in (block.q, block.k, block.v)
        )
        weights = (q @ k.transpose(2, 3) * block.scale).softmax(-1)
        x = x + block.o((weights @ v).transpose(1, 2).reshape(-1, self.tokens, dim))
        return x + block.fc2(torch.relu(block.fc1(x * self.scale2 + self.shift2)))


class PlainTransformer(nn.Module):
    """A VisionTransformer that auto_LiRPA can trace: the class token is a constant added to zero times a token."""

    def __init__(self, source: VisionTransformer) -> None:
        super().__init__()
        self.source = source
        self.blocks = nn.ModuleList(PlainBlock(block, len(source.pos)) for block in source.blocks)
        self.first = nn.Parameter((source.pos[:1] + source.cls)[None].detach())
        self.others = nn.Parameter(source.pos[None, 1:].detach())

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.source.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((tokens[:, :1] * 0 + self.first, tokens + self.others), 1)
        for block in self.blocks:
            x = block(x)
        return self.source.head(self.source.bn(x.mean(1)))


class Reference:
    """auto_LiRPA's CROWN of one of our models under one norm."""

    def __init__(self, model: nn.Sequential, x: Tensor, r: float) -> None:
        self.r, self.size, self.scale, self.shift = r, len(x), None, None
        body = PlainTransformer(model[-1]) if isinstance(model[-1], VisionTransformer) else model[-1]
        if len(model) == 2 and math.isinf(r):
            self.scale, self.shift = (part.to(x.dtype) for part in model[0].as_affine())
        elif len(model) == 2:
            scale, shift = (part.to(x.dtype).flatten() for part in model[0].as_affine())
            layer = nn.Conv2d(len(scale), len(scale), 1).to(x.dtype)
            layer.weight.data, layer.bias.data = torch.diag(scale)[:, :, None, None], shift
            body = nn.Sequential(layer, body)
        self.network = BoundedModule(body.eval(), self._inside(x[:2]), device="cpu")
        self.network.eval()  # returns None
        with torch.no_grad():
            gap = (self.network(self._inside(x[:2])) - model(x[:2])).abs().max()
            self.classes = model(x[:1]).shape[1]
        assert gap <= 1e-4, f"its graph is not the model: logits differ by {gap:.1e}"

    def _inside(self, x: Tensor) -> Tensor:
        return x if self.scale is None else x * self.scale + self.shift

    def margins(self, x: Tensor, y: Tensor, t: Tensor, *, box: bool) -> Tensor:
        """Its lower bound of min over j of z_y - z_j, (n,)."""
        return torch.cat(
            [self._batch(*part, box) for part in zip(*(v.split(self.size) for v in (x, y, t)), strict=True)]
        )

    @torch.no_grad()
    def _batch(self, x: Tensor, y: Tensor, t: Tensor, box: bool) -> Tensor:
        eye, j = torch.eye(self.classes, dtype=x.dtype), torch.arange(self.classes).expand(len(y), -1)
        spec = eye[y][:, None] - eye[j[j != y[:, None]].view(len(y), -1)]
        if math.isinf(self.r):
            wide = t.view(-1, *(1,) * (x.ndim - 1))
            low, high = (x - wide, x + wide) if not box else ((x - wide).clamp_min(0), (x + wide).clamp_max(1))
            ball = PerturbationLpNorm(norm=math.inf, x_L=self._inside(low), x_U=self._inside(high))
        else:
            ball = PerturbationLpNorm(norm=self.r, eps=t[:, None])
        point = BoundedTensor(self._inside(x), ball)
        low, _ = self.network.compute_bounds(x=(point,), C=spec, method="CROWN", bound_upper=False)
        return low.amin(1)

    def tune(self, x: Tensor, y: Tensor, t: Tensor) -> dict[str, float]:
        """Set the batch size to the fastest one; processor seconds a sample of each that fits into memory."""
        seconds = {}
        for size in sorted({min(size, len(x)) for size in SIZES}):
            try:
                for part in (slice(0, 1), slice(0, max(4, size))):  # the first is a warm-up
                    self.size, begun = size, time.process_time()
                    self.margins(x[part], y[part], t[part], box=True)
                    seconds[size] = (time.process_time() - begun) / len(x[part])
            except RuntimeError as error:
                if "allocate" not in str(error):
                    raise
                seconds.pop(size, None)
        self.size = min(seconds, key=lambda size: seconds[size])
        return {str(size): round(value, 4) for size, value in seconds.items()}

    def radii(self, x: Tensor, y: Tensor, upper: Tensor) -> Tensor:
        """Largest verified radius of 7 bisections between 0 and `upper`, float64."""
        low, high = torch.zeros_like(upper), upper.clone()
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            good = self.margins(x, y, middle.to(x), box=True) > 0
            low, high = torch.where(good, middle, low), torch.where(good, high, middle)
        return low


def timed(task: Callable[[], Any], repeats: int) -> tuple[Any, dict[str, float]]:
    """The answer with its processor and wall seconds, the least of all repeats."""
    spent = []
    for _ in range(repeats):
        wall, process = time.perf_counter(), time.process_time()
        answer = task()
        spent.append((time.process_time() - process, time.perf_counter() - wall))
    process, wall = (round(min(column), 2) for column in zip(*spent, strict=True))
    return answer, {"process": process, "wall": wall}


def same_bounds(model: nn.Sequential, x: Tensor, y: Tensor, d: Tensor, r: float) -> dict[str, object]:
    """Differences ours - theirs in float64 at fractions of the attack distances."""
    x, found, reference = x.double(), {}, None
    for kind, bounds in (("ball", None), ("box", (0.0, 1.0))) if math.isinf(r) else (("ball", None),):
        for fraction in FRACTIONS:
            ours = our_margins(model, x, y, fraction * d, r, bounds)
            reference = reference or Reference(model, x, r)
            theirs = reference.margins(x, y, fraction * d, box=bounds is not None)
            gap = ours - theirs
            found[f"{kind}, {fraction:g} of the attack"] = {
                "least": float(f"{gap.min():.2e}"),
                "most": float(f"{gap.max():.2e}"),
                "relative": [float(f"{end:.2e}") for end in (gap / theirs.abs()).aminmax()],
                "looser": int((gap < -1e-4).sum()),
                "tighter": int((gap > 1e-4).sum()),
                "mean bound, theirs": round(float(theirs.mean()), 4),
            }
    return found


def guarded(task: Callable[[], object]) -> object:
    """What the task returns, or a line on why one side cannot do it."""
    try:
        return task()
    except UnsupportedLayerError as error:
        return f"ours: unsupported ({error})"
    except Exception as error:
        return f"theirs: {type(error).__name__} ({error})"


def compare(name: str, x: Tensor, y: Tensor, r: float, check: int, repeats: int) -> dict[str, object]:
    """Bounds, radii and seconds of one network and norm."""
    ball, model = PointwiseBall(radius=1.0, r=r), load_model(name).model
    attacked = MinimumNorm(passes=200)(model, x, y, ball).distances.values.double()
    end = torch.where(torch.isfinite(attacked), attacked, (x.flatten(1)[0].numel()) ** (0 if math.isinf(r) else 1 / r))
    record: dict[str, object] = {"samples": len(x), "attacked": round(float(end.mean()), 6)}

    def theirs() -> dict[str, object]:
        reference = Reference(model, x, r)
        trial = reference.tune(x, y, (0.5 * end).float())
        radii, seconds = timed(lambda: reference.radii(x, y, end), repeats)
        return {"batch": reference.size, "seconds a sample of a batch size": trial, **row(radii, seconds)}

    def ours() -> dict[str, object]:
        found, seconds = timed(
            lambda: LinearPropagation(tolerance=2.0**-BISECTIONS)(model, x, y, ball, upper=end), repeats
        )
        passes = round(found.passes.backward / len(x), 1)
        return {"propagations a sample": passes, **row(found.radii.values, seconds)}

    def row(radii: Tensor, seconds: dict[str, float]) -> dict[str, object]:
        above, mean = int((radii > end * (1 + 1e-6)).sum()), float(torch.minimum(radii.double(), end).mean())
        tightness = round(mean / float(end.mean()), 4)
        return {"radius": round(mean, 6), "tightness": tightness, "above the attack": above, "seconds": seconds}

    record["ours"], record["theirs"] = guarded(ours), guarded(theirs)
    if isinstance(record["ours"], dict) and isinstance(record["theirs"], dict):
        mine, other = record["ours"]["seconds"], record["theirs"]["seconds"]
        record["ratio"] = {name: round(mine[name] / other[name], 3) for name in mine}
    torch.set_default_dtype(torch.float64)  # auto_LiRPA makes some tensors of its own
    double, few = load_model(name).model.double(), slice(0, check)
    record["bounds"] = guarded(lambda: same_bounds(double, x[few], y[few], end[few], r))
    torch.set_default_dtype(torch.float32)
    return record


def main() -> None:
    """Run every network and norm, print a line and the bounds, keep the record after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs=3, help="manifest, mnist, cifar")
    parser.add_argument("--network", nargs="+", required=True)
    parser.add_argument("--n", type=int, default=30)
    parser.add_argument("--check", type=int, default=8, help="samples whose bounds are compared")
    parser.add_argument("--norms", nargs="+", default=["Linf", "L2"], choices=list(NORMS))
    parser.add_argument("--repeats", type=int, default=1, help="runs of each side; the least seconds are kept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", type=float, default=12.0, help="GiB; a batch that needs more is not tried further")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    resource.setrlimit(resource.RLIMIT_AS, (int(given.memory * 2**30), resource.RLIM_INFINITY))
    manifest, mnist, cifar = given.files
    record = json.loads(given.out.read_text()) if given.out and given.out.exists() else {}
    for network in given.network:
        data = load_data(mnist if network.startswith("mnist") else cifar, n=10 * given.n)
        with torch.no_grad():
            kept = (load_model(f"{manifest}#{network}").model(data.x).argmax(1) == data.y).nonzero().squeeze(1)
        x, y = data.x[kept[: given.n]], data.y[kept[: given.n]]
        for label in given.norms:
            entry = compare(f"{manifest}#{network}", x, y, NORMS[label], given.check, given.repeats)
            record[f"{network}, {label}"] = {"threads": given.threads, **entry}
            print(json.dumps({f"{network}, {label}": entry}, indent=1), flush=True)
            if given.out:
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
