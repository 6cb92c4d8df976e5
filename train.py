"""Trains a model: `python train.py [RECIPE] [--FIELD VALUE ...]`; the quickstart by default."""

import sys

from vljax.commands.main import train_main

# Worker processes of the data pipeline import this file again; they must not train.
if __name__ == "__main__":
    sys.exit(train_main("configs/quickstart.py"))
