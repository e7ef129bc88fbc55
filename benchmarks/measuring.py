"""Owns how things are timed and told: rivals take turns in one run, and a ratio is of neighbours."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "RESULTS.md"


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Args:
        what: what was measured, of what, how large.
        value: in `unit`.
        spread: half the range of the middle half of all rounds, in `unit`; None where it was measured once.
        note: what one must know to read it.
    """

    what: str
    value: float
    unit: str
    spread: float | None = None
    note: str = ""


def now() -> float:
    """Seconds: of this process's processors, which other programs' load leaves alone; on a GPU of the clock."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def take_turns(
    rivals: Mapping[str, Callable[[], object]], rounds: int = 5, clock: Callable[[], float] = now
) -> dict[str, list[float]]:
    """Seconds of each call, by rival and round: A B A B ..., after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        for name, act in rivals.items():
            start = clock()
            act()
            if number:
                seconds[name].append(clock() - start)
    return seconds


def middle(values: Sequence[float]) -> tuple[float, float]:
    """The median, and half the distance between the quartiles."""
    if len(values) < 2:
        return values[0], 0.0
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return statistics.median(values), (upper - lower) / 2


def rate(what: str, seconds: Sequence[float], num: int, unit: str, note: str = "") -> Figure:
    """`num` things in each of `seconds`, as things per second."""
    value, spread = middle([num / each for each in seconds])
    return Figure(what, value, unit, spread, note)


def ratio(what: str, seconds: Sequence[float], rival_seconds: Sequence[float], note: str = "") -> Figure:
    """How often faster than the rival that was measured next to it."""
    value, spread = middle([theirs / ours for ours, theirs in zip(seconds, rival_seconds, strict=True)])
    return Figure(what, value, "x", spread, note)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of a few: what this machine can do at all."""
    size = 8192 if device.type == "cuda" else 1024
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # in TF32, as convolutions are taken
    try:
        seconds = take_turns({"": lambda: one @ other}, rounds=8)[""]
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * size**3 / min(seconds)


def machine() -> str:
    """The processor or GPU, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line.split(":")[1].strip() for line in lines_of("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"


def load() -> float:
    """How many programs have wanted to run in the last minute."""
    return os.getloadavg()[0]


def table(figures: Sequence[Figure]) -> str:
    """Markdown, aligned for the terminal."""
    cells = [["what", "figure", "spread", "note"]]
    for figure in figures:
        spread = "" if figure.spread is None else f"± {_short(figure.spread)}"
        cells.append([figure.what, f"{_short(figure.value)} {figure.unit}", spread, figure.note])
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |" for row in cells)


def heading(suite: str, load_before: float) -> str:
    """Suite, date, machine, versions, load."""
    names = ("torch", "accelerate", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"## {suite}\n\n{date.today()}; {machine()}; Python {platform.python_version()}, {versions}; "
        f"load {load_before:.1f} before, {load():.1f} after"
    )


def append_results(text: str) -> None:
    """At the end of RESULTS.md."""
    with RESULTS.open("a") as file:
        file.write(f"\n{text}\n")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def watched(command: Sequence[str], environment: Mapping[str, str]) -> tuple[str, float]:
    """What a command said, and the most memory it held, in MiB.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.DEVNULL, env=environment)
        most_kib = 0
        while process.poll() is None:
            # Not what wait4 tells: that begins with the memory of this process, from which it was forked.
            peak = re.search(r"VmHWM:\s+(\d+) kB", "\n".join(lines_of(f"/proc/{process.pid}/status")))
            most_kib = int(peak[1]) if peak else most_kib
            time.sleep(0.02)
        said.seek(0)
        text = said.read().decode()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {text}")
    return text, most_kib / 1024


def lines_of(path: str) -> list[str]:
    """Of a text file; none where it cannot be read."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
