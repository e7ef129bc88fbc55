"""The examples of CONTRIBUTING.md, performed as written on a copy of the tree: two files each, and two steps."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

ROOT = Path(__file__).parent.parent
TINY = [
    *("--data.image_size", "32", "--data.synthetic_train", "8", "--data.synthetic_held_out", "2"),
    *("--training.global_batch_size", "4", "--training.phases", "0", "0", "1", "--training.log_every", "1"),
    *(
        "--training.epochs",
        "1",
        "--model.width",
        "2",
        "--optimizer.schedule",
        "constant",
        "--training.num_threads",
        "1",
    ),
]
# A block of code, and the line that says which file it is, or in which table of `tables.py` its line stands.
BLOCK = re.compile(r"(?:^`([^`\n]+)`(?:, in `(\w+)`)?:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Trains once for each list of flags, in one process: torch is imported once.
TRAINING = """
import json, sys
import inpaint
from inpaint.training.launch import main
assert inpaint.__file__.startswith(sys.argv[1]), inpaint.__file__
sys.exit(max(main(flags) for flags in json.loads(sys.argv[2])))
"""


@dataclass
class Example:
    """What one section tells to write, to insert and to run."""

    files: dict[str, str] = field(default_factory=dict)
    lines: list[tuple[str, str, str]] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)

    @property
    def touched(self) -> set[str]:
        return {*self.files, *(path for path, _, _ in self.lines)}


def read_examples() -> dict[str, Example]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    sections = text.partition("\n## Adding something\n")[2].partition("\n## ")[0].split("\n### ")[1:]
    found: dict[str, Example] = {}
    for section in sections:
        title, _, body = section.partition("\n")
        example = found[title] = Example()
        for path, table, language, code in BLOCK.findall(body):
            if language == "bash":
                python, script, *example.flags = shlex.split(code)
                assert (python, script) == ("python", "train.py")
            elif table:
                example.lines.append((path, table, code))
            else:
                assert path, f"{title}: a block of code that no file is named for"
                example.files[path] = code
    return found


EXAMPLES = read_examples()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with all examples in it, and a run of two steps of each in runs/."""
    root = tmp_path_factory.mktemp("tree")
    for name in ("inpaint", "train.py", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    for example in EXAMPLES.values():
        for path, code in example.files.items():
            assert not (root / path).exists()
            (root / path).write_text(code, encoding="utf-8")
        for path, table, line in example.lines:
            text = (root / path).read_text(encoding="utf-8")
            assert text.count(f"\n{table} = {{\n") == 1
            before, start, after = text.partition(f"\n{table} = {{\n")
            inside, end, rest = after.partition("}")
            (root / path).write_text(f"{before}{start}{inside}{line}{end}{rest}", encoding="utf-8")
    starts = [[*example.flags, *TINY, "--run-dir", f"runs/{title}"] for title, example in EXAMPLES.items()]
    environment = os.environ | {"PYTHONPATH": str(root)}
    program = [sys.executable, "-c", TRAINING, str(root), json.dumps(starts)]
    ended = subprocess.run(program, cwd=root, env=environment, capture_output=True, text=True, timeout=1800)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return root


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def tensors_of(run: Path, network: str) -> list[str]:
    file = max(run.glob(f"checkpoints/step_*/{network}.safetensors"))
    with safe_open(file, framework="numpy") as opened:
        return [*opened.keys()]


def test_each_example_is_one_new_file_and_one_line() -> None:
    assert [*EXAMPLES] == ["A loss", "A discriminator", "A generator", "A kind of hole", "A metric", "A preset"]
    for title, example in EXAMPLES.items():
        assert len(example.files) == 1 and len(example.touched) == (1 if title == "A preset" else 2), title
        assert all(path == "inpaint/tables.py" and code.count("\n") == 1 for path, _, code in example.lines)


def test_each_trains_two_steps(tree: Path) -> None:
    for title in EXAMPLES:
        losses = [line for line in log_of(tree / "runs" / title) if "loss/generator/adversarial" in line]
        assert [line["step"] for line in losses] == [1, 2], title
        assert all(math.isfinite(value) for line in losses for name, value in line.items() if name.startswith("loss/"))


def test_the_loss_is_logged(tree: Path) -> None:
    for title in EXAMPLES:
        has = [line for line in log_of(tree / "runs" / title) if "loss/generator/charbonnier" in line]
        assert len(has) == (2 if title == "A loss" else 0)
        assert all(0 < line["loss/generator/charbonnier"] < 1 for line in has)


def test_the_networks_are_those_that_are_named(tree: Path) -> None:
    for title in EXAMPLES:
        run = tree / "runs" / title
        assert any("bottom" in name for name in tensors_of(run, "generator")) == (title == "A generator")
        # Of the built-in patch discriminator a layer is a convolution alone.
        is_small = any(name.startswith("layers.0.0.") for name in tensors_of(run, "discriminator"))
        assert is_small == (title == "A discriminator")
        architecture = json.loads((run / "generator" / "config.json").read_text())["architecture"]
        assert architecture == {"A generator": "unet", "A preset": "dilated"}.get(title, "smooth_prior")


def test_the_kind_of_hole_is_drawn(tree: Path) -> None:
    kinds = yaml.safe_load((tree / "runs" / "A kind of hole" / "config.yaml").read_text())["data"]["hole_kinds"]
    assert kinds == {"ellipse": 1.0, "rectangle": 1.0}
    first = {title: log_of(tree / "runs" / title)[0]["loss/discriminator/real"] for title in EXAMPLES}
    assert first["A kind of hole"] != first["A metric"]
    program = (
        "import torch; from inpaint.tables import HOLES, load; kind = load(HOLES, 'ellipse')\n"
        "mask = kind.rasterise(torch.tensor([[3.0, 5.0, 21.0, 11.0]]), 32)[0, 0]\n"
        "rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()\n"
        "print(rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item(), mask.sum().item())"
    )
    environment = os.environ | {"PYTHONPATH": str(tree)}
    said = subprocess.run([sys.executable, "-c", program], cwd=tree, env=environment, capture_output=True, text=True)
    *box, area = map(int, said.stdout.split())
    assert box == [5, 15, 3, 23] and area == pytest.approx(math.pi * 21 * 11 / 4, rel=0.03), said.stderr


def test_the_metric_is_in_log_report_and_card(tree: Path) -> None:
    run = tree / "runs" / "A metric"
    (evaluated,) = [line for line in log_of(run) if "evaluation/hole_psnr" in line]
    assert 0 < evaluated["evaluation/hole_gradient_psnr"] < 100
    for text in ((run / "report.md").read_text(), (run / "generator" / "README.md").read_text()):
        assert "hole gradient PSNR" in text


def test_the_preset_is_listed_and_sets_its_values(tree: Path) -> None:
    program = "import sys; from inpaint.training.launch import main; sys.exit(main(['--list-presets']))"
    environment = os.environ | {"PYTHONPATH": str(tree)}
    said = subprocess.run([sys.executable, "-c", program], cwd=tree, env=environment, capture_output=True, text=True)
    (line,) = [line for line in said.stdout.splitlines() if line.startswith("long ")]
    assert line.endswith("The base network for twenty epochs, with a cosine schedule.")
    assert yaml.safe_load((tree / "runs" / "A preset" / "config.yaml").read_text())["model"]["bottleneck"] == 4


def test_the_code_is_as_lint_wants_it(tree: Path) -> None:
    files = [path for example in EXAMPLES.values() for path in example.files if path.endswith(".py")]
    for command in (["check", "--quiet"], ["format", "--check", "--quiet"]):
        ended = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *files], cwd=tree, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
