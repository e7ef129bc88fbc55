"""Owns `report.md`: of one run, what training wrote with curves and samples; of several, their table and overlays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from inpaint.errors import InpaintError
from inpaint.files import write_atomically
from inpaint.reports import samples
from inpaint.reports.figures import draw
from inpaint.reports.runs import Run
from inpaint.reports.same import require_same_data, without_copies
from inpaint.reports.table import Ratings, lines_of, published_study, tables
from inpaint.training.final_report import final_report
from inpaint.training.run_directory import REPORT

PLOTS, FOLDER = "plots", "report"


@dataclass(frozen=True)
class Written:
    """Where the report is, and what of it is for the terminal."""

    path: Path
    summary: str


def write_report(runs: Sequence[Run], out: Path | None, ratings: Ratings) -> Written:
    """`report.md` and `plots/*.png`.

    Args:
        runs: one or several.
        out: the folder; None: that of one run, whose report.md is written anew, or report/ beside several.
        ratings: see `tables`.

    Raises:
        InpaintError: several runs are of different data, or the folder cannot be written.
    """
    told: list[str] = []
    is_table = len(runs) > 1
    if is_table:
        beside = {run.path.resolve().parent for run in runs}
        folder = out or (runs[0].path.parent if len(beside) == 1 else Path()) / FOLDER
        require_same_data(runs)
        runs, told = without_copies(runs)
        study = published_study(runs)
        summary = tables(lines_of(runs, study), study, ratings)
        text = f"# {len(runs)} run{'s' * (len(runs) > 1)}\n\n{summary}\n"
    else:
        folder, run = out or runs[0].path, runs[0]
        text = _of_one(run)
        summary = "\n".join([run.standing.state, *run.standing.progress(), *(f"health: {its}" for its in run.health)])
    told += [f"{run.name}: {fault}" for run in runs for fault in run.standing.faults]
    if told:
        listed = "\n".join(f"- {line}" for line in told)
        text, summary = f"{text}\n{listed}\n", f"{summary}\n{listed}"
    try:
        (folder / PLOTS).mkdir(parents=True, exist_ok=True)
        for name, about, png in draw(runs):
            write_atomically(folder / PLOTS / name, png)
            text += f"\n{about}\n\n![{name}]({PLOTS}/{name})\n"
        for name, about, sheet in _sheets(runs, folder):
            sheet.save(data := BytesIO(), "PNG")
            write_atomically(folder / PLOTS / name, data.getvalue())
            text += f"\n{about}\n\n![{name}]({PLOTS}/{name})\n"
        if is_table:
            text += "\n## Health\n\n" + "".join(f"- {run.name}: {its}\n" for run in runs for its in run.health)
        write_atomically(folder / REPORT, text.encode())
    except OSError as error:
        raise InpaintError(f"{folder} cannot be written ({error.strerror}); give another folder as --out") from error
    return Written(folder / REPORT, summary)


def _of_one(run: Run) -> str:
    if run.final:
        return final_report(run.path.resolve().name, run.final, run.settings, run.health)
    told = "".join(f"Health: {verdict}.\n\n" for verdict in run.health)
    return f"# {run.path.resolve().name}\n\nNo figures on test images yet: {run.lacks}.\n\n{told}"


def _sheets(runs: Sequence[Run], folder: Path) -> list[tuple[str, str, Image.Image]]:
    if len(runs) == 1:
        sheet, about = samples.over_time(runs[0]), "Held-out images, their holes filled by the generator of each epoch"
        newest = samples.grids(runs[0])[-1:] if folder == runs[0].path else []
        about += "".join(f" ([all of the newest, with the whole output](samples/{path.name}))" for path in newest) + ":"
        return [("samples.png", about, sheet)] if sheet else []
    if sheet := samples.side_by_side(runs):
        return [("samples.png", "The same held-out images, filled by each run after its last judged epoch:", sheet)]
    return []
