"""``python -m pyrosparse.cli``."""

from pyrosparse.cli.app import app

app()
