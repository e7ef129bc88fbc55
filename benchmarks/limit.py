"""How much of a step is its convolutions: each is run again by itself, on the same tensors.

What they take alone is what oneDNN or cuDNN reaches for these shapes, so the limit of a step that calls the same ones;
the share is that of the step which is left to nothing else. The rest is named by operation, from the profiler, whose
own time counts with what calls it. Seconds are the processor's on CPUs, with one thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measuring import Figure, middle, rate, take_turns
from benchmarks.subject import Subject, configured, reset_threads

CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
# Preset, its flags, images a step, rounds.
SUBJECTS: tuple[tuple[str, dict[str, Any], int, int], ...] = (
    ("quickstart", {}, 8, 15),
    ("paper/final", {"model__width": 16}, 32, 7),
    ("paper/final", {"model__width": 64}, 16, 3),
)
# Operations that are named, those that take most.
NUM_NAMED = 4


class Recorder(TorchDispatchMode):
    """Keeps each call of a convolution, or of its gradient, to be made again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in CONVOLUTIONS:
            self.calls.append(partial(func, *args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def run() -> list[Figure]:
    reset_threads()
    return [figure for subject in SUBJECTS for figure in limits(*subject)]


def limits(preset: str, flags: dict[str, Any], batch_size: int, rounds: int) -> list[Figure]:
    subject = Subject(configured(preset, batch_size, **flags))
    batch, figures = subject.batch(), []
    width = subject.config.model.width
    for phase in (1, 2, 3):
        step = partial(subject.step, phase, batch)
        step()
        with Recorder() as recorder:
            step()

        def alone(calls: list[Callable[[], object]] = recorder.calls) -> None:
            with torch.no_grad():
                for call in calls:
                    call()

        seconds = take_turns({"step": step, "alone": alone}, rounds)
        share, spread = middle([its / whole for its, whole in zip(seconds["alone"], seconds["step"], strict=True)])
        what = f"{preset}, width {width}, batch {batch_size}, phase {phase}"
        figures.append(rate(f"{what}", seconds["step"], batch_size, "img/s"))
        figures.append(rate(f"{what}, its {len(recorder.calls)} convolutions", seconds["alone"], batch_size, "img/s"))
        rest = ", ".join(f"{name} {part:.0%}" for name, part in _rest(step).most_common(NUM_NAMED))
        figures.append(Figure(f"{what}, share of the limit", share, "x", spread, f"of the step: {rest}"))
    subject.close()
    return figures


def _rest(step: Callable[[], object]) -> Counter[str]:
    """Shares of a step's time by operation, without the convolutions."""
    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        step()
    shares: Counter[str] = Counter()
    for event in profiled.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        shares[event.key.removeprefix("aten::")] += spent
    whole = shares.total()
    return Counter({name: time / whole for name, time in shares.items() if "conv" not in name})
