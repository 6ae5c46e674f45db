"""Networks that are really smaller: compaction, what they cost, sparse files and kernels."""

from pyrosparse.compact.account import Account, Layer
from pyrosparse.compact.active_features import ActiveFeatures, active_features, mean_counts
from pyrosparse.compact.check import CompactionError
from pyrosparse.compact.compact import CompactNet, compact
from pyrosparse.compact.layouts import layout_bytes
from pyrosparse.compact.measure import file_bytes, latency, macs
from pyrosparse.compact.network_file import load, save
from pyrosparse.compact.onnx_file import ExportError, export_onnx
from pyrosparse.compact.paper_counts import PaperCounts, beta_bernoulli_counts, dependent_counts
from pyrosparse.compact.quality import Quality, quality
from pyrosparse.compact.report import Report, report
from pyrosparse.compact.sparse import sparse_inference
from pyrosparse.compact.storage import StorageError, Stored, load_sparse, save_sparse

__all__ = [
    "Account",
    "ActiveFeatures",
    "CompactNet",
    "CompactionError",
    "ExportError",
    "Layer",
    "PaperCounts",
    "Quality",
    "Report",
    "StorageError",
    "Stored",
    "active_features",
    "beta_bernoulli_counts",
    "compact",
    "dependent_counts",
    "export_onnx",
    "file_bytes",
    "latency",
    "layout_bytes",
    "load",
    "load_sparse",
    "macs",
    "mean_counts",
    "quality",
    "report",
    "save",
    "save_sparse",
    "sparse_inference",
]
