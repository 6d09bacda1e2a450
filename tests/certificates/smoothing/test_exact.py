"""Exact votes against sampling, and the change of votes against the distance moved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wassertight.certificates import DeterministicFlowSmoothing, DeterministicSplittingSmoothing, Verdict
from wassertight.certificates.smoothing.deterministic_flow import block_sums, change_rate
from wassertight.threats import threat
from wassertight.transport.exact import image_distance
from wassertight.types import InputError

BALL = threat("image-W1@0.01")


def moved(x: Tensor, size: float) -> Tensor:
    """x with a part of its light at random other places, same light in every channel."""
    z = x * (1 - size * torch.rand_like(x))
    missing = (x - z).sum((1, 2), keepdim=True)
    place = torch.rand_like(x) ** 6
    return z + missing * place / place.sum((1, 2), keepdim=True)


def variation(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], decimals: int = 9) -> float:
    """Total variation between two finite laws of images."""
    law: dict[bytes, float] = {}
    for sign, (images, lengths) in ((1, a), (-1, b)):
        for image, length in zip(images.double().mul(10**decimals).round(), lengths.tolist(), strict=True):
            key = image.numpy().tobytes()
            law[key] = law.get(key, 0.0) + sign * length
    return sum(abs(value) for value in law.values()) / 2


@pytest.mark.parametrize("levels", [1, 3])
def test_pieces_are_the_law_of_the_cells(levels: int) -> None:
    x = torch.rand(1, 4, 4, dtype=torch.float64)
    method = DeterministicFlowSmoothing(period=0.2, levels=levels)
    images, lengths = method.pieces(x)
    assert float(lengths.sum()) == pytest.approx(1.0, abs=1e-12)
    assert len(images) <= sum(block_sums(x[None], level).numel() for level in range(levels)) + 1
    t = torch.rand(20_000, 1, 1, 1, dtype=torch.float64)
    cells = [(block_sums((x / x.sum())[None], level) / 0.2 - t).floor() for level in range(levels)]
    drawn = x.sum() * method.together(cells)
    counted = torch.full((len(drawn),), 1 / len(drawn), dtype=torch.float64)
    assert variation((images, lengths), (drawn, counted)) < 0.03


def test_a_model_that_answers_nothing_certifies_nothing() -> None:
    x, y = torch.rand(2, 1, 4, 4), torch.tensor([0, 0])

    def model(z: Tensor) -> Tensor:
        seen = (z[:, None] == x).flatten(2).all(2).any(1, keepdim=True)
        return torch.where(seen, torch.tensor([[1.0, 0.0]]), torch.nan)

    found = DeterministicFlowSmoothing(levels=2)(model, x, y, BALL)
    assert found.radii.values.tolist() == [0.0, 0.0]
    assert found.accuracy == 0.0


@pytest.mark.parametrize("r", [1.0, 2.0])
@pytest.mark.parametrize(("c", "h", "w"), [(1, 4, 4), (2, 3, 5)])
def test_votes_change_no_faster_than_light_moves(c: int, h: int, w: int, r: float) -> None:
    rates = []
    for levels in (1, 3):
        method = DeterministicFlowSmoothing(period=0.2, levels=levels)
        rate = change_rate(h, w, levels, r) / 0.2
        for size in (0.02, 0.1, 0.4):
            x = torch.rand(c, h, w, dtype=torch.float64)
            z = moved(x, size)
            distance = float(image_distance(x[None], z[None], r=r))
            changed = variation(method.pieces(x), method.pieces(z), decimals=7)
            assert changed <= rate * distance * (1 + 1e-6) + 1e-6
            rates.append(changed / (rate * distance))
    assert max(rates) > 0.3


def test_change_rate_of_block_sums() -> None:
    assert change_rate(8, 8, 1, 2.0) == change_rate(8, 8, 1, 1.0) == 2.0
    assert change_rate(8, 8, 3, 2.0) == 6.0
    assert change_rate(4, 4, 5, 2.0) == 4.0


def _bright(x: Tensor) -> Tensor:
    score = x.flatten(1).mean(1) - 0.3
    return torch.stack((score, -score), 1)


def test_certificate_is_deterministic() -> None:
    x = torch.rand(4, 1, 6, 6) / 2 + 0.3
    y = torch.tensor([0, 0, 0, 1])
    method = DeterministicFlowSmoothing(period=0.1, levels=3)
    one, two = (method(_bright, x, y, BALL) for _ in range(2))
    assert torch.equal(one.radii.values, two.radii.values)
    assert one.confidence == 1.0
    assert one.verdicts[3] is Verdict.WRONG
    assert 0 < float(one.radii.values[0]) <= method.reach(x, BALL)


def test_splitting_with_all_shifts() -> None:
    method = DeterministicSplittingSmoothing(levels=60)
    x = torch.randint(0, 256, (1, 3, 3)) / 255
    images, lengths = method.pieces(x)
    assert images.shape == (60, 1, 3, 3)
    assert float((images - x).abs().max()) <= 60 / 255 + 1e-6
    for steps in (1, 7, 20):
        z = x.clone()
        z[0, 0, 0] = ((x[0, 0, 0] * 255 + steps) if x[0, 0, 0] < 0.5 else (x[0, 0, 0] * 255 - steps)) / 255
        changed = variation((images, lengths), method.pieces(z), decimals=6)
        assert changed <= steps / 60 + 1e-9
    y = torch.tensor([0])
    found = method(_bright, x[None] * 0 + 200 / 255, y, BALL)
    assert float(found.radii.values[0]) == pytest.approx(60 / (1020 * 9 * 200 / 255), rel=1e-6)
    with pytest.raises(InputError, match="8 bits"):
        method.pieces(x + 0.001)
