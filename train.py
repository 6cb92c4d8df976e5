"""Trains a model: `python train.py [RECIPE] [--FIELD VALUE ...]`; by default the quickstart."""

import sys

from vljax.commands.main import train_main

# Worker processes of the data pipeline import this file again and must not start to train.
if __name__ == "__main__":
    sys.exit(train_main("configs/quickstart.py"))
