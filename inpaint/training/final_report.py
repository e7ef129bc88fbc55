"""Owns the words of `report.md` on a finished run: its figures beside the baselines', its health, what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inpaint.evaluation.table import behind, markdown_table
from inpaint.training.health import Verdict

# Of evaluation.json, what is told apart from the list of facts.
_TOLD = {"split", "num_pictures", "metrics", "rows", "health", "finished", "weights_step"}


def final_report(
    name: str, evaluation: Mapping[str, Any], settings: Mapping[str, Any], health: Sequence[Verdict]
) -> str:
    """Markdown.

    Args:
        name: of the run.
        evaluation: what is in its evaluation.json.
        settings: what is in its config.yaml, by section.
        health: of all its lines.
    """
    data, training = settings["data"], settings["training"]
    rows, facts = evaluation["rows"], {key: value for key, value in evaluation.items() if key not in _TOLD}
    limit = "max_steps" if facts["steps"] == training.get("max_steps") else "epochs"
    advice = f"Raise training.{limit} (now {training[limit]}): the same command with more goes on from here"
    if limit == "epochs":
        smaller = f"training.global_batch_size (now {training['global_batch_size']})"
        advice += f"; or lower {smaller}, which makes more steps of an epoch"
    others = [kind for kind in data.get("hole_kinds", {}) if kind != "rectangle"]
    told = "It was trained on other holes; to judge it on them: inpaint evaluate --model RUN --holes"
    kinds = f"{told} {others[0]}:7\n\n" if others else ""
    lag = behind(rows, "generator")
    return (
        f"# {name}\n\nOn {evaluation['num_pictures']} held-out images of {data['image_size']} px, one "
        f"rectangular hole each, figures of the 8-bit composite:\n\n{markdown_table(rows)}\n\n{kinds}"
        + (f"{lag} after {facts['steps']} steps. {advice}.\n\n" if lag else "")
        + "".join(f"Health: {verdict}.\n\n" for verdict in health)
        + "".join(f"- {name}: {value}\n" for name, value in facts.items())
    )


def newest_grid(run_dir: Path) -> str:
    """Markdown that shows the newest sample grid and names the first, to see what was learnt between them."""
    grids = sorted(path.name for path in (run_dir / "samples").glob("epoch_*.png"))
    if not grids:
        return ""
    first = f" ([after the first judged epoch](samples/{grids[0]}))" if len(grids) > 1 else ""
    return (
        "\nHeld-out images; of each, from left to right: original, with a hole, the output, the output set into the "
        f"hole{first}:\n\n![{grids[-1]}](samples/{grids[-1]})\n"
    )
