"""Owns the page of `inpaint demo` as a folder that needs no server of ours: it fills in the visitor's own browser."""

from __future__ import annotations

import json
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError

from inpaint.demo.page import STATIC
from inpaint.errors import InpaintError, InpaintWarning, UsageError
from inpaint.exports.browser_runtime import PACKAGE, runtime_files
from inpaint.exports.onnx_file import Say, quiet, require_packages, write_onnx
from inpaint.hub.errors import CLIENT_ERRORS, describe
from inpaint.hub.ids import HUB_ID
from inpaint.included import name_of
from inpaint.models.generator import Generator

# Its files take the place of those of the same name that the server has.
OFFLINE = STATIC.with_name("offline")
# A static host sends no headers of ours. The network is compiled by the worker, which some browsers hold to this too.
_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'"
)
_CHARSET = '<meta charset="utf-8">\n'
# What phones decode and hold; a browser that holds less says so.
_MOST_MEGAPIXELS, _MOST_BYTES = 48, 200_000_000
_LICENCES = {"LICENSE": "onnxruntime-LICENSE.txt", "ThirdPartyNotices.txt": "onnxruntime-ThirdPartyNotices.txt"}


def require_room(folder: Path) -> None:
    """UsageError unless the folder is new or empty; InpaintError if it cannot be read."""
    try:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"the output {folder} is a file; give a new folder")
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"the output {folder} is not empty; give a new folder, or empty it")
    except OSError as error:
        raise InpaintError(f"cannot look into {folder}: {error.strerror or error}") from error


def write_web(
    generator: Generator,
    folder: Path,
    source: str | Path,
    revision: str | None = None,
    fidelity: float | None = None,
    runtime: Path | None = None,
    say: Say = quiet,
) -> None:
    """Write the page, the network, what runs it and their cards; nothing is there before all of it is.

    Args:
        generator: as it is to fill, at its `fidelity`.
        folder: new, or empty.
        source, revision: where the generator is from, for its name and card.
        runtime: see `runtime_files`.
        say: called with a line before each part of the work that takes long.

    Raises:
        UsageError: the folder is not empty, or `runtime` is something else.
        InpaintError: it cannot be written or fetched, or the architecture cannot be exported.
    """
    require_room(folder)
    require_packages()
    parts = runtime_files(runtime, say)
    part = folder.with_name(f".{folder.name}.part")
    try:
        say("copying the page and what runs it")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for path in (*STATIC.iterdir(), *OFFLINE.iterdir()):
            shutil.copyfile(path, part / path.name)
        page = (part / "index.html").read_text(encoding="utf-8")
        policy = f'{_CHARSET}<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        (part / "index.html").write_text(page.replace(_CHARSET, policy, 1), encoding="utf-8")
        for name, data in parts.items():
            (part / name).write_bytes(data)
        write_onnx(generator, part / "model.onnx", say=say)
        files = sorted(["about.json", *(path.name for path in part.iterdir())])
        name = name_of(source)
        about = json.dumps({**_about(generator, name, fidelity), "files": files}, indent=2)
        (part / "about.json").write_text(about + "\n", encoding="utf-8")
        for name_there, name_here in _LICENCES.items():
            shutil.copyfile(_onnxruntime() / name_there, part / name_here)
        (part / "MODEL_CARD.md").write_text(_card(generator, source, revision), encoding="utf-8")
        (part / "README.md").write_text(_readme(name), encoding="utf-8")
        if folder.is_dir():
            folder.rmdir()  # empty
        part.rename(folder)
    except OSError as error:
        raise InpaintError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _about(generator: Generator, name: str, fidelity: float | None) -> dict[str, Any]:
    """What the page asks its engine, and the engine has to know."""
    size_px = generator.config.image_size
    at = "" if fidelity is None else f" Fidelity {fidelity:g}, fixed."
    return {
        "model": name,
        "size_px": size_px,
        "multiple_px": generator.multiple_px,
        "bytes_per_px": generator.inference_bytes(1, 1),
        "has_fidelity": False,
        "has_detail": False,
        "strategies": ["auto", "whole"] if size_px is None else ["auto", "crop", "whole"],
        "max_bytes": _MOST_BYTES,
        "max_megapixels": _MOST_MEGAPIXELS,
        "notes": f"{at} Fills are made in this browser: no photo leaves it, and it works offline. Large holes come out "
        "smooth and colours are 8-bit sRGB; the page of inpaint demo copies detail from around the hole, and keeps 16 "
        "bits and colour profiles.".strip(),
    }


def _card(generator: Generator, source: str | Path, revision: str | None) -> str:
    """The model's own card, or one that says what is known of it."""
    for folder in (Path(source) / "generator", Path(source)):
        if (folder / "README.md").is_file():
            return (folder / "README.md").read_text(encoding="utf-8")
    if not Path(source).exists():
        try:
            return Path(hf_hub_download(str(source), "README.md", revision=revision)).read_text(encoding="utf-8")
        except RemoteEntryNotFoundError:
            pass
        except CLIENT_ERRORS as error:
            told = f"the card of {source} was not fetched ({describe(error).reason}); MODEL_CARD.md does without"
            warnings.warn(told, InpaintWarning, stacklevel=2)
    return str(generator.generate_model_card())


def _readme(name: str) -> str:
    """Of the folder, and of a static Space of the Hub."""
    data = ModelCardData(
        title="Inpaint",
        sdk="static",
        app_file="index.html",
        license="apache-2.0",
        short_description="Paint over what is to go: filled in your browser",
        tags=["inpaint", "image-inpainting"],
        models=[name] if HUB_ID.fullmatch(name) else None,
    )
    return f"""---
{data.to_yaml()}
---

# Inpaint

A page on which photographs are filled: open one, paint over what is to go, fill, download. The network runs in the
visitor's browser; no photograph leaves it, and nothing is asked of any other address. It works offline once loaded.

Any static host serves this folder; on your own machine: `python -m http.server --bind 127.0.0.1`. The model is
{name}: see [MODEL_CARD.md](MODEL_CARD.md) for what it can do and what not. A fill is a guess, and no evidence of what
was there.

The page is a part of inpaint and under the Apache License 2.0. It runs on {PACKAGE} (MIT,
[licence](onnxruntime-LICENSE.txt), [notices of others](onnxruntime-ThirdPartyNotices.txt)).
"""


def _onnxruntime() -> Path:
    """Where the Python package is, which has the licences that the npm package lacks."""
    spec = find_spec("onnxruntime")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
