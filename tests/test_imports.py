"""Which way imports point, and what must not be imported where; read from the source, nothing is run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "inpaint").rglob("*.py"), ROOT / "train.py"])

# From the bottom up; a module may import from its own line and from those above it. The longest prefix counts.
LAYERS = [
    ["inpaint.errors", "inpaint.files", "inpaint.memory", "inpaint.processes", "inpaint.data.holes"],
    [
        "inpaint.config",
        "inpaint.config_file",
        "inpaint.hints",
        "inpaint.resolve",
        "inpaint.arguments",
        "inpaint.hub.errors",
    ],
    ["inpaint.models", "inpaint.losses", "inpaint.data"],
    ["inpaint.training", "inpaint.evaluation", "inpaint.pipeline", "inpaint.hub"],
    ["inpaint.cli", "inpaint.commands", "inpaint.__main__", "train"],
]
# Within a line: who may import whom.
NEIGHBOURS = {
    ("inpaint.training", "inpaint.evaluation"),
    ("inpaint.training", "inpaint.hub"),
    ("inpaint.processes", "inpaint.errors"),
    ("inpaint.resolve", "inpaint.config"),
    ("inpaint.config_file", "inpaint.config"),
    ("inpaint.resolve", "inpaint.config_file"),
    ("inpaint.resolve", "inpaint.hints"),
    ("inpaint.arguments", "inpaint.config"),
    ("inpaint.arguments", "inpaint.hints"),
    ("inpaint.arguments", "inpaint.resolve"),
    ("inpaint.pipeline", "inpaint.evaluation"),
    ("inpaint.__main__", "inpaint.cli"),
}
HEAVY = {"torch", "accelerate", "datasets", "transformers", "torchmetrics", "cv2", "matplotlib", "deepspeed"}
PARTS = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, inside functions and for type checking too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative"
            module = node.module or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                yield node.lineno, whole if module.startswith("inpaint") and exists(whole) else module


def part_of(module: str) -> str | None:
    found = [part for part in PARTS if module == part or module.startswith(f"{part}.")]
    return max(found, key=len, default=None)


EVERY = [(path, line, module) for path in FILES for line, module in imports(path)]


def where(path: Path, line: int, module: str) -> str:
    return f"{path.relative_to(ROOT)}:{line} imports {module}"


def test_every_module_has_its_place() -> None:
    assert not [path for path in FILES if part_of(name_of(path)) is None and name_of(path) != "inpaint"]


def test_imports_point_one_way() -> None:
    back = []
    for path, line, module in EVERY:
        ours, theirs = part_of(name_of(path)), part_of(module)
        if ours is None or theirs is None or ours == theirs or (ours, theirs) in NEIGHBOURS:
            continue
        # `inpaint.data.holes` lies below the rest of its package, which may use it like anyone.
        if PARTS[theirs] >= PARTS[ours]:
            back.append(where(path, line, module))
    assert not back


def test_only_the_runtime_knows_the_engine() -> None:
    knowing = {
        path.relative_to(ROOT).as_posix() for path, _, m in EVERY if m.split(".")[0] in ("accelerate", "deepspeed")
    }
    assert knowing == {"inpaint/training/runtime.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_can_be_unpickled(path: Path) -> None:
    pickling = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not [where(path, line, module) for line, module in imports(path) if module.split(".")[0] in pickling]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, f"{path}:{node.lineno}"
        # numpy's own loader unpickles only when asked to.
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code"):
            assert isinstance(node.value, ast.Constant) and node.value.value is False, f"{path}:{node.value.lineno}"


@pytest.mark.parametrize(
    "start",
    [
        "from inpaint.cli import main; main(['--help'])",
        "from inpaint.cli import main; main(['fill', '--help'])",
        "from inpaint.training.launch import main; main(['--help'])",
        "import inpaint",
    ],
)
def test_the_command_line_starts_without_the_heavy_libraries(start: str) -> None:
    program = (
        f"import sys\ntry:\n    {start}\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"sys.exit(' '.join({HEAVY} & sys.modules.keys()) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
