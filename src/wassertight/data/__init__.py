"""Data: the embedded digits, .npz files, image folders, Hugging Face data sets, and whatever torch data the caller has."""

from wassertight.data.loading import DATA_FORMS, LabelledData, as_tensors, list_data, load_data

__all__ = ["DATA_FORMS", "LabelledData", "as_tensors", "list_data", "load_data"]
