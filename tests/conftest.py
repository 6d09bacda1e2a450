"""Fixtures every test may use: the shared data when present, and small models with known answers."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

mpl.use("Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread a worker: two workers with two threads each fight over two cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
SHARED = Path(os.environ.get("WASSERTIGHT_SHARED", Path(__file__).parents[2] / "shared")) / "data"


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared networks and images, or a skip with the reason."""
    if not (SHARED / "manifest.json").is_file():
        pytest.skip(f"no shared networks at {SHARED} (set WASSERTIGHT_SHARED to the folder that holds data/)")
    return SHARED
