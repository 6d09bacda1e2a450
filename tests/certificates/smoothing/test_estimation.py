"""Estimated probabilities are bounded as often as promised; votes are counted right."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from wassertight.certificates.smoothing.estimation import (
    best_bound,
    bound_votes,
    check_estimation,
    clopper_pearson,
    count_votes,
    draws_needed,
    predict,
    smoothed_answers,
    wrong_count,
)
from wassertight.queries import ModelQueries
from wassertight.transport.flow_noise import GaussianPixels
from wassertight.types import InputError


@pytest.mark.parametrize("v", [0.6, 0.9, 0.995])
def test_clopper_pearson_covers(v: float) -> None:
    hits = torch.from_numpy(binom.rvs(1000, v, size=20_000, random_state=0))
    assert float((clopper_pearson(hits, 1000, 0.05) > v).double().mean()) <= 0.05 + 0.005
    assert float((clopper_pearson(hits, 1000, 0.05, upper=True) < v).double().mean()) <= 0.05 + 0.005
    assert clopper_pearson(torch.tensor([0, 10]), 10, 0.05).tolist() == pytest.approx([0.0, best_bound(10, 0.05)])


def test_runner_up_is_bounded_for_all_other_classes() -> None:
    votes = torch.tensor([[480, 300, 220], [900, 60, 40]])
    picked = torch.tensor([0, 0])
    one, two = (bound_votes(votes, picked, 1000, 0.01, runner_up=flag) for flag in (False, True))
    assert not bool(one.lower[0] > one.upper[0])
    assert bool(two.lower[0] > two.upper[0])
    assert bool((two.upper <= 1 - two.lower).all())


def test_prediction_abstains_on_ties_and_rarely_errs() -> None:
    assert predict(torch.tensor([[50, 50, 0], [100, 0, 0]]), 0.001).tolist() == [-1, 0]
    hits = torch.from_numpy(binom.rvs(200, 0.49, size=5000, random_state=1))
    wrong = predict(torch.stack((hits, 200 - hits), 1), 0.05) == 0
    assert float(wrong.double().mean()) <= 0.05


def test_what_draws_can_show() -> None:
    assert best_bound(draws_needed(0.9, 0.05), 0.05) > 0.9 >= best_bound(draws_needed(0.9, 0.05) - 1, 0.05)
    assert wrong_count(1000, 0.05, 0.01) == binom.ppf(0.99, 1000, 0.05)
    for bad in ({"n": 3}, {"n0": 0}, {"alpha": 0.7}, {"rule": "some"}):
        with pytest.raises(InputError):
            check_estimation(**({"n0": 10, "n": 100, "alpha": 0.05, "rule": "each"} | bad))


class _Brightest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        logits = x.flatten(1)[:, :3].clone()
        logits[x.flatten(1)[:, 3] > 1e3] = torch.nan
        return logits


@pytest.mark.parametrize("batch", [None, 7, 64])
def test_votes_are_counted_for_every_image(batch: int | None) -> None:
    x = torch.zeros(3, 1, 2, 2)
    x[0, 0, 0, 1], x[1, 0, 1, 0], x[2, 0, 1, 1] = 1.0, 1.0, 1e9
    with ModelQueries(_Brightest(), batch_size=batch) as queries:
        votes = count_votes(queries, GaussianPixels(sigma=1e-9), x, 25, 3, batch)
        passes = queries.passes.forward
    assert votes.tolist() == [[0, 25, 0], [0, 0, 25], [0, 0, 0]]
    assert passes == 75
    answers = smoothed_answers(_Brightest(), GaussianPixels(sigma=1e-9), x, draws=25, batch_size=batch)
    assert answers.tolist() == [1, 2, -1]
