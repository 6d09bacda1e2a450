"""Image classifiers of the Hugging Face hub, or of a local folder, taking inputs in [0, 1]."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wassertight.models.architecture import Normalise
from wassertight.models.loaded import LoadedModel
from wassertight.packages import optional_package
from wassertight.types import ModelError, ModelNotice, logits_of

_PURPOSE = "a model of the form hf:"


class Classifier(nn.Module):
    """The image processor's normalisation, then the model, then its logits alone."""

    def __init__(self, normalise: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.normalise, self.model = normalise, model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = logits_of(self.model(self.normalise(x)))
        return logits


def load(reference: str) -> LoadedModel:
    """An image classifier by its repository, `organisation/name[@revision]`, or its folder on disk.

    Weights are read from safetensors only and code of the repository is never run. What the image processor does to
    colours (scale, mean, deviation) becomes the first layer, so that inputs stay in [0, 1]; resizing is left to the data.

    Raises:
        PackageError: the package transformers is absent.
        ModelError: no such repository or folder, no safetensors weights, code of its own, no image classifier.
    """
    transformers = optional_package("transformers", _PURPOSE)
    name, _, revision = reference.partition("@")
    local = Path(name).is_dir()
    given: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        with _quiet(transformers):
            model = transformers.AutoModelForImageClassification.from_pretrained(
                name, use_safetensors=True, trust_remote_code=False, local_files_only=local, **given
            )
        processor = _processor(name, local, given)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ModelError(
            f"hf:{reference} is no image classifier that can be loaded without running its code or unpickling: {lines[0]}"
        ) from error
    shape = _shape(model.config, processor)
    described = f"Hugging Face {type(model).__name__}"
    if processor is None:
        warnings.warn(
            f"hf:{reference} has no preprocessor_config.json: inputs go in as they are, without normalisation",
            ModelNotice,
            stacklevel=2,
        )
        described += ", no normalisation known"
    normalise = nn.Identity() if processor is None else normalisation(processor, reference)
    return LoadedModel(
        name=f"hf:{reference}", model=Classifier(normalise, model.float()), input_shape=shape, description=described
    )


def _processor(name: str, local: bool, given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The image processor's settings as the repository holds them; no processor is built, none of its code is run."""
    if local:
        path = Path(name) / "preprocessor_config.json"
        if not path.is_file():
            return None
    else:
        hub = optional_package("huggingface_hub", _PURPOSE)
        try:
            path = Path(hub.hf_hub_download(name, "preprocessor_config.json", **given))
        except hub.errors.EntryNotFoundError:
            return None
    settings: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return settings


def normalisation(processor: Mapping[str, Any], reference: str) -> nn.Module:
    """What an image processor does to colours, as a map of inputs in [0, 1].

    It multiplies bytes by `rescale_factor` (and subtracts 1 with `rescale_offset`), then normalises.
    """
    for key in ("do_flip_channel_order", "do_grayscale", "include_top", "do_convert_grayscale", "do_color_quantize"):
        if processor.get(key):
            raise ModelError(
                f"hf:{reference}: its image processor's {key!r} is not read; load it in Python and wrap it"
            )
    scale = 255 * float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 255.0
    offset = 1.0 if processor.get("rescale_offset") else 0.0
    mean, std = [0.0], [1.0]
    if processor.get("do_normalize", "image_mean" in processor):
        if "image_mean" not in processor or "image_std" not in processor:
            raise ModelError(f"hf:{reference}: its image processor normalises, but states no image_mean and image_std")
        mean, std = (_numbers(processor[key]) for key in ("image_mean", "image_std"))
    return Normalise([(m + offset) / scale for m in mean], [s / scale for s in std])


def _numbers(value: Any) -> list[float]:
    return [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)]


def _shape(config: Any, processor: Mapping[str, Any] | None) -> tuple[int, ...] | None:
    """(channels, height, width) where the model or its processor states them."""
    settings = processor or {}
    for size in (settings.get("crop_size"), settings.get("size"), getattr(config, "image_size", None)):
        if isinstance(size, Mapping) and "height" in size:
            pair: Any = (size["height"], size["width"])
        elif isinstance(size, (list, tuple)):
            pair = tuple(size[-2:])
        elif isinstance(size, int):
            pair = (size, size)
        else:
            continue
        return (int(getattr(config, "num_channels", 3)), int(pair[0]), int(pair[1]))
    return None


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No progress bars while weights are read."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
