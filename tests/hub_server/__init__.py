"""A Hugging Face Hub on loopback, for tests: it speaks the real protocol to the real, unmodified client.

Uploads work through Git LFS and through Xet, downloads over plain HTTP. All is held in memory. It was written from
what the client sends (huggingface_hub 2.4, hf-xet 1.8): it shows that client and server agree, not that the real Hub
refuses in just these words.
"""

from .server import Fault, LoopbackHub, Seen

__all__ = ["Fault", "LoopbackHub", "Seen"]
