"""Owns the generator that comes with the package, for who has none: what `python train.py --config included` makes."""

from pathlib import Path

INCLUDED = Path(__file__).parent
