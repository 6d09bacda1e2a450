"""Models: the embedded networks, declared architectures with safetensors weights, and anything the user names."""

from wassertight.models.architecture import Binarize, Normalise, PadSubsample, Residual, VisionTransformer, build
from wassertight.models.loading import LoadedModel, list_models, load_model

__all__ = [
    "Binarize",
    "LoadedModel",
    "Normalise",
    "PadSubsample",
    "Residual",
    "VisionTransformer",
    "build",
    "list_models",
    "load_model",
]
