"""Owns the table of several runs: one line each, from what they found on the test images.

python slurm/summary.py DIR      DIR/*/evaluation.json -> DIR/table.md, best first
"""

from __future__ import annotations

import sys
from pathlib import Path

from inpaint.files import read_object, write_atomically

# As in a run directory; the module that owns it would bring torch along.
CONFIG, EVALUATION = "config.yaml", "evaluation.json"
TABLE = "table.md"


def table(folder: Path) -> str:
    """Markdown: hole PSNR, SSIM and L1 of each run in `folder`; what has no (sound) report comes last, with dashes."""
    finished: list[tuple[float, str]] = []
    unfinished: list[str] = []
    for run in sorted(path.parent for path in folder.glob(f"*/{CONFIG}")):
        facts = read_object(run / EVALUATION)
        if "rows" not in facts:
            unfinished.append(f"| {run.name} | - | - | - | - | - |")
            continue
        ours = facts["rows"]["generator"]
        psnr, ssim, l1 = (ours[f"hole_{name}"] for name in ("psnr", "ssim", "l1"))
        line = f"| {run.name} | {facts['epochs']} | {facts['images_seen']} | {psnr:.2f} | {ssim:.4f} | {l1:.4f} |"
        finished.append((-psnr, line))
    head = ["| run | epochs | images seen | hole PSNR | hole SSIM | hole L1 |", "| --- |" + " ---: |" * 5]
    return "\n".join([*head, *(line for _, line in sorted(finished)), *unfinished]) + "\n"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python slurm/summary.py DIR, a folder of run directories", file=sys.stderr)
        return 2
    folder, written = Path(arguments[0]), ""
    # Another run may finish while this is being written, and then the older table must not be the one that stays.
    while (text := table(folder)) != written:
        write_atomically(folder / TABLE, text.encode())
        written = text
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
