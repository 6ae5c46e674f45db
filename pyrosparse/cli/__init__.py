"""The command line: each command is a call of public functions."""

from pyrosparse.cli import compress, lists, suites
from pyrosparse.cli.app import app

__all__ = ["app", "compress", "lists", "suites"]
