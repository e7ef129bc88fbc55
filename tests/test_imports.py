"""Which way imports point, and what must not be imported where; read from the source, nothing is run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "inpaint").rglob("*.py"), ROOT / "train.py"])

# From the bottom up; a module may import from its own part and from those above it in this list, and from no other.
ORDER = [
    *(
        "errors",
        "tables",
        "fidelity",
        "included",
        "files",
        "memory",
        "processes",
        "hints",
        "web",
        "holes",
        "config",
        "config_file",
        "resolve",
        "arguments",
    ),
    *(
        "hub",
        "images",
        "sources",
        "models",
        "losses",
        "data",
        "prepare",
        "distributed",
        "evaluation",
        "rating",
        "training",
        "studies",
        "reports",
    ),
    *("photographs", "precision", "pipeline", "", "filling", "demo", "exports", "commands", "cli", "__main__"),
]
HEAVY = {"torch", "accelerate", "datasets", "transformers", "torchmetrics", "cv2", "matplotlib", "deepspeed"}


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


def part_of(module: str) -> str:
    """`data` for `inpaint.data.stream`, "" for `inpaint` itself."""
    return module.partition(".")[2].partition(".")[0]


EVERY = [(path, line, module) for path in FILES for line, module in imports(path)]


def where(path: Path, line: int, module: str) -> str:
    return f"{path.relative_to(ROOT)}:{line} imports {module}"


def test_every_part_has_its_place() -> None:
    assert {part_of(name_of(path)) for path in FILES if path != ROOT / "train.py"} == set(ORDER)


def test_imports_point_one_way() -> None:
    back = []
    for path, line, module in EVERY:
        if path == ROOT / "train.py" or module.split(".")[0] != "inpaint":
            continue
        ours, theirs = part_of(name_of(path)), part_of(module)
        if ours != theirs and ORDER.index(theirs) >= ORDER.index(ours):
            back.append(where(path, line, module))
    assert not back


def test_no_module_imports_itself_through_others() -> None:
    graph: dict[str, set[str]] = {}
    for path, _, module in EVERY:
        if module.startswith("inpaint."):
            graph.setdefault(name_of(path), set()).add(module)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_only_the_runtime_knows_the_engine() -> None:
    knowing = {
        path.relative_to(ROOT).as_posix() for path, _, m in EVERY if m.split(".")[0] in ("accelerate", "deepspeed")
    }
    assert knowing == {"inpaint/distributed/runtime.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_can_be_unpickled(path: Path) -> None:
    pickling = {"pickle", "pickletools", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
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
        "from inpaint.training.launch import main; assert main(['--help']) == 0",
        "from inpaint.training.launch import main; assert main(['--print-defaults', '--config', 'paper/final']) == 0",
        "from inpaint.training.launch import main; assert main(['--list-presets']) == 0",
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
