"""Both sides of the smoothed classifier on one figure: certified radii and confirmed flips of the same images.

python benchmarks/smoothed_bracket.py MANIFEST MNIST --out benchmarks/records/smoothed_bracket.json --figure docs/assets/smoothed_bracket

The base network of 1910.10783's authors for sigma = 0.01 under Gaussian flow noise, test images 0, 200, ..., 9800: n0 = 1000 and
n = 10000 draws, alpha = 0.05 for each radius; Frank-Wolfe at growing radii, flips confirmed by 10000 fresh votes at alpha = 0.001.
The run directory keeps what is done: the same command again goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from wassertight import benchmark
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.report import save_figure

NETWORK = "mnist_small_wasserstein_smooth_base_0.01"
THREATS = ["image-W1@0.01,0.03,0.1,0.2,0.3", "W1-image-W1@0.01,0.03,0.1,0.2"]


def main() -> None:
    """Run, or go on, and keep the summary and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs=2)
    parser.add_argument("--step", type=int, default=200)
    parser.add_argument("--attack", default="smoothed-frank-wolfe-distance")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/smoothed_bracket"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    manifest, mnist = given.files
    data = load_data(mnist, n=None)
    x, y = data.x[:: given.step], data.y[:: given.step]
    report = benchmark(
        load_model(f"{manifest}#{NETWORK}").model, (x, y), THREATS, attack=given.attack, batch_size=512,
        certificate="wasserstein-smoothing", certificate_options={"sigma": 0.01, "n": 10_000, "alpha": 0.05},
        run_dir=given.run_dir, model_name=NETWORK, data_name="MNIST",
    )  # fmt: skip
    record = report.record
    assert report.ok, record.audit.details
    summary = {
        "n": record.n, "attack": record.methods["attack"], "smoothing": record.settings["smoothing"],
        "attack settings": record.settings["attack"], "distances": record.distances.model_dump(),
        "seconds": record.seconds.model_dump(), "passes": record.passes.model_dump(),
        "results": [
            {"threat": one.threat, "clean": one.clean, "certified": one.certified, "attacked": one.attacked}
            for one in record.results
        ],
        "tightness": record.brackets[0].tightness,
    }  # fmt: skip
    print(report)
    if given.out is not None:
        given.out.write_text(json.dumps(summary, indent=1) + "\n")
    if given.figure is not None:
        save_figure(record, given.figure)


if __name__ == "__main__":
    main()
