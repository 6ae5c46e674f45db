"""The main job of the command line: one network, trained, compressed, evaluated."""

from pyrosparse.compress.compaction import Compaction, compacted
from pyrosparse.compress.compress import compress
from pyrosparse.compress.families import METHODS
from pyrosparse.compress.outcome import Outcome, Trained
from pyrosparse.compress.settings import Settings

__all__ = ["METHODS", "Compaction", "Outcome", "Settings", "Trained", "compacted", "compress"]
