"""Architectures by name, for training from scratch; all declared, so that what is trained can be loaded anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from wassertight.errors import nearest
from wassertight.models.architecture import build
from wassertight.models.loaded import LoadedModel
from wassertight.types import ModelError

_Layers = list[Any]
_MNIST, _CIFAR = (1, 28, 28), (3, 32, 32)
_CIFAR_SCALE = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2471, 0.2435, 0.2616]}


def _digits_mlp(classes: int) -> _Layers:
    return [["flatten"], ["linear", 64, 64], ["relu"], ["linear", 64, classes]]


def _two_convolutions(channels: int, first: int, second: int, flat: int, classes: int) -> _Layers:
    return [
        ["conv", channels, first, 4, 2, 1], ["relu"], ["conv", first, second, 4, 2, 1], ["relu"], ["flatten"],
        ["linear", flat, 100], ["relu"], ["linear", 100, classes],
    ]  # fmt: skip


def _small_resnet(classes: int) -> _Layers:
    def block(cin: int, cout: int, stride: int) -> _Layers:
        main = [
            ["conv", cin, cout, 3, stride, 1, False], ["batchnorm2d", cout], ["relu"],
            ["conv", cout, cout, 3, 1, 1, False], ["batchnorm2d", cout],
        ]  # fmt: skip
        skip = [] if cin == cout and stride == 1 else [["conv", cin, cout, 1, stride, 0, False], ["batchnorm2d", cout]]
        return [["residual", main, skip], ["relu"]]

    stem = [["conv", 3, 16, 3, 2, 1, False], ["batchnorm2d", 16], ["relu"]]
    head = [["flatten"], ["linear", 2048, 100], ["relu"], ["linear", 100, classes]]
    return [*stem, *block(16, 32, 2), *block(32, 32, 1), *head]


def _pre_activation(widths: Sequence[int], strides: Sequence[int], blocks: int, stem: int, classes: int) -> _Layers:
    """Pre-activation residual networks; a shortcut that changes shape starts after the first activation."""
    layers: _Layers = [["conv", 3, stem, 3, 1, 1, False]]
    cin = stem
    for width, first in zip(widths, strides, strict=True):
        for index in range(blocks):
            stride = first if index == 0 else 1
            head: _Layers = [["batchnorm2d", cin], ["relu"]]
            body: _Layers = [
                ["conv", cin, width, 3, stride, 1, False], ["batchnorm2d", width], ["relu"],
                ["conv", width, width, 3, 1, 1, False],
            ]  # fmt: skip
            if cin == width and stride == 1:
                layers.append(["residual", [*head, *body], []])
            else:
                layers += [*head, ["residual", body, [["conv", cin, width, 1, stride, 0, False]]]]
            cin = width
    return [*layers, ["batchnorm2d", cin], ["relu"], ["global_avg_pool"], ["linear", cin, classes]]


_KNOWN: Mapping[str, tuple[Callable[[int], _Layers], tuple[int, ...], Mapping[str, list[float]], str]] = {
    "digits-mlp-64": (_digits_mlp, (1, 8, 8), {}, "one hidden layer of 64, for 8 x 8 digits (5 k parameters)"),
    "mnist-cnn": (lambda k: _two_convolutions(1, 16, 32, 1568, k), _MNIST, {},
                  "16-32 convolutions, 100 hidden units (166 k parameters)"),
    "cifar-cnn": (lambda k: _two_convolutions(3, 32, 64, 4096, k), _CIFAR, _CIFAR_SCALE,
                  "32-64 convolutions, 100 hidden units (446 k parameters)"),
    "cifar-resnet-small": (_small_resnet, _CIFAR, _CIFAR_SCALE,
                           "two residual blocks with batch norm, CPU-sized (240 k parameters)"),
    "preact-resnet-18": (lambda k: _pre_activation((64, 128, 256, 512), (1, 2, 2, 2), 2, 64, k), _CIFAR, _CIFAR_SCALE,
                         "PreActResNet-18 (11 M parameters)"),
    "wrn-34-10": (lambda k: _pre_activation((160, 320, 640), (1, 2, 2), 5, 16, k), _CIFAR, _CIFAR_SCALE,
                  "WideResNet-34-10 (46 M parameters)"),
}  # fmt: skip


def list_architectures() -> dict[str, str]:
    """Names for training from scratch and their one-line descriptions.

    >>> "mnist-cnn" in list_architectures()
    True
    """
    return {name: entry[3] for name, entry in _KNOWN.items()}


def new_model(name: str, *, classes: int = 10, seed: int = 0) -> LoadedModel:
    """An untrained network, its weights drawn from the seed; the caller's random state is left alone.

    Raises:
        ModelError: for an unknown name, with the nearest one.

    >>> sum(p.numel() for p in new_model("mnist-cnn").model.parameters())
    166406
    """
    if name not in _KNOWN:
        near = nearest(name, _KNOWN)
        raise ModelError(f"unknown architecture {name!r}; did you mean {near!r}? Allowed: {', '.join(_KNOWN)}")
    make, shape, scale, description = _KNOWN[name]
    architecture = make(classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(architecture, input_shape=shape, mean=scale.get("mean"), std=scale.get("std"))
    declaration: dict[str, Any] = {"architecture": architecture, "input_shape": list(shape)}
    if scale:
        declaration["normalisation"] = dict(scale)
    return LoadedModel(
        name=name, model=model, input_shape=shape, description=description, declaration=declaration
    )  # fmt: skip
