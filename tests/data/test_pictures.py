"""Pictures as data: folders, Hugging Face data sets, torchvision-like data sets, and the errors that teach."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from wassertight.data import as_tensors, load_data
from wassertight.types import DataError, PackageError

image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (pip install pillow)")
RNG = np.random.default_rng(0)
CAT, DOG = RNG.integers(0, 256, (2, 6, 4, 3)).astype(np.uint8), RNG.integers(0, 256, (3, 6, 4, 3)).astype(np.uint8)


def picture(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(values).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, values in enumerate(CAT):
        picture(values, tmp_path / "pets" / "cat" / f"{i}.png")
    for i, values in enumerate(DOG):
        picture(values, tmp_path / "pets" / "dog" / f"{i}.png")
    (tmp_path / "pets" / "notes.txt").write_text("no class")
    return tmp_path / "pets"


class TestFolder:
    def test_classes_take_turns(self, folder: Path) -> None:
        data = load_data(f"{folder}/")
        assert data.y.tolist() == [0, 1, 0, 1, 1]
        assert data.x.shape == (5, 3, 6, 4)
        assert torch.equal(data.x[0] * 255, torch.from_numpy(CAT[0]).permute(2, 0, 1).float())
        assert torch.equal(data.x[4] * 255, torch.from_numpy(DOG[2]).permute(2, 0, 1).float())
        first = load_data(f"folder:{folder}", n=2)
        assert torch.equal(first.x, data.x[:2])

    def test_splits_inside(self, folder: Path) -> None:
        picture(CAT[0], folder / "train" / "cat" / "0.png")
        picture(CAT[1], folder / "val" / "cat" / "0.png")
        assert len(load_data(f"{folder}/", split="train").y) == 1
        assert torch.equal(load_data(f"{folder}/").x[0] * 255, torch.from_numpy(CAT[1]).permute(2, 0, 1).float())

    def test_grey_pictures_have_one_channel_unless_among_coloured_ones(self, tmp_path: Path, folder: Path) -> None:
        picture(CAT[0, :, :, 0], tmp_path / "grey" / "a" / "0.png")
        assert load_data(f"{tmp_path}/grey/").x.shape == (1, 1, 6, 4)
        picture(CAT[0, :, :, 0], folder / "cat" / "9.png")
        x = load_data(f"{folder}/").x
        assert x.shape[1] == 3
        assert any(torch.equal(one[0], one[1]) for one in x)

    def test_sizes_that_differ_are_named_and_mended(self, folder: Path) -> None:
        picture(RNG.integers(0, 256, (9, 12, 3)).astype(np.uint8), folder / "dog" / "0.png")
        with pytest.raises(DataError, match=r"got 4x6 \(.*0.png\) and 12x9 \(.*0.png\).*resize=256"):
            load_data(f"{folder}/")
        assert load_data(f"folder:{folder}?resize=5&crop=5").x.shape == (5, 3, 5, 5)

    def test_the_middle_is_kept(self, tmp_path: Path) -> None:
        values = np.zeros((4, 6, 3), np.uint8)
        values[1:3, 2:4] = 255
        picture(values, tmp_path / "one" / "a" / "0.png")
        assert bool((load_data(f"{tmp_path}/one/?crop=2").x == 1).all())

    def test_errors_teach(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "empty" / "a").mkdir(parents=True)
        (tmp_path / "bad" / "a").mkdir(parents=True)
        (tmp_path / "bad" / "a" / "0.png").write_bytes(b"no picture")
        for name, hint in (
            (f"{tmp_path}/nowhere/", "no such folder"), (f"{tmp_path}/empty/", "one sub-folder a class"), (f"{tmp_path}/bad/", "not a readable picture"),
            (f"{folder}/?size=3", "options are"), (f"{folder}/?crop=50", "cannot be cropped"),
        ):  # fmt: skip
            with pytest.raises(DataError, match=hint):
                load_data(name)
        monkeypatch.setitem(sys.modules, "PIL.Image", None)
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(PackageError, match="pip install pillow"):
            load_data(f"{folder}/")


class TestHuggingFace:
    @pytest.fixture
    def datasets(self) -> Any:
        return pytest.importorskip("datasets", reason="datasets is not installed (pip install datasets)")

    def table(self, datasets: Any) -> Any:
        features = datasets.Features(
            {"id": datasets.Value("int64"), "img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
        )
        rows = {"id": [7, 8], "img": [image.fromarray(values) for values in CAT], "label": [1, 0]}
        return datasets.Dataset.from_dict(rows, features=features)

    def test_a_table_and_what_it_saved(self, datasets: Any, tmp_path: Path) -> None:
        table = self.table(datasets)
        x, y = as_tensors(table, n=1)
        assert torch.equal(x[0] * 255, torch.from_numpy(CAT[0]).permute(2, 0, 1).float())
        assert y.tolist() == [1]
        datasets.DatasetDict({"test": table}).save_to_disk(str(tmp_path / "saved"))
        data = load_data(f"hf:{tmp_path}/saved:test")
        assert (data.y.tolist(), data.x.shape) == ([1, 0], (2, 3, 6, 4))
        assert load_data(f"hf:{tmp_path}/saved?crop=2").x.shape == (2, 3, 2, 2)

    def test_a_parquet_folder(self, datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        (tmp_path / "set").mkdir()
        self.table(datasets).to_parquet(str(tmp_path / "set" / "test.parquet"))
        assert load_data(f"hf:{tmp_path}/set:test[:1]").y.tolist() == [1]
        with pytest.raises(DataError, match="cannot be loaded"):
            load_data(f"hf:{tmp_path}/set:validation")

    def test_columns_that_are_no_images(self, datasets: Any) -> None:
        with pytest.raises(DataError, match="column of images and one of labels, it has text"):
            as_tensors(datasets.Dataset.from_dict({"text": ["a"]}))

    def test_an_absent_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(PackageError, match="'datasets': pip install datasets"):
            load_data("hf:anything")


class Pets(Dataset[Any]):
    """As torchvision's data sets without a transform: pairs of a picture and a label."""

    def __len__(self) -> int:
        return len(CAT)

    def __getitem__(self, index: int) -> Any:
        return image.fromarray(CAT[index]), index


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return ((torch.full((3,), float(i)), i) for i in range(4))


def test_data_sets_of_python() -> None:
    x, y = as_tensors(Pets())
    assert torch.equal(x[1] * 255, torch.from_numpy(CAT[1]).permute(2, 0, 1).float())
    assert y.tolist() == [0, 1]
    assert as_tensors(Stream(), n=3)[1].tolist() == [0, 1, 2]
    extra = DataLoader(TensorDataset(torch.rand(4, 2), torch.arange(4), torch.rand(4)), batch_size=2)
    assert as_tensors(extra)[1].tolist() == [0, 1, 2, 3]

    class Dictionaries(Pets):
        def __getitem__(self, index: int) -> Any:
            return {"image": CAT[index]}

    class Ragged(Pets):
        def __getitem__(self, index: int) -> Any:
            return torch.rand(3, 4 + index), 0

    for bad, hint in ((Dictionaries(), "must be a pair"), (Ragged(), "need one shape"), (3, "must be a pair")):
        with pytest.raises(DataError, match=hint):
            as_tensors(bad)
