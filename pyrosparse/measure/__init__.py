"""What a network costs and how well it predicts."""

from pyrosparse.measure.active_features import ActiveFeatures, active_features, mean_counts
from pyrosparse.measure.costs import file_bytes, macs
from pyrosparse.measure.paper_counts import PaperCounts, beta_bernoulli_counts, dependent_counts
from pyrosparse.measure.perplexity import LanguageQuality, perplexity
from pyrosparse.measure.quality import Quality, quality
from pyrosparse.measure.regression import RegressionQuality, predicts_values, regression_quality
from pyrosparse.measure.report import Report, report
from pyrosparse.util.timing import latency

__all__ = [
    "ActiveFeatures",
    "LanguageQuality",
    "PaperCounts",
    "Quality",
    "RegressionQuality",
    "Report",
    "active_features",
    "beta_bernoulli_counts",
    "dependent_counts",
    "file_bytes",
    "latency",
    "macs",
    "mean_counts",
    "perplexity",
    "predicts_values",
    "quality",
    "regression_quality",
    "report",
]
