"""Networks in ONNX files as torch modules that attacks can differentiate and certificates can read.

The graph is gone through once on examples: what does not depend on the input is computed by the onnx package, every
other node becomes a module of torch. A dimension that follows the batch (exporters write shapes as Shape, Gather,
Concat, Reshape) is told from a constant by doing the arithmetic for two numbers of samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wassertight.models.formats.onnx_nodes import Node, Unreadable
from wassertight.models.formats.onnx_words import HANDLERS
from wassertight.models.loaded import LoadedModel
from wassertight.packages import optional_package
from wassertight.types import ModelError

_BATCH, _OTHER = 7, 11
"""Two numbers of samples that are unlikely sizes of anything else."""
_OLDEST = 7


class OnnxNetwork(nn.Module):
    """The nodes of a graph in order of evaluation, as modules; inputs (n, *features) to logits (n, classes)."""

    def __init__(
        self, steps: list[nn.Module], wiring: list[tuple[tuple[str, ...], str]], source: str, sink: str
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.wiring, self.source, self.sink = wiring, source, sink
        last = {name: index for index, (names, _) in enumerate(wiring) for name in names}
        self._spent = [[name for name, at in last.items() if at == index] for index in range(len(wiring))]

    def forward(self, x: Tensor) -> Tensor:
        values = {self.source: x}
        for step, (names, result), spent in zip(self.steps, self.wiring, self._spent, strict=True):
            values[result] = step(*(values[name] for name in names))
            for name in spent:
                values.pop(name, None)
        return values[self.sink]

    def extra_repr(self) -> str:
        return f"{self.source} -> {self.sink}: {self.wiring}"


class _Builder:
    """Goes through the nodes: constants are computed, values that depend on the input become steps."""

    def __init__(self, onnx: Any, graph: Any, opset: int, source: str, example: Tensor) -> None:
        self.onnx, self.opset = onnx, opset
        self.reference = optional_package("onnx.reference", "a model of the form onnx:")
        self.constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        self.followers: dict[str, Any] = {}  # constants that follow the batch, at the other number of samples
        self.examples = {source: example}
        self.producers: dict[str, Node] = {}
        self.steps: dict[str, tuple[nn.Module, tuple[str, ...]]] = {}

    def add(self, proto: Any) -> None:
        """One node more."""
        names = list(proto.input)
        attributes = {item.name: self.onnx.helper.get_attribute_value(item) for item in proto.attribute}
        node = Node(
            word=proto.op_type, name=proto.name or proto.output[0], opset=self.opset, names=names,
            attributes={key: value.decode() if isinstance(value, bytes) else value for key, value in attributes.items()},
            constants=[self.constants.get(name) for name in names], followers=[self.followers.get(name) for name in names],
            examples=[self.examples.get(name) for name in names], batch=(_BATCH, _OTHER), outputs=len(proto.output),
        )  # fmt: skip
        if proto.domain not in ("", "ai.onnx"):
            raise node.refuse(f"it belongs to the domain {proto.domain!r}, not to ONNX itself")
        if node.word == "Shape" and node.examples[0] is not None:
            part = slice(attributes.get("start", 0), attributes.get("end"))
            whole = list(node.examples[0].shape)
            self.constants[proto.output[0]] = np.array(whole[part], dtype=np.int64)
            self.followers[proto.output[0]] = np.array([_OTHER, *whole[1:]][part], dtype=np.int64)
            return
        if all(example is None for example in node.examples):
            self._fold(node, proto)
            return
        node.producers = [self.producers.get(name) for name in names]
        self._step(node, list(proto.output))

    def _fold(self, node: Node, proto: Any) -> None:
        missing = [name for name, value in zip(node.names, node.constants, strict=True) if name and value is None]
        if missing or node.word.startswith("Random"):
            raise node.refuse(f"its input {missing[0]!r} is not known" if missing else "it draws random numbers")
        try:
            evaluator = self.reference.ReferenceEvaluator(proto, opsets={"": self.opset})
            results = [
                evaluator.run(None, {n: v for n, v in zip(node.names, values, strict=True) if n})
                for values in (node.constants, [c if f is None else f for c, f in zip(node.constants, node.followers, strict=True)])
            ]  # fmt: skip
        except Exception as error:  # the reference evaluator raises errors of many kinds
            raise node.refuse(f"its constant value cannot be computed ({error})") from error
        for name, here, there in zip(proto.output, *results, strict=True):
            self.constants[name] = np.asarray(here)
            if np.shape(here) != np.shape(there) or not np.array_equal(here, there):
                self.followers[name] = np.asarray(there)

    def _step(self, node: Node, outputs: list[str]) -> None:
        if node.word not in HANDLERS:
            raise node.refuse(
                f"the operation {node.word!r} is not among those read here: {', '.join(sorted(HANDLERS))}"
            )
        found = HANDLERS[node.word](node)
        modules = found if isinstance(found, list) else [found]
        for module, output in zip(modules, outputs, strict=False):
            names = tuple(n for n, e in zip(node.names, node.examples, strict=True) if e is not None)
            if node.replaced is not None:
                names = (node.replaced,)
            module.eval()
            try:
                with torch.no_grad():
                    value = module(*(self.examples[name] for name in names))
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                raise node.refuse(f"torch cannot carry it out: {str(error).splitlines()[0]}") from error
            if value.ndim == 0 or len(value) != _BATCH:
                raise node.refuse("it moves or mixes the samples of the batch (the first dimension)")
            self.examples[output], self.producers[output] = value, node
            self.steps[output] = (module, names)

    def network(self, source: str, sink: str) -> OnnxNetwork:
        """The steps the output needs."""
        needed, kept = {sink}, []
        for name, (module, names) in reversed(self.steps.items()):
            if name in needed:
                kept.append((module, names, name))
                needed.update(names)
        kept.reverse()
        return OnnxNetwork([k[0] for k in kept], [(k[1], k[2]) for k in kept], source, sink)


def load(reference: str) -> LoadedModel:
    """The network of an ONNX file: `path/to/network.onnx`.

    A softmax at the end is left out, because models return logits here, and float64 becomes float32; nothing else is
    changed. The graph needs one floating-point input whose sizes other than the batch's are fixed, and one output.

    Args:
        reference: path of the file; weights in files beside it are found as the onnx package finds them.

    Raises:
        PackageError: the package onnx is absent.
        ModelError: an unreadable file, or the first node that cannot be read, by name.
    """
    onnx = optional_package("onnx", "a model of the form onnx:")
    path = Path(reference)
    if not path.is_file():
        raise ModelError(f"no such file: {path}")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
        if model.functions:
            model = optional_package("onnx.inliner", "this ONNX file").inline_local_functions(model)
    except Exception as error:  # protobuf, checker and file errors have no common base
        raise ModelError(f"{path} is not a readable ONNX file: {str(error).splitlines()[0]}") from error
    network, shape, note = _converted(onnx, model, path)
    return LoadedModel(
        name=f"onnx:{reference}", model=network, input_shape=shape, description=f"ONNX network {path.name}{note}"
    )


def _converted(onnx: Any, model: Any, path: Path) -> tuple[OnnxNetwork, tuple[int, ...], str]:
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST:
        raise ModelError(
            f"{path} uses operator set {opset}; {_OLDEST} or newer is read (onnx.version_converter converts)"
        )
    graph = model.graph
    known = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in known]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ModelError(
            f"{path} must have one input and one output, got {[i.name for i in inputs]} and {[o.name for o in graph.output]}"
        )
    source, sink = inputs[0].name, graph.output[0].name
    kind = inputs[0].type.tensor_type
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    if len(sizes) < 2 or any(not size for size in sizes[1:]):
        raise ModelError(
            f"{path}: every size of the input {source!r} but the first must be fixed, got {sizes}; "
            "onnx.tools.update_model_dims.update_inputs_outputs_dims writes them"
        )
    if kind.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        got = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise ModelError(f"{path}: the input {source!r} must be float32 or float64, got {got}")
    shape = tuple(int(size) for size in sizes[1:] if size)
    generator = torch.Generator().manual_seed(0)
    example = torch.rand((_BATCH, *shape), generator=generator)
    builder = _Builder(onnx, graph, opset, source, example)
    for proto in graph.node:
        try:
            builder.add(proto)
        except Unreadable as error:
            raise ModelError(f"{path}: {error}") from error
    if sink not in builder.examples:
        raise ModelError(f"{path}: the output {sink!r} does not depend on the input {source!r}")
    note, last = "", builder.producers.get(sink)
    if last is not None and last.word == "Softmax":
        sink, note = last.names[0], ", its final softmax left out"
    network = builder.network(source, sink)
    _checked(network, example, path)
    return network, shape, note


def _checked(network: OnnxNetwork, example: Tensor, path: Path) -> None:
    """Samples must not depend on each other: one alone gives the same row as among others."""
    with torch.no_grad():
        whole, alone = network(example), network(example[1:2])
    if whole.ndim != 2 or whole.shape[1] < 2:
        raise ModelError(f"{path} must end in logits (n, classes), two classes or more, got {tuple(whole.shape)}")
    if not torch.allclose(whole[1:2], alone, rtol=1e-3, atol=1e-4 * (1 + float(whole.abs().max()))):
        raise ModelError(f"{path}: the answer to one sample depends on the others in its batch")
