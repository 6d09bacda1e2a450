"""Loading: all shared networks reproduce their accuracy; bad files and names teach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wassertight.data import LabelledData, load_data
from wassertight.models import build, list_models, load_model
from wassertight.types import ModelError


def _accuracy(model: object, data: LabelledData) -> float:
    with torch.no_grad():
        right = sum(
            int((model(x).argmax(1) == y).sum()) for x, y in zip(data.x.split(500), data.y.split(500), strict=True)
        )  # type: ignore[operator]
    return right / len(data.y)


def test_every_shared_network_reproduces_its_clean_accuracy(shared: Path) -> None:
    """All 47, on the number of test images the manifest states, exactly."""
    entries = json.loads((shared / "manifest.json").read_text())["networks"]
    data = {"mnist": load_data(str(shared / "mnist.npz")), "cifar": load_data(str(shared / "cifar10_subset.npz"))}
    assert len(entries) == 47
    wrong = {}
    for entry in entries:
        model = load_model(f"{shared / 'manifest.json'}#{entry['name']}").model
        whole, n = data[entry["dataset"]], entry["clean_n"]
        found = _accuracy(model, LabelledData(name="", x=whole.x[:n], y=whole.y[:n]))
        if abs(found - entry["clean_acc"]) > 1e-9:
            wrong[entry["name"]] = (found, entry["clean_acc"])
    assert not wrong


@pytest.mark.parametrize("name", ["digits-cnn", "digits-mlp", "digits-cnn-robust", "digits-mlp-robust"])
def test_embedded_networks(name: str) -> None:
    assert name in list_models()
    accuracy = _accuracy(load_model(name).model, load_data("digits"))
    assert f"{accuracy:.1%}" in list_models()[name]
    assert accuracy > 0.95


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("digits-cn", "did you mean 'digits-cnn'"), ("nowhere.json#x", "no such file"), ("no_such_module:f", "cannot import"),
        ("json:nothing", "nothing"), ("weights.pth", "Pickled files are never opened"),
    ],
)  # fmt: skip
def test_names_that_cannot_be_loaded(name: str, hint: str) -> None:
    with pytest.raises(ModelError, match=hint):
        load_model(name)


class TestDeclared:
    architecture = [["flatten"], ["linear", 4, 3], ["relu"], ["linear", 3, 2]]

    def _write(self, folder: Path, **changes: object) -> Path:
        body = build(self.architecture)[-1]
        save_file(body.state_dict(), folder / "w.safetensors")
        (folder / "net.json").write_text(
            json.dumps({"architecture": self.architecture, "file": "w.safetensors", **changes})
        )
        return folder / "net.json"

    def test_loads(self, tmp_path: Path) -> None:
        model = load_model(str(self._write(tmp_path, normalisation={"mean": [0.5], "std": [0.5]}))).model
        assert model(torch.rand(2, 1, 2, 2)).shape == (2, 2)

    def test_truncated_weights(self, tmp_path: Path) -> None:
        path = self._write(tmp_path)
        file = tmp_path / "w.safetensors"
        file.write_bytes(file.read_bytes()[:60])
        with pytest.raises(ModelError, match="safetensors"):
            load_model(str(path))

    def test_checksum(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="sha256"):
            load_model(str(self._write(tmp_path, sha256="0" * 64)))

    def test_wrong_tensors_are_named(self, tmp_path: Path) -> None:
        path = self._write(tmp_path, architecture=[["flatten"], ["linear", 4, 2]])
        with pytest.raises(ModelError, match=r"unexpected \['3.bias'"):
            load_model(str(path))

    @pytest.mark.parametrize(
        ("layers", "hint"), [([["linaer", 4, 2]], "did you mean 'linear'"), ([["linear", 4]], "arguments")]
    )
    def test_bad_words(self, layers: list[list[object]], hint: str) -> None:
        with pytest.raises(ModelError, match=hint):
            build(layers)

    def test_broken_json(self, tmp_path: Path) -> None:
        (tmp_path / "net.json").write_text("{")
        with pytest.raises(ModelError, match="not readable JSON"):
            load_model(str(tmp_path / "net.json"))


def test_user_code_is_imported_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_net_module.py").write_text("import torch\ndef build():\n    return torch.nn.Linear(3, 2)\n")
    monkeypatch.chdir(tmp_path)
    assert load_model("my_net_module:build").model(torch.rand(1, 3)).shape == (1, 2)  # type: ignore[arg-type]
