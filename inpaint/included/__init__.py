"""Owns the generator that comes with the package, for who has none: what `python train.py --config included` makes."""

from pathlib import Path

INCLUDED = Path(__file__).parent


def name_of(source: str | Path) -> str:
    """What a model, given as a folder or a Hub id, is called on a page: no path of this machine."""
    if Path(source) == INCLUDED:
        return "the one that comes with inpaint"
    if not Path(source).exists():
        return str(source)  # of the Hub
    path = Path(source).resolve()
    return path.parent.name if path.name == "generator" else path.name
