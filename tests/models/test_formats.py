"""Models of other libraries: Hugging Face from a local folder, timm, RobustBench, and outputs that wrap their logits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import wassertight as wt
from wassertight.models.formats.hugging_face import normalisation
from wassertight.types import ModelError, ModelNotice, PackageError


class Wrapped(nn.Module):
    """A linear classifier whose output is an object with `.logits`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))

    def forward(self, x: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.inner(x))


def test_an_output_with_logits_is_as_good_as_a_tensor() -> None:
    model = Wrapped()
    x = torch.rand(4, 4)
    y = model(x).logits.argmax(1)
    fast: dict[str, Any] = {"progress": False, "attack_options": {"passes": 30}}
    there, here = (wt.benchmark(m, (x, y), "W1-Linf@0.05", **fast) for m in (model, model.inner))
    left, right = there.results[0], here.results[0]
    assert (left.clean, left.attacked, left.certified) == (right.clean, right.attacked, right.certified)
    assert left.certified is not None
    assert there.ok


def test_an_output_without_logits_is_still_refused() -> None:
    with pytest.raises(ModelError, match="must return a tensor of logits"):
        wt.benchmark(
            lambda x: SimpleNamespace(scores=x), (torch.rand(2, 3), torch.tensor([0, 1])), "Linf@0.1", progress=False
        )  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("prefix", ["onnx", "hf", "timm", "robustbench"])
def test_an_absent_package_is_named_with_its_command(
    prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = {"hf": "transformers"}.get(prefix, prefix)
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PackageError, match=rf"'{package}': pip install .*{package}") as caught:
        wt.load_model(f"{prefix}:anything")
    assert isinstance(caught.value, ImportError)


def test_a_broken_package_says_what_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """timm without torchvision, and torchvision built for another torch."""
    monkeypatch.syspath_prepend(tmp_path)
    for body, hint in (
        ("import torchvision_absent", "whose import fails for want of 'torchvision_absent'"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "installed but cannot be imported.*nms.*belong together"),
    ):  # fmt: skip
        (tmp_path / "timm.py").write_text(body)
        monkeypatch.delitem(sys.modules, "timm", raising=False)
        with pytest.raises(PackageError, match=hint):
            wt.load_model("timm:resnet18")


class TestHuggingFace:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        transformers = pytest.importorskip(
            "transformers", reason="transformers is not installed (pip install transformers)"
        )
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4, num_labels=4
        )  # fmt: skip
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
        settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "size": {"height": 8, "width": 8}}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
        return tmp_path

    def test_vision_transformer_from_a_folder(self, folder: Path) -> None:
        import transformers

        loaded = wt.load_model(f"hf:{folder}")
        plain = transformers.ViTForImageClassification.from_pretrained(folder).eval()
        x = torch.rand(1, 3, 8, 8)
        scaled = (x - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
        with torch.no_grad():
            expected = plain(scaled).logits
            assert torch.allclose(loaded.model(x), expected, atol=1e-6)
        assert loaded.input_shape == (3, 8, 8)
        bound = wt.certificates.LinearPropagation()(loaded.model, x, expected.argmax(1), wt.threat("Linf@0.001"))
        assert bound.accuracy == 1.0

    def test_resnet_without_a_processor_is_noticed(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip(
            "transformers", reason="transformers is not installed (pip install transformers)"
        )
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
        )
        transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
        with pytest.warns(ModelNotice, match="no preprocessor_config"):
            loaded = wt.load_model(f"hf:{tmp_path}")
        assert "no normalisation known" in loaded.description
        assert loaded.model(torch.rand(2, 3, 32, 32)).shape == (2, 3)

    def test_pickled_weights_and_code_are_refused(self, folder: Path) -> None:
        state = wt.load_model(f"hf:{folder}").model.model.state_dict()  # type: ignore[attr-defined]
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match="without running its code or unpickling"):
            wt.load_model(f"hf:{folder}")
        config = {
            "model_type": "mine",
            "auto_map": {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Net"},
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "code.py").write_text("raise SystemExit('executed')")
        with pytest.raises(ModelError, match="without running its code"):
            wt.load_model(f"hf:{folder}")


@pytest.mark.parametrize(
    ("settings", "white", "black"),
    [
        ({"image_mean": [0.5], "image_std": [0.25]}, 2.0, -2.0),
        ({"do_rescale": False, "do_normalize": False}, 255.0, 0.0),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}, 1.0, -1.0),
        ({"do_rescale": False, "image_mean": [127.5], "image_std": [127.5]}, 1.0, -1.0),
    ],
)
def test_image_processors_become_one_layer(settings: dict[str, Any], white: float, black: float) -> None:
    layer = normalisation(settings, "x")
    assert layer(torch.ones(1, 1, 1, 1)).item() == pytest.approx(white)
    assert layer(torch.zeros(1, 1, 1, 1)).item() == pytest.approx(black, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "hint"), [({"do_flip_channel_order": True}, "channel_order"), ({"do_normalize": True}, "image_mean")]
)
def test_image_processors_that_do_more_are_refused(settings: dict[str, Any], hint: str) -> None:
    with pytest.raises(ModelError, match=hint):
        normalisation(settings, "x")


class TestTimm:
    """The package's own calls, by the package where it imports and otherwise by a stand-in with the same functions."""

    @pytest.fixture
    def timm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        try:
            wt.load_model("timm:resnet18")
        except PackageError:
            stand_in = ModuleType("timm")
            stand_in.is_model = lambda name: name == "resnet18"  # type: ignore[attr-defined]
            stand_in.list_models = lambda: ["resnet18", "resnet50"]  # type: ignore[attr-defined]
            stand_in.create_model = _stand_in_model  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, "timm", stand_in)

    def test_a_model_without_published_weights_is_the_same_twice(self, timm: None) -> None:
        state = torch.random.get_rng_state()
        first, second = wt.load_model("timm:resnet18"), wt.load_model("timm:resnet18")
        assert torch.equal(state, torch.random.get_rng_state())
        x = torch.rand(1, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(first.model(x), second.model(x))
        assert first.input_shape == (3, 224, 224)
        assert first.model[0].mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])  # type: ignore[index]
        assert "seed 0" in first.description

    @pytest.mark.parametrize(("name", "hint"), [("resnet8", "nearest: resnet18"), ("resnet18?weights", "pretrained")])
    def test_bad_names(self, timm: None, name: str, hint: str) -> None:
        with pytest.raises(ModelError, match=hint):
            wt.load_model(f"timm:{name}")


def _stand_in_model(name: str, pretrained: bool) -> nn.Module:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
    model.pretrained_cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "input_size": (3, 224, 224)}  # type: ignore[assignment]
    return model


class TestRobustBench:
    """The zoo's own functions where it imports (its networks with weights written here), else a stand-in."""

    @pytest.fixture
    def zoo(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        from enum import Enum

        enums: Any = ModuleType("robustbench.model_zoo.enums")
        enums.BenchmarkDataset = Enum("BenchmarkDataset", {"cifar_10": "cifar10"})
        enums.ThreatModel = Enum("ThreatModel", {"Linf": "Linf"})
        models: Any = ModuleType("robustbench.model_zoo")
        models.model_dicts = {enums.BenchmarkDataset.cifar_10: {enums.ThreatModel.Linf: {"Small2020": {}}}}
        loading: Any = ModuleType("robustbench.utils")
        loading.load_model = _zoo_model
        for name, module in (
            ("", ModuleType("robustbench")),
            (".model_zoo", models),
            (".model_zoo.enums", enums),
            (".utils", loading),
        ):
            monkeypatch.setitem(sys.modules, f"robustbench{name}", module)

    def test_by_name(self, zoo: None, capsys: pytest.CaptureFixture[str]) -> None:
        torch.save(nn.Linear(3072, 10).state_dict(), "Small2020.pt")
        loaded = wt.load_model("robustbench:Small2020/cifar10/Linf")
        assert loaded.model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
        assert (loaded.input_shape, loaded.dataset) == ((3, 32, 32), "cifar10")
        assert capsys.readouterr().out == ""  # standard output is for the record

    def test_a_checkpoint_that_holds_code_is_not_opened(self, zoo: None) -> None:
        torch.save({"weight": _Code()}, "Small2020.pt")
        with pytest.raises(ModelError, match="more than tensors"):
            wt.load_model("robustbench:Small2020")
        assert not Path("executed").exists()

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("Small202", "nearest: Small2020"),
            ("Small2020/mnist", "dataset one of"),
            ("Small2020/cifar10/L0", "threat one of"),
        ],
    )
    def test_bad_names(self, zoo: None, name: str, hint: str) -> None:
        with pytest.raises(ModelError, match=hint):
            wt.load_model(f"robustbench:{name}")


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("executed").touch, ())


def _zoo_model(name: str, dataset: str, threat_model: str) -> nn.Module:
    """As the zoo loads: with a word on standard output, and torch.load that asks for everything."""
    print("Downloading")
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    model[1].load_state_dict(torch.load(f"{name}.pt", weights_only=False))
    return model
