"""Owns the curves: losses, validation figures, the discriminator's scores and the pace, of one run or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inpaint.errors import UsageError
from inpaint.evaluation.metrics import DISTANCE, VARIETY, all_metrics
from inpaint.reports.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

PHASES = {
    1: ("#4477aa", "phase 1: generator"),
    2: ("#ccbb44", "phase 2: discriminators"),
    3: ("#ee6677", "phase 3: both"),
}
# More points than this are averaged in groups, so that a long run does not become a band of noise.
_MOST_POINTS = 300
_WIDTH_IN, _PANEL_IN, _STRIP_IN, _ROW_IN = 10.0, 2.3, 0.35, 0.16
# A loss whose peak is so many times its median is shown on a logarithmic scale, down to such a part of that.
_LOG_FROM, _LOWEST = 10.0, 1000.0
_PLAIN = "evaluation/mean_fill_hole_psnr"


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: above it.
        key: of metrics.jsonl, what is drawn.
        level: where a horizontal line stands, and what it means.
        range: of the vertical axis, where it is not by what is drawn; None at an end: by that.
    """

    title: str
    key: str
    level: tuple[float, str] | None = None
    range: tuple[float | None, float | None] | None = None


def require_matplotlib() -> None:
    if find_spec("matplotlib") is None:
        raise UsageError("reports are drawn with matplotlib, which is not installed; pip install 'inpaint[report]'")


def draw(runs: Sequence[Run]) -> Iterator[tuple[str, str, bytes]]:
    """Each figure that the runs have anything for: its file's name, what it shows in words, and the PNG."""
    colours = _colours(runs)
    names = sorted({key for run in runs for row in run.training for key in row if key.startswith("loss/")})
    losses = [Panel(name.removeprefix("loss/").replace("/", ": ").replace("_", " "), name) for name in names]
    told = "Losses, unweighted, over the images seen" + (", in the colour of their phase." if len(runs) == 1 else ".")
    yield from _figure("losses", f"{told} The bars on top show the phases.", runs, losses, colours)
    about = "Figures on validation images over the epochs."
    yield from _figure("validation", about, runs, _validation(runs), colours, over="epoch")
    beliefs = [
        Panel(f"{which} images", key, (0.5, "a guess"), (0.0, 1.0))
        for which, key in (("real", "score/real"), ("generated", "score/fake"))
    ]
    about = "How sure the discriminator is, on average, that images are real; near 0.5 on both it cannot tell."
    yield from _figure("scores", about, runs, beliefs, colours)
    pace = Panel("images per second", "time/images_per_s", range=(0.0, None))
    yield from _figure("throughput", "Images trained on per second, over all processes.", runs, [pace], colours)


def _validation(runs: Sequence[Run]) -> list[Panel]:
    levels = {"sharpness": (1.0, "right"), "variety": (1.0, "the truth's")}
    plain = [row[_PLAIN] for run in runs for row in run.evaluations if _has([row], _PLAIN)]
    levels |= {"hole_psnr": (plain[0], "one plain colour")} if plain else {}
    # Of the whole image most is not filled, and its figures say nothing that those of the hole do not.
    metrics = {name: metric for name, metric in all_metrics().items() if name not in ("psnr", "l1", "ssim")}
    metrics |= {"variety": VARIETY, "distance": DISTANCE}
    panels = []
    for name, metric in metrics.items():
        better = {"higher": "higher is better", "lower": "lower is better", "one": "1 is right"}[metric.better]
        unit = f" [{metric.unit}]" if metric.unit else ""
        panels.append(Panel(f"{metric.heading}{unit} ({better})", f"evaluation/{name}", levels.get(name)))
    return panels


def _figure(
    name: str,
    about: str,
    runs: Sequence[Run],
    panels: Sequence[Panel],
    colours: Mapping[str, Any],
    over: str = "images_seen",
) -> Iterator[tuple[str, str, bytes]]:
    rows_of: Callable[[Run], Rows] = (lambda run: run.evaluations) if over == "epoch" else (lambda run: run.training)
    panels = [panel for panel in panels if any(_has(rows_of(run), panel.key) for run in runs)]
    if not panels:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    num_columns = min(2, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    with_strip = over != "epoch"
    strip_in = (_STRIP_IN + _ROW_IN * len(runs)) if with_strip else 0.0
    legend_in = 0.3 * math.ceil((len(colours) + len(PHASES)) / 4)
    height = strip_in + num_rows * (_PANEL_IN if num_columns == 2 else 1.4 * _PANEL_IN) + legend_in
    figure = Figure(figsize=(_WIDTH_IN, height), layout="constrained")
    ratios = [strip_in] * with_strip + [(height - strip_in) / num_rows] * num_rows
    grid = figure.add_gridspec(num_rows + with_strip, num_columns, height_ratios=ratios)
    scale = _kilo(runs) if over == "images_seen" else 1
    label = "epoch" if over == "epoch" else "images seen" + (" [thousands]" if scale > 1 else "")
    strips = [figure.add_subplot(grid[0, column]) for column in range(num_columns * with_strip)]
    for column, strip in enumerate(strips):
        _strip(strip, runs, scale, with_names=column == 0)
    for number, panel in enumerate(panels):
        place = grid[with_strip + number // num_columns, number % num_columns]
        axes = figure.add_subplot(place)
        for run in runs:
            _draw(axes, run, rows_of(run), panel, over, scale, colours, by_phase=name == "losses" and len(runs) == 1)
        _finish(axes, panel, label)
        if strips:
            axes.set_xlim(strips[0].get_xlim())
    shown = {row.get("phase") for run in runs for row in run.training} if with_strip else set()
    _legend(figure, colours if len(runs) > 1 else {}, [PHASES[phase] for phase in PHASES if phase in shown])
    png = BytesIO()
    # Without a version in it, the same curves are the same file.
    figure.savefig(png, dpi=110, metadata={"Software": None})
    yield f"{name}.png", about, png.getvalue()


def _draw(
    axes: Axes,
    run: Run,
    rows: Rows,
    panel: Panel,
    over: str,
    scale: int,
    colours: Mapping[str, Any],
    by_phase: bool,
) -> None:
    parts = {phase: [row for row in rows if row.get("phase") == phase] for phase in PHASES} if by_phase else {0: rows}
    for phase, its in parts.items():
        x, y = _thinned(*_points(its, over, panel.key))
        style: dict[str, Any] = {"color": PHASES[phase][0] if by_phase else colours[run.setting], "linewidth": 1.1}
        # A point alone, as of a phase of one logged step, would be no line.
        style |= {"marker": "o", "markersize": 2.5} if len(x) < 60 else {}
        axes.plot(x / scale, y, **style)


def _finish(axes: Axes, panel: Panel, label: str) -> None:
    if panel.range is not None:
        axes.set_ylim(*panel.range)
    elif panel.key.startswith("loss/"):
        values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()])
        if (values >= 0).all() and values.max() > _LOG_FROM * (usual := np.median(values)) > 0:
            axes.set_yscale("log")
            axes.set_ylim(bottom=max(values[values > 0].min(), usual / _LOWEST) / 1.3)
    if panel.level is not None:
        value, meaning = panel.level
        axes.axhline(value, color="0.5", linewidth=0.8, linestyle=":")
        sideways = axes.get_yaxis_transform()
        axes.text(1, value, meaning, transform=sideways, ha="right", va="bottom", fontsize=7, color="0.4")
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.92", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if label == "epoch":
        axes.locator_params(axis="x", integer=True)


def _strip(axes: Axes, runs: Sequence[Run], scale: int, with_names: bool) -> None:
    """A bar for each run, in the colours of its phases."""
    for row, run in enumerate(runs):
        for phase, spans in _spans(run.training).items():
            scaled = [(start / scale, width / scale) for start, width in spans]
            axes.broken_barh(scaled, (-row - 0.4, 0.8), color=PHASES[phase][0], linewidth=0)
    end = max((row["images_seen"] for run in runs for row in run.training if "images_seen" in row), default=1)
    axes.set_xlim(0, end / scale)
    axes.set_ylim(-len(runs) + 0.4, 0.6)
    axes.set_yticks([-row for row in range(len(runs))], [run.name if with_names else "" for run in runs], fontsize=7)
    axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.tick_params(axis="y", length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _spans(rows: Rows) -> dict[int, list[tuple[float, float]]]:
    """Where each phase was, (start, width) in images seen; each line stands for what came since the one before."""
    spans: dict[int, list[tuple[float, float]]] = {}
    start, last = 0.0, None
    for row in rows:
        phase, end = row.get("phase"), row.get("images_seen")
        if phase not in PHASES or not isinstance(end, int | float):
            continue
        its = spans.setdefault(phase, [])
        if phase == last:
            its[-1] = (its[-1][0], end - its[-1][0])
        else:
            its.append((start, end - start))
        start, last = end, phase
    return spans


def _legend(figure: Figure, colours: Mapping[str, Any], phases: Sequence[tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    handles += [Patch(color=colour, label=name) for colour, name in phases]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)


def _colours(runs: Sequence[Run]) -> dict[str, Any]:
    """A colour for each setting; the runs of one that differ in their seed share it."""
    from matplotlib import colormaps

    settings = [*dict.fromkeys(run.setting for run in runs)]
    if len(settings) <= 10:
        return {name: colormaps["tab10"](index) for index, name in enumerate(settings)}
    return {name: colormaps["turbo"](0.05 + 0.9 * index / (len(settings) - 1)) for index, name in enumerate(settings)}


def _kilo(runs: Sequence[Run]) -> int:
    most = max((row.get("images_seen", 0) for run in runs for row in run.training), default=0)
    return 1000 if most > 20_000 else 1


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _has(rows: Rows, key: str) -> bool:
    return any(math.isfinite(_number(row.get(key))) for row in rows)


def _points(rows: Rows, over: str, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What of `rows` has both figures."""
    pairs = [(_number(row.get(over)), _number(row.get(key))) for row in rows]
    found = np.array([pair for pair in pairs if all(map(math.isfinite, pair))]).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The means of groups of neighbours, where there are too many points to see."""
    if len(x) <= _MOST_POINTS:
        return x, y
    groups = np.array_split(np.arange(len(x)), _MOST_POINTS)
    thin_x, thin_y = (np.array([values[group].mean() for group in groups]) for values in (x, y))
    return thin_x, thin_y
