"""Answers questions about image files with the program of this folder.

python answer.py --images cat.jpg --questions "What is left of the cat?" [--top 3]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vljax.interop.programs.standalone.model import Model


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description="Answers to questions about images.")
    parser.add_argument("--images", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--questions", nargs="+", required=True, metavar="TEXT")
    parser.add_argument("--top", type=int, default=5, help="answers to print; 5 by default")
    asked = parser.parse_args()
    try:
        model = Model(Path(__file__).parent)
        for file in asked.images:
            for question in asked.questions:
                for answer, probability in model.answer(file, question, asked.top):
                    print(f"{probability:7.4f}  {file}  {question}  {answer}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
