"""Data: the embedded digits, .npz files, and whatever torch data the caller has."""

from wassertight.data.loading import LabelledData, as_tensors, list_data, load_data

__all__ = ["LabelledData", "as_tensors", "list_data", "load_data"]
