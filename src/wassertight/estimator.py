"""The scikit-learn face: a classifier with `fit` and `predict` that is trained against a threat and says what it withstands."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from wassertight.errors import InputError
from wassertight.evaluation import Report, benchmark
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel, threat
from wassertight.training import Settings, make_objective, train
from wassertight.types import Bounds

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "WassersteinRobustClassifier needs scikit-learn 1.6 or newer: pip install 'scikit-learn>=1.6'. Everything else in "
        "wassertight works without it; robust_loss trains inside a loop of your own"
    ) from error

if TYPE_CHECKING:
    from sklearn.utils import Tags

_HIDDEN = 64


class Standardise(nn.Module):
    """`(x - mean) / std`, one mean and deviation a feature, so that radii keep the unit of the inputs.

    >>> Standardise(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))(torch.tensor([[2.0, 1.0]])).tolist()
    [[1.0, 0.0]]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        std = x.std(0, correction=0)
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("std", torch.where(std > 0, std, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class WassersteinRobustClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A neural classifier trained so that it withstands a threat, with the manners of a scikit-learn estimator.

    Problem: minimise the objective's robust loss over networks; see the objective's own docstring.

    Args:
        module: the network: None for an MLP of two hidden layers of 64 that standardises its inputs; an nn.Module, of
            which `fit` trains a copy (from the weights it has: fine-tuning); or a function of `(input_shape, n_classes)`
            that returns one. Radii are in the unit of X: scaling belongs inside the network.
        objective: a name from `wassertight list objectives`, for example "trades", "knapsack", "pgd+awp".
        threat: what to withstand, a threat string with one radius or a threat object; "knapsack" takes W1 too.
        bounds: the box in which X lives and the adversary stays, for example (0, 1) for images. None, the default, is the
            whole space, which is the honest choice for features without limits.
        epochs, batch_size, learning_rate, optimiser: of the training; batches are never larger than the data.
        objective_settings: settings of the objective, for example {"beta": 3.0}.
        training_settings: any other field of `wassertight.training.Settings`, for example {"ema": 0.995}.
        device: "auto" or "cpu".
        random_state: None, an int or a RandomState; an int makes `fit` repeatable.
        verbose: whether to show a progress bar.

    Attributes:
        module_: the trained network, in eval mode; float32 logits for float32 inputs.
        classes_: the labels, sorted.
        n_features_in_, input_shape_: features in all, and the shape of one sample.
        history_: one row of numbers an epoch.

    Inputs are arrays or tensors (n, d) or image-shaped (n, *features); they are read as float32. Labels are of any type.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> robust = WassersteinRobustClassifier(threat="W2-L2@0.1", epochs=5, random_state=0).fit(X, y)
    >>> report = robust.bracket(X[::10], y[::10])
    >>> report.certified <= report.attacked <= robust.score(X[::10], y[::10]) > 0.8
    True
    """

    def __init__(
        self,
        module: nn.Module | Callable[[tuple[int, ...], int], nn.Module] | None = None,
        objective: str = "trades",
        threat: str | ThreatModel = "W2-L2@0.1",
        *,
        bounds: Bounds = None,
        epochs: int = 30,
        batch_size: int = 64,
        learning_rate: float = 0.01,
        optimiser: str = "adam",
        objective_settings: Mapping[str, Any] | None = None,
        training_settings: Mapping[str, Any] | None = None,
        device: str = "auto",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.module = module
        self.objective = objective
        self.threat = threat
        self.bounds = bounds
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.optimiser = optimiser
        self.objective_settings = objective_settings
        self.training_settings = training_settings
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike) -> WassersteinRobustClassifier:
        """Train a network on samples (n, *features) and labels (n,).

        Raises:
            ValueError: NaN, shapes that do not fit, fewer than two classes, settings that cannot be used.
            TypeError: sparse input.
            TrainingError: a loss that diverges.
        """
        shape = _sample_shape(X)
        checked, labels = validate_data(self, _flat(X), y, dtype=np.float32)
        check_classification_targets(labels)
        classes, index = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"a classifier needs two classes or more, got one class: {classes.tolist()}")
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        self.classes_, self.input_shape_ = classes, shape or checked.shape[1:]
        inputs, targets = self._shaped(checked), torch.from_numpy(index.astype(np.int64))
        settings = Settings(
            **{
                "epochs": self.epochs, "batch_size": min(self.batch_size, len(inputs)), "rate": self.learning_rate,
                "optimiser": self.optimiser, "seed": seed, **(self.training_settings or {}),
            }
        )  # fmt: skip
        objective = make_objective(self.objective, self._ball(), self.objective_settings)
        trained = train(
            self._network(inputs, len(classes), seed), (inputs, targets), objective, settings,
            device=self.device, bounds=self.bounds, progress=self.verbose,
        )  # fmt: skip
        self.module_, self.history_ = trained.model, trained.history
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most likely label of every sample, (n,)."""
        picked = self._logits(X).argmax(1)
        return self.classes_[picked]  # type: ignore[no-any-return]

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Softmax of the network's logits, (n, classes): scores of a network trained to be robust, not calibrated."""
        return torch.from_numpy(self._logits(X)).softmax(1).numpy()

    def decision_function(self, X: ArrayLike) -> NDArray[Any]:
        """Logits, (n, classes); with two classes their difference, (n,), positive for the second."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def bracket(
        self,
        X: ArrayLike,
        y: ArrayLike,
        threat: str | ThreatModel | list[str | ThreatModel] | None = None,
        **options: Any,
    ) -> Report:
        """Certified, attacked and clean accuracy on samples that were not trained on.

        Args:
            X, y: samples and labels.
            threat: as for `wassertight.benchmark`; by default the one that was trained against.
            options: of `wassertight.benchmark`: attack, certificate (None leaves the proof out), seed, run_dir, ...

        Returns:
            A Report: `certified <= worst-case accuracy <= attacked <= clean`.
        """
        inputs = self._inputs(X)
        labels = np.asarray(y)
        if labels.shape != (len(inputs),):
            raise InputError(f"y must have shape ({len(inputs)},), one label a sample, got {labels.shape}")
        unknown = sorted(set(labels.tolist()) - set(self.classes_.tolist()), key=str)
        if unknown:
            raise InputError(f"labels {unknown} were not there when it was fitted; known: {self.classes_.tolist()}")
        index = torch.from_numpy(np.searchsorted(self.classes_, labels).astype(np.int64))
        given = {"bounds": self.bounds, "device": self.device, "progress": self.verbose, "data_name": "X", **options}
        return benchmark(self.module_, (inputs, index), self._ball() if threat is None else threat, **given)

    def _ball(self) -> ThreatModel:
        return threat(self.threat, self.bounds) if isinstance(self.threat, str) else self.threat

    def _network(self, x: Tensor, classes: int, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.module is None:
                d = x[0].numel()
                body = [nn.Linear(d, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU()]
                return nn.Sequential(nn.Flatten(), Standardise(x.flatten(1)), *body, nn.Linear(_HIDDEN, classes))
            if isinstance(self.module, nn.Module):
                network = copy.deepcopy(self.module)
            else:
                network = self.module(tuple(x.shape[1:]), classes)
        with ModelQueries(network) as queries:
            got = queries.logits(x[:2]).shape[1]
        if got != classes:
            raise InputError(f"the module returns {got} logits, y holds {classes} classes; they must agree")
        return network

    def _logits(self, X: ArrayLike) -> NDArray[Any]:
        inputs = self._inputs(X)
        with ModelQueries(self.module_) as queries:
            return queries.logits(inputs).numpy()

    def _inputs(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self)
        shape = _sample_shape(X)
        if shape is not None and shape != self.input_shape_:
            raise InputError(f"samples must have shape {self.input_shape_} as in fit, got {shape}")
        return self._shaped(validate_data(self, _flat(X), dtype=np.float32, reset=False))

    def _shaped(self, x: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).reshape(-1, *self.input_shape_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def _sample_shape(X: Any) -> tuple[int, ...] | None:
    """Shape of one sample where samples are image-shaped; None for tables and all that scikit-learn is to judge."""
    shape = getattr(X, "shape", ())
    return tuple(int(size) for size in shape[1:]) if len(shape) > 2 else None


def _flat(X: Any) -> Any:
    return X if _sample_shape(X) is None else np.asarray(X).reshape(len(X), -1)
