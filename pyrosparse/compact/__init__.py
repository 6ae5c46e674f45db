"""Small networks and small files: for now, sparse storage of pruned weights."""

from pyrosparse.compact.storage import StorageError, Stored, load_sparse, save_sparse
from pyrosparse.compact.weights_file import load_weights

__all__ = ["StorageError", "Stored", "load_sparse", "load_weights", "save_sparse"]
