"""How what each process does grows with the images and with the processes, and what 1.8 million on 1,000 would cost.

Images are of 16 px and processes train narrow networks over gloo on this machine; each process has the same work
whatever their number, so that what it does beyond that shows. Seconds are the processor's and per process, since two
cores share all of them; memory is a process's own, beyond what it held when all was imported. The slope is that of the
logarithms: 0 does not grow, 1 grows alike, and what is said of more follows it from the largest that was measured. The
last lines are of whole processes, with their imports.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from benchmarks.growth_pictures import write_split
from benchmarks.growth_processes import settings
from benchmarks.measuring import Figure

PICTURES = (10_000, 100_000, 1_800_000)
PROCESSES = (1, 2, 4, 8, 32)
DECODED = (2_000, 8_000)
STEPS = 10
ALL_PICTURES, ALL_PROCESSES = 1_800_000, 1000
# As many import the metrics at once: one that is slow to come on a machine of two cores is not dead.
STARTED = """
import sys
from inpaint.distributed import heartbeat
from inpaint.training.launch import main
heartbeat._SILENCE_S = 600.0
sys.exit(main(sys.argv[1:]))
"""


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        return [*by_pictures(Path(folder)), *by_processes(Path(folder)), *with_imports(Path(folder))]


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of the logarithms, by least squares."""
    xs, ys = [math.log(size) for size in sizes], [math.log(max(value, 1e-9)) for value in values]
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - middle_x) ** 2 for x in xs)


def grown(what: str, unit: str, by_size: Mapping[int, float], target: int, of: str, note: str = "") -> list[Figure]:
    """A line for each size, and one for what the slope says of `target`."""
    figures = [Figure(f"{what}, {size:,} {of}", value, unit) for size, value in by_size.items()]
    measured = {size: value for size, value in by_size.items() if value > 0 and size > 1}
    if len(measured) > 1:
        steepness, largest = slope([*measured], [*measured.values()]), max(measured)
        said = f"slope {steepness:.2f}{'; ' if note else ''}{note}"
        value = measured[largest] * (target / largest) ** max(0.0, steepness)
        last = f"{what}, {target:,} {of}, by its slope" if target > largest else f"{what}, per doubling of {of}"
        figures.append(Figure(last, value if target > largest else 2**steepness, unit if target > largest else "x"))
        figures[-1] = Figure(figures[-1].what, figures[-1].value, figures[-1].unit, None, said)
    return figures


def by_pictures(folder: Path, sizes: Sequence[int] = PICTURES, decoded: Sequence[int] = DECODED) -> list[Figure]:
    """What a split of so many costs one process that trains on one of 8 shares."""
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for num in sizes:
        write_split(folder / f"{num}", num)
        for part, figures in _measured(folder / f"{num}", num, 8, "mixed").items():
            found.setdefault(part, {})[num] = figures
    filled: dict[str, dict[int, tuple[float, float]]] = {}
    for num in decoded:
        for part, figures in _measured(folder / f"decode-{num}", num, 1, "decode").items():
            filled.setdefault(part, {})[num] = figures
    lines = []
    for part, by_size in [*found.items(), *filled.items()]:
        seconds = {size: spent for size, (spent, _) in by_size.items()}
        memory = {size: max(0.0, mib) for size, (_, mib) in by_size.items()}
        lines += grown(part, "s", seconds, ALL_PICTURES, "images")
        if any(memory.values()):
            lines += grown(f"{part}: most memory", "MiB", memory, ALL_PICTURES, "images", "goal 1,024")
    return lines


def by_processes(folder: Path, sizes: Sequence[int] = PROCESSES, steps: int = STEPS) -> list[Figure]:
    """What a process of so many does in a run that is begun, and in one that goes on."""
    by_figure: dict[tuple[str, str], dict[int, float]] = {}
    modules = folder / "modules.json"
    processes_measured(folder / "rehearsal", 2, 3, str(modules))
    for processes in sizes:
        for start, name in enumerate(("begun", "resumed"), start=1):
            job = processes_measured(folder / f"run-{processes}", processes, start * steps, str(modules))
            for key, value in _per_process(job, name).items():
                by_figure.setdefault(key, {})[processes] = value
        apart = processes_measured(folder / f"apart-{processes}", processes, steps, str(modules), "apart")
        by_figure.setdefault(("as many runs of one process each: all", "ms of a process"), {})[processes] = sum(
            counted["ms"] for process in apart["processes"] for counted in process["by_place"].values()
        ) / len(apart["processes"])
    lines = []
    for (what, unit), by_size in by_figure.items():
        ratio = by_size[max(sizes)] / by_size[2] if by_size.get(2) else float("nan")
        note = f"{ratio:.2f} times as much at {max(sizes)} as at 2"
        lines += grown(what, unit, by_size, ALL_PROCESSES, "processes", note)
    return lines


def with_imports(folder: Path, sizes: Sequence[int] = (2, 32), steps: int = STEPS) -> list[Figure]:
    """What a whole process costs that is started as a launcher starts it, the main one left out."""
    seconds = {num: statistics.mean(_started(folder / f"started-{num}", num, steps)[1:]) for num in sizes}
    ratio = seconds[max(sizes)] / seconds[min(sizes)]
    note = f"{ratio:.2f} times as much at {max(sizes)} as at {min(sizes)}"
    return grown("run begun, with all imports", "s of a process", seconds, ALL_PROCESSES, "processes", note)


def _started(run_dir: Path, processes: int, steps: int) -> list[float]:
    """Processor seconds by rank."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    numbers = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "ACCELERATE_USE_CPU": "true"}
    flags = [part for name, value in settings(processes, steps).items() for part in (f"--{name}", json.dumps(value))]
    command = [sys.executable, "-c", STARTED, "--config", "quickstart", "--run-dir", str(run_dir), *flags]
    with tempfile.TemporaryFile("w+") as said:
        children = []
        for rank in range(processes):
            environment = {**os.environ, **place, **numbers, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            children.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=said))
        ended = [os.wait4(child.pid, 0) for child in children]
        for child, (_, status, _) in zip(children, ended, strict=True):
            child.returncode = os.waitstatus_to_exitcode(status)
        if any(child.returncode for child in children):
            said.seek(0)
            raise RuntimeError(f"{processes} processes of {run_dir}: {said.read()[-2000:]}")
    return [usage.ru_utime + usage.ru_stime for _, _, usage in ended]


def _per_process(job: Mapping[str, Any], name: str) -> dict[tuple[str, str], float]:
    """By what and unit; a mean of all but the main one, where there are others; what the store sees, of all."""
    everyone = job["processes"]
    others = everyone[1:] or everyone
    places: Counter[str] = Counter()
    files = 0
    for process in others:
        for place, counted in process["by_place"].items():
            places[place] += counted.get("ms", 0)
            files += counted.get("files", 0)
    parts = {(f"run {name}: {place}", "ms of a process"): ms / len(others) for place, ms in places.items() if place}
    beats = 3 * sum(process["beats"] for process in everyone)
    messages = max(0, job["store"]["messages"] - beats)
    main_files = sum(counted.get("files", 0) for counted in everyone[0]["by_place"].values())
    return parts | {
        (f"run {name}: all", "ms of a process"): sum(places.values()) / len(others),
        (f"run {name}: files opened, made, moved", "a process"): files / len(others),
        (f"run {name}: files, the main process", ""): main_files,
        (f"run {name}: messages to the store but for beats", "a process"): messages / len(everyone),
        (f"run {name}: connections to the store", "a process"): job["store"]["connections"] / len(everyone),
        (f"run {name}: own memory", "MiB a process"): sum(each["private_mib"] for each in others) / len(others),
    }


def processes_measured(run_dir: Path, processes: int, steps: int, *modules: str) -> dict[str, Any]:
    """See `growth_processes`."""
    return _json("benchmarks.growth_processes", str(run_dir), str(processes), str(steps), *modules)


def _measured(folder: Path, num: int, processes: int, holes: str) -> dict[str, tuple[float, float]]:
    return _json("benchmarks.growth_pictures", str(folder), str(num), str(processes), holes)


def _json(module: str, *arguments: str) -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run([sys.executable, "-m", module, *arguments], env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)}: {ended.stderr[-2000:]}")
    return json.loads(ended.stdout.splitlines()[-1])
