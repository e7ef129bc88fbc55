"""Owns `--profile N`: traces of N steps of each phase, for Perfetto, and where their time went, in words.

The networks name what they do through `Network.span`; unless they are traced, that costs nothing.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, record_function
from tqdm import tqdm

from inpaint.distributed.network import Network

# The first steps of a phase allocate memory, choose kernels and compile.
NUM_WARM_UP = 3
SPANS = ("data wait", "forward", "backward", "optimizer")
REDUCTIONS = ("all_reduce", "allreduce", "reduce_scatter", "all_gather", "nccl")
BACKWARD_OPERATION = "autograd::engine::evaluate_function"


class Profiler:
    """Traces `num_steps` of each phase, after some to warm up, in the main process; 0 traces nothing.

    Into `folder` go `phase_N.json.gz`, to be opened in ui.perfetto.dev, and `summary.txt`.
    """

    def __init__(self, num_steps: int, folder: Path, *networks: Network) -> None:
        self.num_steps, self.folder, self.networks = num_steps, folder, networks
        self.span: Callable[[str], AbstractContextManager] = nullcontext
        self._seen = Counter[int]()
        self._trace: Any = None
        self._step: Any = None
        self._phase = 0

    def at(self, phase: int | None) -> None:
        """Call it at the start of each step, and with None after the last: that ends a trace under way."""
        if not self.num_steps:
            return
        if self._trace is not None:
            self._step.__exit__(None, None, None)
            if phase != self._phase or self._seen[self._phase] == NUM_WARM_UP + self.num_steps:
                self._write()
        if phase is None:
            return
        if self._trace is None and self._seen[phase] == NUM_WARM_UP:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it announces its start and stop on the terminal
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self._phase, self._trace = phase, torch.profiler.profile(activities=activities)
            self._set_span(record_function)
            self._trace.start()
        if self._trace is not None:
            self._step = record_function("step")
            self._step.__enter__()
        self._seen[phase] += 1

    def _write(self) -> None:
        num_steps = self._seen[self._phase] - NUM_WARM_UP
        self._trace.stop()
        self._set_span(nullcontext)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._trace.export_chrome_trace(str(self.folder / f"phase_{self._phase}.json.gz"))
        text = f"phase {self._phase}, {num_steps} step(s)\n{summary(self._trace.key_averages(), num_steps)}"
        with (self.folder / "summary.txt").open("a") as file:
            file.write(f"{text}\n\n")
        tqdm.write(f"{text}\ntrace: {self.folder}/phase_{self._phase}.json.gz (open it in ui.perfetto.dev)", sys.stderr)
        self._trace = None

    def _set_span(self, span: Callable[[str], AbstractContextManager]) -> None:
        self.span = span
        for network in self.networks:
            network.span = span


def summary(averages: Any, num_steps: int) -> str:
    """Milliseconds a step on the processor and, where there is one, on the GPU, which works while the former goes on.

    Of `averages`, the `key_averages()` of a trace of `num_steps` with the spans of `SPANS` in it.
    """
    host, device, total = defaultdict[str, float](float), defaultdict[str, float](float), 0.0
    for event in averages:
        on_device = event.device_time_total
        if event.key == "step":
            total = max(total, event.cpu_time_total)
        elif event.key in SPANS:
            host[event.key] += event.cpu_time_total
            if event.key != "backward":
                device[event.key] = max(device[event.key], on_device)
        elif event.key.startswith(BACKWARD_OPERATION):  # in a thread of its own, which the span does not see
            device["backward"] += on_device
        elif any(word in event.key.lower() for word in REDUCTIONS):
            host["reduce"] = max(host["reduce"], event.cpu_time_total)
            device["reduce"] = max(device["reduce"], on_device)
    spans = sum(host[name] for name in SPANS)
    rows = [(name, host[name], device[name]) for name in (*SPANS, "reduce")]
    rows += [("the rest", total - spans, 0.0), ("step", total, sum(device[name] for name in SPANS))]
    lines = [f"  {'':10} {'ms':>9} {'share':>6} {'GPU ms':>9}"]
    for name, micros, on_device in rows:
        gpu = f"{on_device / num_steps / 1e3:9.3f}" if on_device else f"{'-':>9}"
        lines.append(f"  {name:10} {micros / num_steps / 1e3:9.3f} {micros / max(total, 1e-9):6.1%} {gpu}")
    lines.append("  (reduce overlaps backward and is part of it)")
    return "\n".join(lines)
