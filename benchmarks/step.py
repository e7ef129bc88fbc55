"""Images a second in each phase, how near that is to what the machine can do, and against the baseline loop.

Operations are counted as if padding were multiplied too, which oneDNN in part leaves out, and on CPUs that are not
Intel's the library of the float32 product may use narrower vectors than that of the convolutions: the share can pass
100%. Seconds are the processor's, so that what else runs on the machine counts little.
"""

from __future__ import annotations

import tempfile
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baseline_loop import BaselineLoop
from benchmarks.measuring import Figure, matmul_peak, rate, ratio, take_turns
from benchmarks.subject import Subject, configured, reset_threads
from inpaint.distributed.network import DTYPES

PHASES = (1, 2, 3)


def run() -> list[Figure]:
    reset_threads()
    with tempfile.TemporaryDirectory() as folder:
        files = image_files(Path(folder), 64)
        return [
            *_against_baseline("paper/final, width 64", files, batch_size=16, rounds=3, width=64),
            *_against_baseline("paper/final, width 16", files, batch_size=32, rounds=5, width=16),
        ]


def _against_baseline(name: str, files: list[Path], batch_size: int, rounds: int, width: int) -> list[Figure]:
    config = configured("paper/final", batch_size, model__width=width)
    ours, half = Subject(config), Subject(configured("paper/final", batch_size, "bf16", model__width=width))
    baseline = BaselineLoop(files, batch_size, width)
    batch, half_batch, their_batch = ours.batch(), half.batch(), baseline.batch()
    seconds = take_turns(
        {
            **{f"{phase}": partial(ours.step, phase, batch) for phase in PHASES},
            **{f"baseline {phase}": partial(baseline.step, phase, their_batch) for phase in PHASES},
            **{f"bf16 {phase}": partial(half.step, phase, half_batch) for phase in PHASES},
            "data": ours.batch,
            "baseline data": baseline.batch,
        },
        rounds,
    )
    figures = []
    for kind, subject, precision in (("", ours, "float32"), ("bf16 ", half, "bf16")):
        peak = matmul_peak(subject.runtime.device, DTYPES[precision])
        for phase in PHASES:
            spent = seconds[f"{kind}{phase}"]
            speed = flops(subject, phase) / min(spent)
            note = f"{speed / 1e12:.3f} TFLOP/s, {speed / peak:.0%} of the matmul peak of {peak / 1e12:.3f}"
            figures.append(
                rate(f"{name}, batch {batch_size}, {precision}, phase {phase}", spent, batch_size, "img/s", note)
            )
    for kind, precision in (("", "float32"), ("bf16 ", "bf16")):
        for phase in PHASES:
            what = f"{name}, phase {phase}: {precision} against the baseline's float32"
            figures.append(ratio(what, seconds[f"{kind}{phase}"], seconds[f"baseline {phase}"]))
        figures.append(
            ratio(
                f"{name}, an epoch with its data: {precision} against the baseline's float32",
                _epoch(seconds, kind, "data", config.training.phases),
                _epoch(seconds, "baseline ", "baseline data", config.training.phases),
                f"phases {', '.join(map(str, config.training.phases))}",
            )
        )
    ours.close()
    half.close()
    return figures


def _epoch(seconds: dict[str, list[float]], kind: str, data: str, shares: tuple[float, ...]) -> list[float]:
    """Mean seconds of a step over an epoch, by round."""
    rounds = zip(*(seconds[f"{kind}{phase}"] for phase in PHASES), seconds[data], strict=True)
    return [sum(share * each for share, each in zip(shares, steps, strict=True)) + wait for *steps, wait in rounds]


def flops(subject: Subject, phase: int) -> int:
    """Multiplications and additions of convolutions and matrix products in one step."""
    batch = subject.batch()
    with FlopCounterMode(display=False) as counter:
        subject.step(phase, batch)
    return counter.get_total_flops()


def host_syncs(subject: Subject, phase: int) -> int:
    """How often one step waits for the GPU; with the batch, without the log."""
    subject.step(phase)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            subject.step(phase)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def image_files(folder: Path, num: int, size: int = 256) -> list[Path]:
    """JPEGs of clouds of colour, as large as Places365's small ones."""
    random = np.random.default_rng(0)
    paths = [folder / f"{number:04d}.jpg" for number in range(num)]
    for path in paths:
        coarse = Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths
