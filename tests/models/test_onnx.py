"""ONNX files: every operation against the onnx package's own reference, networks against torch, refusals by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import wassertight as wt
from wassertight.types import ModelError, PackageError

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed (pip install onnx)")
helper, floats, integers = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
RNG = np.random.default_rng(0)
IMAGE, ROW, TOKENS = (3, 8, 8), (12,), (5, 6)


def save(
    path: Path, nodes: list[Any], constants: dict[str, Any], shape: tuple[int, ...], opset: int = 20, batch: Any = "n"
) -> Path:
    """A graph from `x` to `y`, written to disk."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", floats, [batch, *shape])],
        [helper.make_tensor_value_info("y", floats, [batch, "k"])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


def agree(path: Path, shape: tuple[int, ...]) -> nn.Module:
    """Our network and the reference give the same logits for two numbers of samples."""
    model = wt.load_model(f"onnx:{path}").model
    from onnx.reference import ReferenceEvaluator

    for n in (1, 4):
        x = RNG.random((n, *shape), dtype=np.float32)
        (truth,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
        with torch.no_grad():
            found = model(torch.from_numpy(x))
        assert found.shape == truth.shape
        assert np.abs(found.numpy() - truth).max() < 1e-5
    return model  # type: ignore[return-value]


def w(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / 3).astype(np.float32)


def node(word: str, *inputs: str, **attributes: Any) -> Any:
    return helper.make_node(word, list(inputs), ["h"], name=f"my_{word}", **attributes)


I64 = np.int64
CASES: dict[str, tuple[tuple[int, ...], Any, dict[str, Any]]] = {
    "Gemm": (ROW, node("Gemm", "x", "a", "b", alpha=0.5, beta=2.0), {"a": w(12, 4), "b": w(1, 4)}),
    "Gemm transposed": (ROW, node("Gemm", "x", "a", transB=1), {"a": w(4, 12)}),
    "MatMul": (TOKENS, node("MatMul", "x", "a"), {"a": w(6, 3)}),
    "MatMul from the left": (TOKENS, node("MatMul", "a", "x"), {"a": w(1, 4, 5)}),
    "Conv": (IMAGE, node("Conv", "x", "a", "b", strides=[2, 2], pads=[1, 1, 1, 1]), {"a": w(4, 3, 3, 3), "b": w(4)}),
    "Conv uneven": (IMAGE, node("Conv", "x", "a", pads=[0, 1, 1, 2], dilations=[1, 2]), {"a": w(4, 3, 3, 3)}),
    "Conv same upper": (IMAGE, node("Conv", "x", "a", auto_pad="SAME_UPPER", strides=[2, 2]), {"a": w(4, 3, 3, 3)}),
    "Conv same lower": (IMAGE, node("Conv", "x", "a", auto_pad="SAME_LOWER"), {"a": w(4, 3, 2, 2)}),
    "Conv in groups": (IMAGE, node("Conv", "x", "a", group=3), {"a": w(6, 1, 3, 3)}),
    "Conv of rows": (TOKENS, node("Conv", "x", "a", pads=[1, 1]), {"a": w(4, 5, 3)}),
    "Add": (IMAGE, node("Add", "x", "a"), {"a": w(3, 1, 1)}),
    "Add twice": (IMAGE, node("Add", "x", "x"), {}),
    "Sub from a constant": (IMAGE, node("Sub", "a", "x"), {"a": w(3, 1, 1)}),
    "Mul": (IMAGE, node("Mul", "x", "a"), {"a": np.float32(0.3)}),
    "Div": (IMAGE, node("Div", "x", "a"), {"a": np.array([2, 3, 4], np.float32)[:, None, None]}),
    "BatchNormalization": (
        IMAGE, node("BatchNormalization", "x", "a", "b", "c", "d", epsilon=1e-3), {"a": w(3), "b": w(3), "c": w(3), "d": w(3) ** 2}
    ),
    "LayerNormalization": (TOKENS, node("LayerNormalization", "x", "a", "b"), {"a": w(6), "b": w(6)}),
    "Relu": (ROW, node("Relu", "x"), {}), "LeakyRelu": (ROW, node("LeakyRelu", "x", alpha=0.2), {}),
    "Sigmoid": (ROW, node("Sigmoid", "x"), {}), "Tanh": (ROW, node("Tanh", "x"), {}), "Erf": (ROW, node("Erf", "x"), {}),
    "Gelu": (ROW, node("Gelu", "x"), {}), "Gelu tanh": (ROW, node("Gelu", "x", approximate="tanh"), {}),
    "Elu": (ROW, node("Elu", "x", alpha=0.5), {}), "Pow": (ROW, node("Pow", "x", "a"), {"a": np.float32(2)}),
    "MaxPool": (IMAGE, node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), {}),
    "MaxPool ceiling": (IMAGE, node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), {}),
    "AveragePool": (IMAGE, node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2]), {}),
    "AveragePool padded": (IMAGE, node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), {}),
    "AveragePool counted": (IMAGE, node("AveragePool", "x", kernel_shape=[3, 3], pads=[0, 1, 1, 0], count_include_pad=1), {}),
    "GlobalAveragePool": (IMAGE, node("GlobalAveragePool", "x"), {}),
    "Reshape": (IMAGE, node("Reshape", "x", "a"), {"a": np.array([0, 3, -1], I64)}),
    "Reshape by -1": (IMAGE, node("Reshape", "x", "a"), {"a": np.array([-1, 192], I64)}),
    "Transpose": (IMAGE, node("Transpose", "x", perm=[0, 2, 3, 1]), {}),
    "Concat": (IMAGE, node("Concat", "x", "x", axis=1), {}),
    "Softmax": (TOKENS, node("Softmax", "x", axis=1), {}), "LogSoftmax": (TOKENS, node("LogSoftmax", "x"), {}),
    "Identity": (ROW, node("Identity", "x"), {}), "Dropout": (ROW, node("Dropout", "x"), {}),
    "Clip": (ROW, node("Clip", "x", "a", "b"), {"a": np.float32(0.2), "b": np.float32(0.6)}),
    "Clip above": (ROW, node("Clip", "x", "", "b"), {"b": np.float32(0.6)}),
    "Pad": (IMAGE, node("Pad", "x", "a", "b"), {"a": np.array([0, 0, 1, 2, 0, 0, 0, 1], I64), "b": np.float32(0.7)}),
    "Pad reflecting": (IMAGE, node("Pad", "x", "a", mode="reflect"), {"a": np.array([0, 0, 1, 1, 0, 0, 1, 1], I64)}),
    "ReduceMean": (IMAGE, node("ReduceMean", "x", "a", keepdims=0), {"a": np.array([2, 3], I64)}),
    "Squeeze": ((1, 4, 1), node("Squeeze", "x", "a"), {"a": np.array([-1], I64)}),
    "Unsqueeze": (ROW, node("Unsqueeze", "x", "a"), {"a": np.array([1, -1], I64)}),
    "Gather": (TOKENS, node("Gather", "x", "a", axis=1), {"a": np.int64(-1)}),
    "Gather several": (TOKENS, node("Gather", "x", "a", axis=2), {"a": np.array([2, 0, -1], I64)}),
    "Slice": (TOKENS, node("Slice", "x", "a", "b", "c", "d"),
              {"a": np.array([1, -5], I64), "b": np.array([9999, -1], I64), "c": np.array([1, 2], I64), "d": np.array([2, 1], I64)}),
    "Cast": (ROW, node("Cast", "x", to=floats), {}), "Sqrt": (ROW, node("Sqrt", "x"), {}), "Neg": (ROW, node("Neg", "x"), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_operation_equals_the_reference(case: str, tmp_path: Path) -> None:
    shape, middle, constants = CASES[case]
    agree(save(tmp_path / "net.onnx", [middle, helper.make_node("Flatten", ["h"], ["y"])], constants, shape), shape)


def test_older_operator_sets_keep_settings_in_attributes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Pad", ["x"], ["p"], pads=[0, 0, 1, 1, 0, 0, 1, 1]), helper.make_node("Clip", ["p"], ["c"], min=0.1, max=0.8),
        helper.make_node("Slice", ["c"], ["s"], starts=[1], ends=[5], axes=[2]), helper.make_node("Unsqueeze", ["s"], ["u"], axes=[1]),
        helper.make_node("Squeeze", ["u"], ["q"], axes=[1]), helper.make_node("Split", ["q"], ["l", "r"], axis=1, split=[1, 2]),
        helper.make_node("Flatten", ["r"], ["y"]),
    ]  # fmt: skip
    agree(save(tmp_path / "old.onnx", nodes, {}, IMAGE, opset=9), IMAGE)


def test_shapes_that_follow_the_batch_are_told_from_constants(tmp_path: Path) -> None:
    """view(x.size(0), -1) and a class token repeated for every sample, as exporters write them."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]), helper.make_node("Gather", ["shape", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "zeros"], ["n1"]), helper.make_node("Concat", ["n1", "one_six"], ["target"], axis=0),
        helper.make_node("Expand", ["token", "target"], ["tokens"]), helper.make_node("Concat", ["tokens", "x"], ["all"], axis=1),
        helper.make_node("Concat", ["n1", "minus"], ["flat"], axis=0), helper.make_node("Reshape", ["all", "flat"], ["y"]),
    ]  # fmt: skip
    constants = {
        "zero": np.int64(0), "zeros": np.array([0], I64), "one_six": np.array([1, 6], I64), "minus": np.array([-1], I64),
        "token": w(1, 1, 6),
    }  # fmt: skip
    agree(save(tmp_path / "token.onnx", nodes, constants, TOKENS), TOKENS)


def exported(net: nn.Module, path: Path, shape: tuple[int, ...], dynamic: bool = True) -> Path:
    with pytest.warns(), torch.no_grad():  # the exporter that needs no further package says that it is old
        torch.onnx.export(
            net.eval(), (torch.rand(1, *shape),), str(path), dynamo=False, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "n"}} if dynamic else None,
        )  # fmt: skip
    return path


class Attention(nn.Module):
    """One head over four patches, a mean, a GELU: what a small transformer exports."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.qkv, self.norm, self.head = (
            nn.Conv2d(3, 8, 4, 4),
            nn.Linear(8, 24),
            nn.LayerNorm(8),
            nn.Linear(8, 5),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(z)).chunk(3, -1)
        z = z + (q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v
        return self.head(nn.functional.gelu(z).mean(1))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 16), nn.SiLU(), nn.Linear(16, 5)
    )  # fmt: skip


@pytest.mark.parametrize(("make", "word"), [(convolutional, nn.SiLU), (Attention, nn.GELU)])
@pytest.mark.parametrize("dynamic", [True, False])
def test_exports_of_torch_come_back(make: Any, word: type[nn.Module], dynamic: bool, tmp_path: Path) -> None:
    net = make()
    model = wt.load_model(str(exported(net, tmp_path / "net.onnx", IMAGE, dynamic))).model
    assert any(isinstance(step, word) for step in model.modules())  # type: ignore[attr-defined]
    x = torch.rand(6, *IMAGE)
    with torch.no_grad():
        assert torch.allclose(model(x), net(x), atol=1e-5)


@pytest.mark.parametrize("make", [convolutional, Attention])
def test_certificates_of_the_import_are_those_of_the_original(make: Any, tmp_path: Path) -> None:
    net = make().eval()
    model = wt.load_model(f"onnx:{exported(net, tmp_path / 'net.onnx', IMAGE)}").model
    x = torch.rand(2, *IMAGE)
    y = net(x).argmax(1)
    ball, method = wt.threat("Linf@0.01"), wt.certificates.LinearPropagation()
    ours, theirs = (method(one, x, y, ball).radii.values for one in (model, net))
    assert (ours > 0).all()
    assert torch.allclose(ours, theirs, rtol=1e-3)


def test_a_final_softmax_is_left_out_and_said(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    loaded = wt.load_model(f"onnx:{exported(nn.Sequential(net, nn.Softmax(1)), tmp_path / 'net.onnx', ROW)}")
    x = torch.rand(3, 12)
    assert torch.allclose(loaded.model(x), net(x), atol=1e-6)
    assert "softmax left out" in loaded.description
    assert loaded.input_shape == ROW


def test_saved_weights_go_back_into_the_graph(tmp_path: Path) -> None:
    path = exported(convolutional(), tmp_path / "net.onnx", IMAGE)
    loaded = wt.load_model(f"onnx:{path}")
    with torch.no_grad():
        next(loaded.model.parameters()).add_(1.0)  # type: ignore[attr-defined]
    again = wt.load_model(wt.models.save_network(loaded, tmp_path))
    x = torch.rand(2, *IMAGE)
    assert torch.equal(again.model(x), loaded.model(x))


@pytest.mark.parametrize(
    ("middle", "constants", "hint"),
    [
        (node("Softsign", "x"), {}, "'my_Softsign' (Softsign) cannot be read: the operation 'Softsign' is not among"),
        (node("Conv", "x", "x"), {}, "'my_Conv' (Conv) cannot be read: input 1 must be a constant"),
        (node("Transpose", "x", perm=[1, 0, 2, 3]), {}, "moves the batch dimension"),
        (node("Reshape", "x", "a"), {"a": np.array([-1, 64], I64)}, "mixes the samples"),
        (node("ReduceMean", "x", "a"), {"a": np.array([0], I64)}, "across the batch dimension"),
        (node("Cast", "x", to=integers), {}, "(Cast)"),
        (node("Gemm", "x", "a"), {"a": w(8, 2)}, "two dimensions"),
        (node("Relu", "x", domain="com.elsewhere"), {}, "com.elsewhere"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(middle: Any, constants: dict[str, Any], hint: str, tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [middle, helper.make_node("Flatten", ["h"], ["y"])], constants, IMAGE)
    with pytest.raises(ModelError) as caught:
        wt.load_model(f"onnx:{path}")
    assert hint in str(caught.value)


def test_bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no protobuf")
    save(tmp_path / "free.onnx", [helper.make_node("Flatten", ["x"], ["y"])], {}, ("height", 4))
    for name, hint in (("nowhere", "no such file"), ("broken", "not a readable ONNX file"), ("free", "must be fixed")):
        with pytest.raises(ModelError, match=hint):
            wt.load_model(f"onnx:{tmp_path / name}.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(PackageError, match="needs the package 'onnx': pip install onnx"):
        wt.load_model(f"onnx:{tmp_path}/free.onnx")
