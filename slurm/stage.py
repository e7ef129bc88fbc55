"""Owns staging: the decoded images of a run, copied from the shared cache to a folder on this node's own disk.

python slurm/stage.py FOLDER [train.py's arguments]      then train with INPAINT_CACHE=FOLDER
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from inpaint.arguments import parse_arguments
from inpaint.data.cache import build_once, check_room
from inpaint.data.decoded import SyntheticSpec, open_images
from inpaint.errors import InpaintError, UsageError


def stage(folder: Path, train_arguments: list[str]) -> Path:
    """Copy what `train.py` with these arguments will read into `folder`, unless it is there; decoded first if need be.

    Returns:
        The entry in `folder`.

    Raises:
        InpaintError: the images cannot be read, or there is no room in `folder`.
    """
    data = parse_arguments(train_arguments)[0].data
    if data.cache_dir is not None:
        raise UsageError(f"data.cache_dir = {data.cache_dir} would be read, not the staged copy; set INPAINT_CACHE")
    images = open_images(
        data.path,
        data.hole_spec,
        cache_dir=None,
        max_bad_fraction=data.max_bad_fraction,
        synthetic=SyntheticSpec.of(data),
        show_progress=False,
    )
    entry = Path(images["train"].pixels.filename).parent  # type: ignore[attr-defined]
    staged = folder / entry.name

    def copy(temporary: Path) -> None:
        check_room(folder, sum(file.stat().st_size for file in entry.iterdir()))
        shutil.rmtree(temporary)
        shutil.copytree(entry, temporary)

    build_once(staged, copy)
    return staged


def main(arguments: list[str]) -> int:
    try:
        if not arguments:
            raise UsageError("usage: python slurm/stage.py FOLDER [train.py's arguments]")
        staged = stage(Path(arguments[0]), arguments[1:])
    except InpaintError as error:
        print(f"stage: {error}", file=sys.stderr)
        return 1
    print(f"staged: {staged}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
