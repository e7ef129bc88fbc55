"""Everything worth knowing on one CUDA GPU, in one call of under nine minutes: `python benchmarks/gpu_check.py`.

Correctness first, then speed by batch and by how the networks are run, input, where the time goes; a short table last.
All ends when the time is over, and a part that fails is named, so that the others still count.

It needs torch >= 2.10, accelerate, huggingface_hub, safetensors, numpy, pillow, PyYAML, tqdm and pydantic; the tests
also pytest, pytest-timeout, hypothesis, starlette, uvicorn and lz4. What a machine without a network lacks is carried
along: `pip download --only-binary :all: --python-version 3.12 --dest wheels pydantic pytest ...` here, `pip install
--no-index --find-links wheels pydantic pytest ...` there.

`--rehearse` does all of it on a CPU, on tiny networks, so that no minute of a GPU is lost to a slip.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.measuring import Figure, machine, matmul_peak, middle, now, table  # noqa: E402
from benchmarks.step import PHASES, flops, host_syncs  # noqa: E402
from benchmarks.subject import Subject, configured, noise_images  # noqa: E402
from inpaint.config import DataConfig  # noqa: E402
from inpaint.data.batches import BatchLoader  # noqa: E402
from inpaint.training.profile import Profiler  # noqa: E402

EPOCH_IMAGES, GOAL_S = 170_000, 6.0


@dataclass
class Check:
    """What is tried how large, how long, and what came of it."""

    rehearse: bool
    deadline: float
    figures: list[Figure] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.rehearse else "cuda")

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def steps(self) -> int:
        return 2 if self.rehearse else 10

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return (2, 4) if self.rehearse else (128, 512, 2048, 8192)

    def subject(self, batch_size: int, precision: str = "bf16", variant: str = "eager") -> Subject:
        """What to train; `variant` is contiguous, eager (channels last, as the trainer has it), compiled or graphs."""
        tiny = {"model__width": 4, "data__image_size": 16} if self.rehearse else {}
        subject = Subject(configured("paper/final", batch_size, precision, **tiny))
        for network in subject.task.networks.values():
            if variant == "contiguous":
                network.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            elif self.rehearse and variant in ("compiled", "graphs"):
                network.module.compile(backend="eager")  # without the compiler, which takes minutes
            elif variant == "compiled":
                network.module.compile()
            elif variant == "graphs":
                network.module.compile(mode="reduce-overhead")
        return subject

    def tell(self, what: str, value: float, unit: str, note: str = "") -> None:
        figure = Figure(what, value, unit, None, note)
        self.figures.append(figure)
        print(f"  {what}: {value:.4g} {unit} {note}", flush=True)


@contextmanager
def part(name: str, check: Check, at_least_s: float = 5.0) -> Iterator[None]:
    """A part of the check: named, timed, left out where too little time is left, and never the end of the others."""
    start = time.monotonic()
    print(f"\n--- {name} ({check.left_s:.0f} s left)", flush=True)
    try:
        if check.left_s < at_least_s:
            raise TimeoutError("no time left for it")
        yield
    except Exception as error:  # whatever this part met, the others go on: a GPU may be lent for minutes only
        if check.rehearse:
            raise
        print(f"  FAILED: {type(error).__name__}: {str(error)[:1500]}", flush=True)
        check.figures.append(Figure(name, 0.0, "FAILED", None, f"{type(error).__name__}: {str(error)[:80]}"))
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    print(f"  ({time.monotonic() - start:.0f} s)", flush=True)


def run_tests(check: Check) -> None:
    """Those marked `gpu`, in a process of their own; what is compiled takes minutes and comes last, here."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-k", "not compiled", "-q", "-p", "no:cacheprovider"]
    command += ["tests/test_gpu.py", *(["--collect-only"] if check.rehearse else [])]
    limit_s = check.left_s if check.rehearse else min(180, check.left_s)
    with tempfile.TemporaryFile("w+") as output:
        try:
            code = subprocess.run(
                command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, timeout=limit_s
            ).returncode
        finally:  # cut off, too, it has told something
            output.seek(0)
            print("\n".join(f"  {line[:180]}" for line in output.read().splitlines()[-40:]))
    check.tell("tests marked gpu", code, "exit code", "0: all passed")


def compare_with_float64(check: Check) -> None:
    """The first step's losses and gradient norms in each phase against the CPU's in float64."""
    batch_size = 4 if check.rehearse else 16
    wanted = _first_terms(check, batch_size, "float64", on_cpu=True)
    for precision in ("float32", "bf16"):
        found = _first_terms(check, batch_size, precision, on_cpu=False)
        errors = {key: abs(found[key] - value) / (abs(value) + 1e-6) for key, value in wanted.items()}
        worst = max(errors, key=lambda key: errors[key])
        check.tell(f"largest error of {precision} against float64", errors[worst], "of the value", worst)


def _first_terms(check: Check, batch_size: int, precision: str, on_cpu: bool) -> dict[str, float]:
    """From networks that have not been trained, so that no rounding has grown."""
    terms = {}
    for phase in PHASES:
        config = configured("paper/final", batch_size, precision, model__width=4 if check.rehearse else 16)
        with _forced_cpu(on_cpu):
            subject = Subject(config)
        dtype = torch.float64 if precision == "float64" else torch.float32
        batch = next(
            BatchLoader(subject.feed.split, config.data, 0, batch_size, 0, 1, subject.runtime.device, dtype).batches(
                1, 0
            )
        )
        for key, value in subject.task.step(phase, [batch], 1, batch_size).items():
            terms[f"phase {phase} {key}"] = float(value)
        subject.close()
    return terms


@contextmanager
def _forced_cpu(forced: bool) -> Iterator[None]:
    """Accelerate remembers the device it once chose; here it chooses anew."""
    from accelerate.state import AcceleratorState

    before = os.environ.pop("ACCELERATE_USE_CPU", None)
    AcceleratorState._reset_state(reset_partial_state=True)
    if forced or before:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    try:
        yield
    finally:
        os.environ.pop("ACCELERATE_USE_CPU", None)
        AcceleratorState._reset_state(reset_partial_state=True)


def time_steps(check: Check, batch_size: int, precision: str, variant: str, peak: float) -> float:
    """Images/s by phase; returns the seconds of an epoch of `EPOCH_IMAGES`."""
    if variant in ("compiled", "graphs"):
        torch._dynamo.reset()
    subject = check.subject(batch_size, precision, variant)
    name = f"{variant} {precision}, batch {batch_size}"
    epoch_s, notes = 0.0, []
    try:
        batch = subject.batch()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        for phase, share in zip(PHASES, subject.config.training.phases, strict=True):
            for _ in range(3):
                _marked_step(subject, phase, batch)
            seconds = []
            for _ in range(3):
                start = now()
                for _ in range(check.steps):
                    _marked_step(subject, phase, batch)
                seconds.append((now() - start) / check.steps)
            step_s, _ = middle(seconds)
            epoch_s += share * step_s * EPOCH_IMAGES / batch_size
            notes.append(f"phase {phase} {batch_size / step_s:,.0f} img/s, {1e3 * step_s:.2f} ms")
            if variant == "eager":
                notes[-1] += f", {flops(subject, phase) / step_s / peak:.0%} of the peak"
        if torch.cuda.is_available():
            notes.append(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        if torch.cuda.is_available() and variant == "eager":
            notes.append(f"host syncs a step {[host_syncs(subject, phase) for phase in PHASES]}")
    finally:
        subject.close()
    check.tell(f"{name}: epoch of 170k", epoch_s, "s", "; ".join(notes))
    return epoch_s


def _marked_step(subject: Subject, phase: int, batch: Any) -> None:
    torch.compiler.cudagraph_mark_step_begin()
    subject.step(phase, batch)


def time_input(check: Check) -> None:
    """Images/s of the feed alone, with the split in the GPU's memory and without."""
    num, batch_size, num_batches = (64, 8, 4) if check.rehearse else (65_536, 2048, 100)
    for cache in ("on", "off"):
        config = DataConfig(holes="resampled", flip=True, device_cache=cache)
        batches = BatchLoader(noise_images(num, config.hole_spec), config, 0, batch_size, device=check.device).batches(
            1, 0
        )
        for _ in range(3):
            next(batches)
        start = now()
        for _ in range(num_batches):
            next(batches)
        check.tell(f"input alone, device_cache {cache}", num_batches * batch_size / (now() - start), "img/s")
        batches.close()


def time_with_input(check: Check, batch_size: int, precision: str) -> None:
    """Steps on new batches against steps on one and the same: what is waited for data."""
    subject = check.subject(batch_size, precision)
    fixed = subject.batch()
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(5):
        for fresh in (True, False):
            start = now()
            for _ in range(check.steps):
                subject.step(3, None if fresh else fixed)
            if number:
                seconds[fresh].append(now() - start)
    cost, spread = middle([100 * (new / old - 1) for new, old in zip(seconds[True], seconds[False], strict=True)])
    check.tell(f"data, batch {batch_size}, phase 3", cost, "% of the step", f"± {spread:.2f}, goal 2")
    subject.close()


def trace(check: Check, batch_size: int, precision: str) -> None:
    """Where the time goes: the spans of each phase, and the dearest operations of phase 3."""
    subject = check.subject(batch_size, precision)
    profiler = Profiler(
        check.steps,
        Path(os.environ.get("OUT", tempfile.gettempdir())) / "profile",
        *subject.task.networks.values(),
    )
    for phase in PHASES:
        for _ in range(check.steps + 4):
            profiler.at(phase)
            with profiler.span("data wait"):
                batch = subject.batch()
            subject.step(phase, batch)
    profiler.at(None)
    with torch.profiler.profile() as recorded:
        for _ in range(3):
            subject.step(3)
        now()
    order = "self_cpu_time_total" if check.rehearse else "self_device_time_total"
    print(recorded.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=70))
    costs = sorted(recorded.key_averages(), key=lambda event: -getattr(event, order))
    total = sum(getattr(event, order) for event in costs) or 1.0
    for event in costs[:5]:
        check.tell(
            f"cost: {event.key[:60]}", 100 * getattr(event, order) / total, "%", f"{event.count} calls in 3 steps"
        )
    subject.close()


def run(check: Check) -> None:
    print(f"{machine()}; torch {torch.__version__}; CUDA {torch.version.cuda}; Python {sys.version.split()[0]}")
    peaks: dict[str, float] = {"bf16": 1.0, "float32": 1.0}
    with part("peaks (float32: in TF32)", check):
        for precision, dtype in (("bf16", torch.bfloat16), ("float32", torch.float32)):
            peaks[precision] = matmul_peak(check.device, dtype)
            check.tell(f"matmul peak, {precision}", peaks[precision] / 1e12, "TFLOP/s")
    with part("tests marked gpu", check):
        run_tests(check)
    with part("against float64", check):
        compare_with_float64(check)
    epochs: dict[tuple[str, int], float] = {}

    def steps(batch_size: int, precision: str, variant: str) -> None:
        needed_s = 60 if variant in ("compiled", "graphs") else 15
        with part(f"{variant} {precision}, batch {batch_size}", check, at_least_s=needed_s):
            epochs[f"{variant} {precision}", batch_size] = time_steps(
                check, batch_size, precision, variant, peaks[precision]
            )

    smallest, large = check.batch_sizes[0], check.batch_sizes[-2]
    for batch_size in check.batch_sizes:
        steps(batch_size, "bf16", "eager")
    steps(large, "float32", "eager")
    steps(large, "bf16", "contiguous")
    with part("input", check):
        time_input(check)
    for batch_size in dict.fromkeys((smallest, large)):
        with part(f"training with its input, batch {batch_size}", check):
            time_with_input(check, batch_size, "bf16")
    for batch_size in dict.fromkeys((smallest, large)):
        with part(f"trace, batch {batch_size}", check):
            trace(check, batch_size, "bf16")
    # Last, for compilers take their time.
    steps(smallest, "bf16", "graphs")
    steps(large, "bf16", "compiled")
    if epochs:
        best = min(epochs, key=lambda key: epochs[key])
        note = f"{best[0]}, batch {best[1]}; goal {GOAL_S:.0f} s"
        check.tell("best epoch of 170k images", epochs[best], "s", note)


def _end_of_time(*_: Any) -> None:
    raise TimeoutError("the time is over")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="tiny, on a CPU")
    parser.add_argument("--seconds", type=float, default=520.0, help="when to stop")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGALRM, _end_of_time)
    signal.setitimer(signal.ITIMER_REAL, options.seconds)
    if options.rehearse:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    check = Check(options.rehearse, time.monotonic() + options.seconds)
    try:
        run(check)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(f"\n{table(check.figures)}")


if __name__ == "__main__":
    main()
