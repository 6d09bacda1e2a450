"""From votes to probabilities: counting noisy answers, Clopper-Pearson bounds, what n draws can show, and prediction.

Differs from 1910.10783's code: 1. fresh noise for every image. 2. The class is picked by votes that are not used again.
3. The bound on the runner-up holds for all other classes at once (half of alpha, split over them).
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import betaincinv
from scipy.stats import binom
from torch import Tensor

from wassertight.queries import ModelQueries
from wassertight.transport.flow_noise import Noise
from wassertight.types import InputError, Model

Rule = Literal["each", "share", "all"]
"""What alpha is the error of: each radius by itself; the share of wrong radii; all radii at once."""
RULES: tuple[Rule, ...] = ("each", "share", "all")
_VALUES = 2**20
"""Values of noisy images a pass holds where no batch size is given: small enough to stay in a processor's cache."""


@dataclass(frozen=True, kw_only=True)
class VoteBounds:
    """Proved bounds on the probabilities of a smoothed classifier's answers, for n images, float64.

    Attributes:
        lower: v, at most the probability of the picked class.
        upper: v_B, at least the probability of every other class; 1 - v unless the runner-up was bounded by itself.
    """

    lower: Float[Tensor, " n"]
    upper: Float[Tensor, " n"]


def count_votes(
    queries: ModelQueries, noise: Noise, x: Float[Tensor, "n c h w"], draws: int, classes: int, batch_size: int | None
) -> Int[Tensor, "n classes"]:
    """How often each class is the answer on `draws` noisy copies of every image; NaN votes for nothing.

    Noise of the next batch is drawn by another thread while the model works on this one.
    """
    size = batch_size or max(1, min(1024, _VALUES // x[0].numel()))
    group = max(1, size // draws)
    work = [
        (part, min(size // len(part), draws - begin))
        for part in torch.split(torch.arange(len(x)), group)
        for begin in range(0, draws, size // len(part))
    ]
    votes = torch.zeros(len(x), classes + 1, dtype=torch.int64, device=x.device)

    def draw(part: Tensor, count: int) -> Tensor:
        with torch.no_grad():
            return noise(x[part.to(x.device)], count)

    with ThreadPoolExecutor(max_workers=1) as other:
        coming = other.submit(draw, *work[0])
        for index, (part, count) in enumerate(work):
            noisy = coming.result()
            if index + 1 < len(work):
                coming = other.submit(draw, *work[index + 1])
            logits = queries.logits(noisy.flatten(0, 1))
            answers = answered(logits).view(count, len(part))
            votes[part.to(x.device)] += torch.nn.functional.one_hot(answers, classes + 1).sum(0)
    return votes[:, :classes]


def answered(logits: Float[Tensor, "m classes"]) -> Int[Tensor, " m"]:
    """The class of every row; one past the last where a logit is NaN, which votes for nothing."""
    return torch.where(logits.isnan().any(1), logits.shape[1], logits.argmax(1))


def clopper_pearson(hits: Tensor, n: int, alpha: float, *, upper: bool = False) -> Float[Tensor, " m"]:
    """One-sided Clopper-Pearson bound on a probability from `hits` successes in n draws, wrong with probability alpha.

    >>> round(float(clopper_pearson(torch.tensor([10_000]), 10_000, 0.05)[0]), 5)
    0.9997
    """
    k = hits.detach().cpu().to(torch.float64).numpy()
    with np.errstate(invalid="ignore"):
        if upper:
            found = np.where(k >= n, 1.0, betaincinv(np.minimum(k, n - 1) + 1, np.maximum(n - k, 1), 1 - alpha))
        else:
            found = np.where(k <= 0, 0.0, betaincinv(np.maximum(k, 1), n - np.maximum(k, 1) + 1, alpha))
    return torch.from_numpy(np.asarray(found)).to(hits.device)


def bound_votes(
    votes: Int[Tensor, "n classes"], picked: Int[Tensor, " n"], draws: int, alpha: float, *, runner_up: bool = False
) -> VoteBounds:
    """Bounds for the picked classes from `draws` votes that did not pick them, wrong with probability alpha an image."""
    hits = votes.gather(1, picked[:, None]).squeeze(1)
    if not runner_up:
        lower = clopper_pearson(hits, draws, alpha)
        return VoteBounds(lower=lower, upper=1 - lower)
    others = votes.scatter(1, picked[:, None], -1).amax(1)
    lower = clopper_pearson(hits, draws, alpha / 2)
    upper = clopper_pearson(others, draws, alpha / 2 / (votes.shape[1] - 1), upper=True)
    return VoteBounds(lower=lower, upper=torch.minimum(upper, 1 - lower))


def best_bound(n: int, alpha: float) -> float:
    """The largest v that n draws can prove: all of them agree.

    >>> round(best_bound(10_000, 0.05), 5)
    0.9997
    """
    return float(alpha ** (1 / n))


def draws_needed(v: float, alpha: float) -> int:
    """Fewest draws that can prove a probability above v.

    >>> draws_needed(0.5, 0.001)
    10
    """
    return math.floor(math.log(alpha) / math.log(v)) + 1 if 0 < v < 1 else (1 if v <= 0 else 10**18)


def wrong_count(n: int, alpha: float, delta: float) -> int:
    """How many of n independent radii are wrong, exceeded with probability at most delta.

    >>> wrong_count(100, 0.001, 0.001)
    2
    """
    return int(binom.ppf(1 - delta, n, alpha))


def predict(votes: Int[Tensor, "n classes"], alpha: float) -> Int[Tensor, " n"]:
    """The smoothed classifier's answer, or -1: it abstains where the two most frequent classes may be tied.

    Two-sided binomial test of the top count against the second (1902.02918 PREDICT): an answer that is not the most
    likely class is given with probability at most alpha.

    >>> predict(torch.tensor([[90, 10], [52, 48]]), 0.05).tolist()
    [0, -1]
    """
    top = votes.topk(2, dim=1)
    first, second = top.values[:, 0].cpu().numpy(), top.values[:, 1].cpu().numpy()
    tied = np.minimum(1.0, 2 * binom.sf(first - 1, first + second, 0.5)) > alpha
    return torch.where(torch.from_numpy(tied).to(votes.device), -1, top.indices[:, 0])


def smoothed_answers(
    model: Model,
    noise: Noise,
    x: Float[Tensor, "n c h w"],
    *,
    draws: int = 10_000,
    alpha: float = 0.001,
    batch_size: int | None = None,
) -> Int[Tensor, " n"]:
    """What the smoothed classifier answers on every image, or -1 where it abstains (see `predict`).

    Args:
        model: callable from images (n, c, h, w) to logits (n, classes); left as it was.
        noise: the noise it is smoothed with, for example `GaussianFlowSmoothing(sigma=0.01).noise`.
        x: images (n, c, h, w).
        draws: noisy copies of every image.
        alpha: an answer that is not the most likely class is given with probability at most alpha.
        batch_size: noisy images a pass.
    """
    with ModelQueries(model, batch_size=batch_size) as queries, torch.no_grad():
        classes = queries.logits(x[:1]).shape[1]
        return predict(count_votes(queries, noise, x, draws, classes, batch_size), alpha)


def check_estimation(n0: int, n: int, alpha: float, rule: str) -> None:
    """Refuse numbers with which nothing can be estimated, or nothing can be certified.

    Raises:
        InputError: naming the fewest draws that would do.
    """
    if n0 < 1 or n < 1:
        raise InputError(f"draws must be whole numbers >= 1, got n0 = {n0} and n = {n}")
    if not 0 < alpha < 0.5:
        raise InputError(f"alpha must be a probability in (0, 0.5), for example 0.001; got {alpha}")
    if rule not in RULES:
        raise InputError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    if best_bound(n, alpha) <= 0.5:
        raise InputError(
            f"{n} draws at alpha = {alpha:g} can certify nothing, even if all agree; n must be at least "
            f"{draws_needed(0.5, alpha)}"
        )
