"""Owns the model card: the template `model_card.md` filled in from a run's own files, and from nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from inpaint.fidelity import RECONSTRUCTION_FILE
from inpaint.files import read_json_lines, read_object
from inpaint.hub.ids import HUB_ID

TEMPLATE, CONFIG = Path(__file__).with_name("model_card.md"), "config.yaml"
_SYNTHETIC = "synthetic landscapes, drawn by the program itself"


def write_card(folder: Path, repo_id: str) -> None:
    """Write `README.md` and `curves.png` into a folder that holds a run's files as the repository will hold them.

    Its `config.yaml` is written anew where that names folders of this machine.

    Read, each only if it is there and whole: `config.yaml`, `metrics.jsonl`, `samples/*.png`, `evaluation.json`
    (`split`, `num_pictures`, `metrics`: how each is shown, `rows`: method to metric to value, the network's own row
    being `generator`) and `environment.json` (what to say of hardware and hours; `data_revision`). ValueError if the
    metadata are not what the Hub takes.
    """
    lines = _metrics(folder)
    _draw_curves(lines, folder / "curves.png")
    settings = _settings(folder)
    if settings != read_object(folder / CONFIG):
        (folder / CONFIG).write_text(_as_yaml(settings), encoding="utf-8")
    samples = sorted(path.name for path in (folder / "samples").glob("*.png"))
    newest = f"samples/{samples[-1]}" if samples else ""
    images = {"samples": newest, "curves": "curves.png" if (folder / "curves.png").exists() else ""}
    has_reconstruction = (folder / RECONSTRUCTION_FILE).is_file()
    ModelCard(_text_of_card(folder, lines, repo_id, repo_id, images, has_reconstruction)).save(folder / "README.md")


def write_generator_card(run_dir: Path, folder: Path, has_reconstruction: bool = False) -> None:
    """Write `README.md` into `folder`, to lie beside a run's generator on this disk: the same card without images.

    Written before `save_pretrained`, which leaves a card alone that is there already.
    """
    images = {"samples": "", "curves": ""}
    names = (run_dir.resolve().name, "path/to/this/folder")
    card = _text_of_card(run_dir, _metrics(run_dir), *names, images, has_reconstruction)
    ModelCard(card).save(folder / "README.md")


def _text_of_card(
    run: Path,
    lines: list[dict[str, Any]],
    title: str,
    source: str,
    images: dict[str, str],
    has_reconstruction: bool,
) -> str:
    settings = _settings(run)
    evaluation, environment = (read_object(run / f"{name}.json") for name in ("evaluation", "environment"))
    data = settings.get("data", {})
    data_path = data.get("path")
    rows = evaluation.get("rows", {})
    metrics = _metrics_of(evaluation)
    last = lines[-1] if lines else {}

    from jinja2 import Environment, StrictUndefined

    # Not ModelCard.from_template, which does not know strict names: a misspelt one would leave a gap.
    jinja = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return jinja.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        card_data=_card_data(title, data_path, evaluation, environment).to_yaml(),
        title=title,
        source=source,
        progress=environment.pop("weights", "")
        or (f"epoch {last['epoch']} (step {last['step']})" if {"epoch", "step"} <= last.keys() else ""),
        rows={
            method: [_figure(figures.get(name), metric["decimals"]) for name, metric in metrics.items()]
            for method, figures in rows.items()
        },
        metrics=list(metrics.values()),
        split=evaluation.get("split", ""),
        num_pictures=evaluation.get("num_pictures", "all"),
        data=_data_name(data_path),
        data_revision=environment.pop("data_revision", None),
        images_seen=last.get("images_seen"),
        environment=environment,
        config=_as_yaml(settings).strip() if settings else "# not recorded",
        image_size=data.get("image_size"),
        has_reconstruction=has_reconstruction,
        has_frozen_features=bool(settings.get("loss", {}).get("terms", {}).get("frozen_features")),
        **images,
    )


def _card_data(
    title: str, data_path: str | None, evaluation: dict[str, Any], environment: dict[str, Any]
) -> ModelCardData:
    hub_id = _hub_id(data_path)
    metrics, figures = _metrics_of(evaluation), evaluation.get("rows", {}).get("generator", {})
    results = [
        EvalResult(
            task_type="image-to-image",
            task_name="Image inpainting",
            dataset_type=hub_id or "other",
            dataset_name=_data_name(data_path),
            dataset_split=evaluation.get("split"),
            dataset_revision=environment.get("data_revision"),
            metric_type=name.removeprefix("hole_"),
            metric_name=f"{metrics[name]['heading']} ({metrics[name]['unit']})".removesuffix(" ()"),
            metric_value=value,
        )
        for name, value in figures.items()
        if math.isfinite(value)
    ]
    return ModelCardData(
        license="apache-2.0",
        library_name="inpaint",
        pipeline_tag="image-to-image",
        tags=["inpaint", "image-inpainting", "gan", "landscapes"],
        datasets=[hub_id] if hub_id else None,
        model_name=title.split("/")[-1],
        eval_results=results or None,
    )


def _settings(run: Path) -> dict[str, Any]:
    """A run's settings, of folders of this machine only the last part, for the others tell about somebody's disk."""
    settings = read_object(run / CONFIG)
    data = settings.get("data")
    if isinstance(data, dict):
        for key in ("path", "cache_dir"):
            if data.get(key) is not None and (key == "cache_dir" or _hub_id(str(data[key])) is None):
                # Resolved, since `.` and `..` have no name of their own.
                data[key] = Path(str(data[key])).resolve().name or "/"
    return settings


def _as_yaml(settings: dict[str, Any]) -> str:
    return yaml.safe_dump(settings, sort_keys=False, default_flow_style=None)


def _hub_id(path: str | None) -> str | None:
    """The `ORG/NAME` in a `data.path`; None if that is a local one."""
    match = HUB_ID.fullmatch(path or "")
    return match["name"] if match is not None and not Path(path or "").parent.is_dir() else None


def _data_name(path: str | None) -> str:
    if path is None:
        return _SYNTHETIC
    return path if _hub_id(path) else f"a local folder named {path}"


def _metrics_of(evaluation: dict[str, Any]) -> dict[str, Any]:
    """How each metric is shown; what an older run has not noted is shown plainly."""
    names: dict[str, Any] = next(iter(evaluation.get("rows", {}).values()), {})
    plain = {name: {"heading": name.replace("_", " "), "decimals": 4, "better": None, "unit": ""} for name in names}
    return plain | evaluation.get("metrics", {})


def _figure(value: float | None, decimals: int) -> str:
    return f"{value:.{decimals}f}" if value is not None and math.isfinite(value) else "-"


def _metrics(folder: Path) -> list[dict[str, Any]]:
    lines, _ = read_json_lines(folder / "metrics.jsonl")
    return [line for line in lines if "images_seen" in line]


def _draw_curves(lines: list[dict[str, Any]], path: Path) -> None:
    """Every loss over the images seen; no file where none was written down."""
    names = sorted({name for line in lines for name in line if name.startswith("loss/")})
    if not names:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in names:
        points = [(line["images_seen"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*points, strict=True), label=name.removeprefix("loss/"), linewidth=1)
    axes.set(xlabel="images seen", ylabel="loss", yscale="log")
    axes.legend()
    # Without a date and a version in it, the same curves are the same file, and pushing them again is no change.
    figure.savefig(path, dpi=110, metadata={"Software": None})
