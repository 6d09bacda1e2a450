"""WDA++ against the released algorithm (`mode="reference"`) at equal or fewer passes: worst-case accuracies, p = 1, 2, inf.

python benchmarks/wda_reference.py path/to/manifest.json path/to/data.npz network ... --radii 0.0039 0.0157 --norm inf
"""

from __future__ import annotations

import argparse
import math

from wassertight.attacks import WDAPlusPlus, conclude
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.queries import ModelQueries
from wassertight.threats import PointwiseBall, WassersteinBall

PRESETS = {
    "function defaults": WDAPlusPlus(mode="reference"),
    "command line (20 x 0.02, top 9)": WDAPlusPlus(mode="reference", steps=20, step=0.02, candidates=9),
}


def main() -> None:
    """Print one line a network, preset and radius."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("data")
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--radii", type=float, nargs="+", required=True)
    parser.add_argument("--norm", type=float, default=math.inf)
    parser.add_argument("--n", type=int, default=200)
    given = parser.parse_args()
    data = load_data(given.data, n=given.n)
    for network in given.networks:
        model = load_model(f"{given.manifest}#{network}").model
        for label, preset in PRESETS.items():
            for radius in given.radii:
                with ModelQueries(model, batch_size=256) as queries:
                    ball = PointwiseBall(radius=radius, r=given.norm)
                    right = int((queries.logits(data.x).argmax(1) == data.y).sum())
                    theirs = preset.find(queries, data.x, data.y, ball)
                    passes = max(30, theirs.passes.total // right)
                    ours = WDAPlusPlus(passes=passes).find(queries, data.x, data.y, ball)
                    pairs = []
                    for p in (1.0, 2.0, math.inf):
                        law = WassersteinBall(radius=radius, p=p, r=given.norm)
                        a, b = (conclude("", queries, data.x, data.y, law, found).accuracy for found in (theirs, ours))
                        pairs.append(f"p={p:g} {a:.4f} -> {b:.4f}{' (above)' if b > a + 1e-12 else ''}")
                counts = [found.passes.total / given.n for found in (theirs, ours)]
                print(
                    f"{network}, {label}, radius {radius:.4g}: passes {counts[0]:.0f} -> {counts[1]:.0f}; "
                    + "; ".join(pairs)
                )


if __name__ == "__main__":
    main()
