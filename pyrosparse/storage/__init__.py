"""Files of networks and weights: compact networks, sparse weights, ONNX."""

from pyrosparse.storage.layouts import layout_bytes
from pyrosparse.storage.network_file import load, save
from pyrosparse.storage.onnx_file import ExportError, export_onnx
from pyrosparse.storage.storage import StorageError, Stored, load_sparse, save_sparse
from pyrosparse.storage.weights_file import load_weights

__all__ = [
    "ExportError",
    "StorageError",
    "Stored",
    "export_onnx",
    "layout_bytes",
    "load",
    "load_sparse",
    "load_weights",
    "save",
    "save_sparse",
]
