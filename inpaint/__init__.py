"""Train landscape-inpainting GANs on any number of GPUs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inpaint.models.generator import Generator as Generator
    from inpaint.pipeline import InpaintingPipeline as InpaintingPipeline

__all__ = ["Generator", "InpaintingPipeline"]

_HOMES = {"Generator": "inpaint.models.generator", "InpaintingPipeline": "inpaint.pipeline"}


def __getattr__(name: str) -> Any:
    """Import the public classes when they are first asked for: `inpaint --help` should not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
