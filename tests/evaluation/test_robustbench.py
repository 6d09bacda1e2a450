"""RobustBench's call: same arguments, same two numbers, its data where its users keep it."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import wassertight as wt
from wassertight.evaluation import robustbench_benchmark
from wassertight.types import DataError, InputError, PackageError

RNG = np.random.default_rng(0)


class Threat(Enum):
    """As RobustBench's enums: a member whose value is the name."""

    Linf = "Linf"


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))


def rows(model: nn.Module, n: int = 6) -> tuple[np.ndarray, np.ndarray]:
    pixels = RNG.integers(0, 256, (n, 3, 32, 32)).astype(np.uint8)
    with torch.no_grad():
        return pixels, model(torch.from_numpy(pixels).float() / 255).argmax(1).numpy()


def test_as_their_users_call_it(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positional arguments in their order, enums, the binary archive, a run kept on disk and resumed."""
    monkeypatch.chdir(tmp_path)
    pixels, labels = rows(model)
    archive = tmp_path / "data" / "cifar-10-batches-bin" / "test_batch.bin"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"".join(bytes([y]) + x.tobytes() for x, y in zip(pixels, labels, strict=True)))
    call: dict[str, Any] = {
        "model_name": "Mine",
        "eps": 1 / 255,
        "attack": "pgd",
        "progress": False,
        "log_path": tmp_path / "log",
    }
    report = robustbench_benchmark(model, 5, "cifar10", Threat.Linf, True, **call)
    clean, robust = report
    assert clean == 1.0
    assert robust is not None
    x, y = torch.from_numpy(pixels[:5]).float() / 255, torch.from_numpy(labels[:5])
    same = wt.benchmark(
        model, (x, y), f"Linf@{1 / 255!r}", attack="pgd", certificate=None, batch_size=32, progress=False
    )
    assert tuple(same) == (clean, robust)
    assert report.record.model == "Mine"
    assert report.record.data == "cifar10"
    assert report.run_dir == Path("runs/Mine-cifar10-Linf@0.00392156862745098")
    assert tuple(robustbench_benchmark(model, 5, "cifar10", Threat.Linf, True, **call)) == (clean, robust)
    assert "Linf" in (tmp_path / "log").read_text()


def test_other_data_and_our_threats(model: nn.Module, tmp_path: Path) -> None:
    pixels, labels = rows(model)
    np.savez(tmp_path / "cifar10.npz", x_test=pixels, y_test=labels)
    fast: dict[str, Any] = {"attack": "fgsm", "progress": False, "data_dir": tmp_path}
    assert robustbench_benchmark(model, eps=1 / 255, certificate="interval", **fast).certified is not None
    archive = tmp_path / "cifar-100-binary" / "test.bin"
    archive.parent.mkdir()
    archive.write_bytes(b"".join(bytes([99, y]) + x.tobytes() for x, y in zip(pixels, labels, strict=True)))
    assert robustbench_benchmark(model, dataset="cifar100", eps=0.01, **fast).clean == 1.0
    pair = (torch.from_numpy(pixels).float() / 255, torch.from_numpy(labels))
    fast["attack"] = "min-norm"
    report = robustbench_benchmark(model, 2, pair, "W1-Linf@0.01", attack_options={"passes": 30}, **fast)
    assert report.results[0].p == 1


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({}, "needs eps"), ({"eps": 1.0, "threat_model": "corruptions"}, "fixed test set"), ({"eps": 1.0, "to_disk": True}, "model_name"),
        ({"eps": 1.0, "threat_model": "Linf@0.1"}, "leave eps out"), ({"eps": 1.0, "preprocessing": "Res256Crop224"}, "imagenet"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(model: nn.Module, settings: dict[str, Any], hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        robustbench_benchmark(model, **settings)


def test_data_that_is_nowhere(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PackageError, match=r"cifar10.npz.*test_batch.bin.*pip install datasets"):
        robustbench_benchmark(model, eps=0.1, data_dir=tmp_path)
    archive = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    archive.parent.mkdir()
    archive.write_bytes(b"cut")
    with pytest.raises(DataError, match="truncated"):
        robustbench_benchmark(model, eps=0.1, data_dir=tmp_path)
