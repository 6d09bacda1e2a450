"""RobustBench's `benchmark` with its own arguments, answered by ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wassertight.data import load_data
from wassertight.evaluation.result import Report
from wassertight.evaluation.run import benchmark
from wassertight.packages import optional_package
from wassertight.types import DataError, InputError, Model

_BINARY = {"cifar10": ("cifar-10-batches-bin/test_batch.bin", 1), "cifar100": ("cifar-100-binary/test.bin", 2)}
"""Pickle-free archives of the data sets' own page: the file of test images, and bytes of label before each."""
_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
_RESIZED = {
    None: "", "Res256Crop224": "?resize=256&crop=224", "Crop288": "?crop=288",
}  # fmt: skip


def robustbench_benchmark(
    model: Model,
    n_examples: int | None = 10000,
    dataset: Any = "cifar10",
    threat_model: Any = "Linf",
    to_disk: bool = False,
    model_name: str | None = None,
    data_dir: str | Path = "./data",
    corruptions_data_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 32,
    eps: float | None = None,
    log_path: str | Path | None = None,
    preprocessing: str | Callable[..., Any] | None = None,
    aa_state_path: str | Path | None = None,
    **ours: Any,
) -> Report:
    """RobustBench's one call, argument by argument; `clean, robust = robustbench_benchmark(...)`.

    Args:
        model, n_examples, batch_size, device: as there; no device means the CPU.
        dataset: "cifar10", "cifar100" or "imagenet", found under data_dir (below), or anything `wassertight.benchmark`
            takes as data, or a name `load_data` takes.
        threat_model: "Linf" or "L2" with eps, or any threat string of ours, which holds its own radius.
        to_disk: keep the run in runs/<model_name>-<dataset>-<threat>; the same call resumes it. Needs model_name.
        model_name: for the record.
        data_dir: where `cifar10.npz` or `cifar-10-batches-bin/` (the binary archive, nothing is unpickled) lies, likewise
            cifar100; for imagenet the folder that holds `val/`. Without either file CIFAR comes by the package datasets.
        eps: the radius.
        log_path: gets the table as text.
        preprocessing: for imagenet: "Res256Crop224", "Crop288" or None; for others there is none.
        aa_state_path: a folder to keep the run in and resume it from.
        ours: further arguments of `wassertight.benchmark`. `attack` is "autoattack" and `certificate` None where left
            out, so that the numbers are comparable; certificate="crown" adds the proved side.

    Returns:
        A Report that unpacks as (clean, attacked) accuracy.

    Raises:
        InputError: corruptions, which have no worst case, or settings that do not go together.
        DataError: data that is nowhere to be found; says where it was looked for.

    Differs from RobustBench: 1. ImageNet images are all those under `val/`, one class after the other in turns, not its
    list of 5,000. 2. `model` is left as it was. 3. Results are never written into RobustBench's model_info.
    """
    threat = str(getattr(threat_model, "value", threat_model))
    name = getattr(dataset, "value", dataset)
    if threat.startswith("corruptions") or corruptions_data_dir is not None:
        raise InputError("corruptions are a fixed test set, not an adversary: evaluate the accuracy on it instead")
    if isinstance(threat_model, str) and "@" in threat:
        if eps is not None:
            raise InputError(f"the threat {threat!r} holds its radius; leave eps out")
    elif eps is None:
        raise InputError(f"threat_model={threat!r} needs eps, for example eps=8/255")
    else:
        threat = f"{threat}@{eps!r}"
    if to_disk and model_name is None:
        raise InputError("to_disk=True needs model_name")
    if preprocessing not in _RESIZED or (preprocessing is not None and name != "imagenet"):
        allowed = ", ".join(repr(key) for key in _RESIZED)
        raise InputError(
            f"preprocessing is one of {allowed}, for 'imagenet' only, got {preprocessing!r}; give dataset=(x, y) otherwise"
        )
    label = name if isinstance(name, str) else type(name).__name__
    run_dir = Path("runs") / f"{model_name}-{label}-{threat}".replace("/", "_") if to_disk else aa_state_path
    chosen = {"attack": "autoattack", "certificate": None, "run_dir": run_dir, **ours}
    data = _find(name, Path(data_dir), n_examples, _RESIZED[preprocessing]) if isinstance(name, str) else name
    report = benchmark(
        model, data, threat, n_examples=n_examples, batch_size=batch_size, device=device or "cpu",
        model_name=model_name, data_name=label, **chosen,
    )  # fmt: skip
    if log_path is not None:
        Path(log_path).write_text(f"{report}\n", encoding="utf-8")
    return report


def _find(name: str, folder: Path, n: int | None, options: str) -> Any:
    """A data set of RobustBench where its users keep it, without opening a pickle."""
    if name == "imagenet":
        return load_data(f"folder:{folder}{options}", n=n)
    if name not in _BINARY:
        return load_data(name, n=n)
    file, labels = _BINARY[name]
    if (folder / f"{name}.npz").is_file():
        return load_data(str(folder / f"{name}.npz"), n=n)
    if (folder / file).is_file():
        rows = torch.frombuffer(bytearray((folder / file).read_bytes()), dtype=torch.uint8)
        if len(rows) == 0 or len(rows) % (labels + 3072):
            raise DataError(f"{folder / file} is truncated: {len(rows)} bytes are no whole number of images")
        rows = rows.view(-1, labels + 3072)[:n]
        return rows[:, labels:].reshape(-1, 3, 32, 32).float() / 255, rows[:, labels - 1].long()
    optional_package("datasets", f"{name} without {folder / f'{name}.npz'} or {folder / file}")
    return load_data(f"hf:{_HUB[name]}:test", n=n)
