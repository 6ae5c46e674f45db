"""``python -m pyrosparse.cli``."""

from pyrosparse.cli.app import app

if __name__ == "__main__":
    app()
