"""The scikit-learn face: scikit-learn's own checks, pipelines and grids, images, labels of any kind, the bracket."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import wassertight as wt

pytest.importorskip("sklearn")

from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wassertight.estimator import WassersteinRobustClassifier

QUICK: dict[str, Any] = {"epochs": 10, "objective_settings": {"steps": 2}, "device": "cpu", "random_state": 0}
CHECKS = """
import warnings
from sklearn.utils.estimator_checks import check_estimator
from wassertight.estimator import WassersteinRobustClassifier
warnings.simplefilter("ignore")
robust = WassersteinRobustClassifier(epochs=8, objective_settings={"steps": 1}, device="cpu")
results = check_estimator(robust, on_fail=None, on_skip=None, expected_failed_checks={})
for result in results:
    print(result["check_name"], result["status"], result["exception"] or "")
"""
"""All of scikit-learn's checks: none is declared as not applicable. In a process without the suite's type checker."""


def blobs(n: int = 120, d: int = 3, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(n) % k
    return rng.normal(size=(k, d))[y] * 3 + rng.normal(size=(n, d)) * 0.5, y


def test_scikit_learns_checks() -> None:
    done = subprocess.run([sys.executable, "-c", CHECKS], capture_output=True, text=True, check=True)
    statuses = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("check_")]
    assert {status for status in statuses if status != "skipped"} == {"passed"}, done.stdout
    assert statuses.count("passed") > 45


def test_fit_predict_and_the_bracket() -> None:
    x, y = blobs()
    names = np.array(["ant", "bee", "cat"], dtype=object)[y]
    robust = WassersteinRobustClassifier(threat="W2-L2@0.3", **QUICK).fit(x[::2], names[::2])
    assert robust.classes_.tolist() == ["ant", "bee", "cat"]
    assert (robust.n_features_in_, robust.input_shape_) == (3, (3,))
    assert robust.score(x[1::2], names[1::2]) > 0.8
    proba, scores = robust.predict_proba(x), robust.decision_function(x)
    assert proba.shape == scores.shape == (120, 3)
    assert np.allclose(proba.sum(1), 1)
    assert (robust.classes_[scores.argmax(1)] == robust.predict(x)).all()
    report = robust.bracket(x[1::2], names[1::2])
    assert report.clean == pytest.approx(robust.score(x[1::2], names[1::2]))
    assert 0 < report.certified <= report.attacked <= report.clean
    assert report.results[0].threat == "W2-L2@0.3"
    wider = robust.bracket(x[1::2], names[1::2], "W1-L2@1", certificate=None)
    assert wider.certified is None
    assert wider.attacked < report.attacked
    with pytest.raises(ValueError, match="dog"):
        robust.bracket(x[:1], ["dog"])


def test_radii_are_in_the_unit_of_the_inputs() -> None:
    x, y = blobs(60, k=2)
    small = WassersteinRobustClassifier(threat="Linf@0.1", **QUICK).fit(x, y)
    large = WassersteinRobustClassifier(threat="Linf@100", **QUICK).fit(1000 * x, y)
    assert small.decision_function(x).shape == (60,)
    assert np.allclose(small.predict_proba(x), large.predict_proba(1000 * x), atol=0.05)
    assert small.bracket(x, y).certified == pytest.approx(large.bracket(1000 * x, y).certified, abs=0.05)


def test_clone_repeats_and_the_callers_module_is_left_alone() -> None:
    x, y = blobs()
    torch.manual_seed(3)
    own = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))
    before = own[0].weight.detach().clone()
    state = torch.get_rng_state()
    robust = WassersteinRobustClassifier(own, "pgd", "Linf@0.1", **QUICK).fit(x, y)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(own[0].weight, before)
    again = clone(robust).set_params(verbose=False).fit(x, y)
    assert np.array_equal(again.predict_proba(x), robust.predict_proba(x))
    assert robust.get_params()["module"] is own
    with pytest.raises(ValueError, match="returns 3 logits, y holds 2 classes"):
        clone(robust).fit(x, y % 2)


def test_pipeline_and_grid() -> None:
    x, y = blobs()
    grid = GridSearchCV(
        make_pipeline(StandardScaler(), WassersteinRobustClassifier(**QUICK)),
        {"wassersteinrobustclassifier__objective": ["standard", "pgd"]},
        cv=2,
    )
    with pytest.raises(ValueError, match="standard"):
        grid.set_params(error_score="raise").fit(x, y)  # "standard" has no setting "steps": said, not swallowed
    name = "wassersteinrobustclassifier__threat"
    grid.set_params(param_grid={name: ["W2-L2@0.1", "W2-L2@5"]}).fit(x, y)
    assert grid.best_params_ == {name: "W2-L2@0.1"}
    assert grid.score(x, y) > 0.9


def test_grid_by_attacked_accuracy() -> None:
    x, y = blobs(60)

    def attacked(model: WassersteinRobustClassifier, x: np.ndarray, y: np.ndarray) -> float:
        return float(model.bracket(x, y, "Linf@0.5", certificate=None).attacked or 0.0)

    grid = GridSearchCV(WassersteinRobustClassifier(**QUICK), {"epochs": [1, 10]}, cv=2, scoring=attacked).fit(x, y)
    assert grid.best_params_ == {"epochs": 10}


def test_images_with_a_network_of_ones_own() -> None:
    data = wt.load_data("digits", split="train", n=300)
    x, y = data.x.numpy(), data.y.numpy()

    def build(shape: tuple[int, ...], classes: int) -> nn.Module:
        assert shape == (1, 8, 8)
        return nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, classes))

    robust = WassersteinRobustClassifier(build, "trades", "Linf@0.05", bounds=(0, 1), batch_size=30, **QUICK)
    robust.fit(x, y)
    assert (robust.n_features_in_, robust.input_shape_) == (64, (1, 8, 8))
    assert robust.score(data.x, y) > 0.6  # tensors too
    report = robust.bracket(x[:20], y[:20])
    assert report.certified <= report.attacked <= report.clean
    with pytest.raises(ValueError, match=r"shape \(1, 8, 8\) as in fit"):
        robust.predict(x[:, 0])
    with pytest.raises(ValueError, match="box"):
        clone(robust).fit(2 * x, y)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.full((4, 2), np.nan), [0, 1, 0, 1], "NaN"),
        (np.full((4, 1, 2, 2), np.nan), [0, 1, 0, 1], "NaN"),
        (sparse.csr_array(np.eye(4)), [0, 1, 0, 1], "[Ss]parse"),
        (np.eye(4), [1, 1, 1, 1], "one class"),
        (np.eye(4), [0.1, 0.2, 0.3, 0.4], "continuous"),
    ],
)
def test_what_it_refuses(x: Any, y: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        WassersteinRobustClassifier(**QUICK).fit(x, y)


def test_without_scikit_learn_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['sklearn.base'] = None\nimport wassertight as wt\nwt.WassersteinRobustClassifier"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'scikit-learn>=1.6'" in done.stderr
