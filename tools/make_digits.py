"""Writes the embedded digits (src/wassertight/data/digits.npz) from scikit-learn's copy of the UCI data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TARGET = Path(__file__).parents[1] / "src" / "wassertight" / "data" / "digits.npz"


def main() -> None:
    """Split 1,297 / 500, stratified, seed 0; pixels 0..16 scaled to [0, 1] exactly."""
    digits = load_digits()
    x = (digits.images / 16).astype(np.float32)[:, None]
    parts = train_test_split(x, digits.target.astype(np.int64), test_size=500, stratify=digits.target, random_state=0)
    x_train, x_test, y_train, y_test = parts
    np.savez_compressed(TARGET, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes, {len(x_train)} training and {len(x_test)} test images")


if __name__ == "__main__":
    main()
