"""Steps of inference as tensor programs: captured once, checked, and run."""

from pyrosparse.captured.nuts import CapturedNUTS
from pyrosparse.captured.svi import CapturedSVI

__all__ = [
    "CapturedNUTS",
    "CapturedSVI",
]
