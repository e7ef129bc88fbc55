"""Train landscape-inpainting GANs on any number of GPUs."""

from typing import TYPE_CHECKING, Any

from inpaint.errors import InpaintError

if TYPE_CHECKING:
    from inpaint.models.generator import Generator as Generator
    from inpaint.pipeline import InpaintingPipeline as InpaintingPipeline
    from inpaint.training.launch import train as train

__version__ = "0.1.0"
__all__ = ["Generator", "InpaintError", "InpaintingPipeline", "__version__", "train"]

_HOMES = {
    "Generator": "inpaint.models.generator",
    "InpaintingPipeline": "inpaint.pipeline",
    "train": "inpaint.training.launch",
}


def __getattr__(name: str) -> Any:
    """Import what is public when it is first asked for: `inpaint --help` should not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
