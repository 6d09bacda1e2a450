"""Models: the embedded networks, declared architectures with safetensors weights, and anything the user names."""

from wassertight.models.architecture import Binarize, Normalise, PadSubsample, Residual, VisionTransformer, build
from wassertight.models.loading import LoadedModel, list_models, load_model
from wassertight.models.saving import save_network
from wassertight.models.untrained import list_architectures, new_model

__all__ = [
    "Binarize",
    "LoadedModel",
    "Normalise",
    "PadSubsample",
    "Residual",
    "VisionTransformer",
    "build",
    "list_architectures",
    "list_models",
    "load_model",
    "new_model",
    "save_network",
]
