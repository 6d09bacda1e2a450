"""Models: the embedded networks, declared architectures with safetensors weights, and anything the user names."""

from wassertight.models.architecture import Binarize, Normalise, PadSubsample, Residual, VisionTransformer, build
from wassertight.models.loaded import LoadedModel
from wassertight.models.loading import MODEL_FORMS, list_models, load_model
from wassertight.models.saving import save_network
from wassertight.models.untrained import list_architectures, new_model

__all__ = [
    "MODEL_FORMS",
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
