"""Models of RobustBench's zoo by name."""

from __future__ import annotations

import contextlib
import pickle
import sys

from wassertight.errors import nearest
from wassertight.models.formats.checkpoints import tensors_only
from wassertight.models.loaded import LoadedModel
from wassertight.packages import optional_package
from wassertight.types import ModelError

_SHAPES = {"cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "imagenet": (3, 224, 224)}
_THREATS = ("Linf", "L2", "corruptions")


def load(reference: str) -> LoadedModel:
    """A model of the zoo: `name`, `name/dataset` or `name/dataset/threat`; cifar10 and Linf where left out.

    RobustBench downloads pickle files into ./models. Loading them can run code in general; here torch is told to read
    tensors only, so a file that holds anything else is refused. Its models normalise their inputs themselves.

    Raises:
        PackageError: robustbench or something it imports is absent or broken.
        ModelError: an unknown name, data set or threat, or weights that cannot be had.
    """
    name, dataset, threat = (*reference.split("/"), "", "")[:3]
    dataset, threat = dataset or "cifar10", threat or "Linf"
    if dataset not in _SHAPES or threat not in _THREATS or reference.count("/") > 2:
        raise ModelError(
            f"robustbench:{reference}: the form is name/dataset/threat, with dataset one of {', '.join(_SHAPES)} "
            f"and threat one of {', '.join(_THREATS)}"
        )
    purpose = "a model of the form robustbench:"
    with contextlib.redirect_stdout(sys.stderr):
        zoo = optional_package("robustbench.model_zoo", purpose)
        enums = optional_package("robustbench.model_zoo.enums", purpose)
        loading = optional_package("robustbench.utils", purpose)
        known = list(zoo.model_dicts[enums.BenchmarkDataset(dataset)].get(enums.ThreatModel(threat), {}))
        if name not in known:
            near = nearest(name, known, 3)
            raise ModelError(f"RobustBench has no model {name!r} for {dataset} and {threat}; nearest: {near}")
        try:
            with tensors_only():
                model = loading.load_model(name, dataset=dataset, threat_model=threat)
        except pickle.UnpicklingError as error:
            raise ModelError(
                f"robustbench:{reference}: its checkpoint holds more than tensors, so it is not opened"
            ) from error
        except Exception as error:  # downloads, archives and checkpoints fail in many ways
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"robustbench:{reference} cannot be loaded: {type(error).__name__}: {first}") from error
    return LoadedModel(
        name=f"robustbench:{reference}", model=model, input_shape=_SHAPES[dataset], dataset=dataset,
        description=f"RobustBench {name}, {dataset}, {threat}",
    )  # fmt: skip
