"""Owns the way into training and out of it, from Python and from the command line: processes, outcome, exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inpaint.arguments import Options, default_run_dir, information, is_debug, parse_arguments
from inpaint.config import Config
from inpaint.distributed.launcher import start_notes
from inpaint.distributed.store import stop_of_any, tell
from inpaint.errors import InpaintError, UsageError
from inpaint.processes import rank_and_world_size, start_prefix, wait_briefly
from inpaint.resolve import load_config

if TYPE_CHECKING:
    from inpaint.distributed.runtime import Runtime
    from inpaint.distributed.signals import StopRequest
    from inpaint.training.trainer import Trainer


_STOPPED = {
    "preempted": ": the run is saved; the same command resumes it",
    "unbegun": " before the first step; what is decoded of the images is kept, and the same command goes on",
}


@dataclass(frozen=True)
class TrainingResult:
    """What `train` leaves.

    Attributes:
        run_dir: the run's folder; `run_dir / "generator"` is for `InpaintingPipeline.from_pretrained`.
        outcome: `finished`, or `preempted` if it was asked to stop, saved, and can be resumed.
    """

    run_dir: Path
    outcome: str


def train(
    config: str | Path | Config | None = None,
    run_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    resume: bool = True,
    overwrite: bool = False,
    init_from: str | None = None,
    profile: int = 0,
) -> TrainingResult:
    """Train, or go on with the run that is in `run_dir`: what `train.py` does, from Python or a notebook.

    It may be called again in the same process, and from any thread; in the main thread SIGTERM, SIGUSR1, SIGHUP
    and Ctrl-C save and stop the run, and have their former meaning again afterwards.

    Args:
        config: a preset's name, a .yaml file, or a whole `Config`; None is the preset `quickstart`.
        run_dir: where the run is kept; None: as `train.py` without `--run-dir`.
        overrides: settings on top of it, such as `{"training.epochs": 5}`.
        resume: False refuses to touch a run that exists.
        overwrite: with `resume=False`: throw the run that exists away.
        init_from: start a new run from a generator's weights: a folder or a Hub id.
        profile: trace so many steps of each phase into `run_dir / "profile"`.

    Raises:
        UsageError: the settings, the processes or the folder do not go together; nothing was begun.
        InpaintError: the run cannot go on, or its last state could not be saved.
        KeyboardInterrupt: a second Ctrl-C; the run can be resumed from its last checkpoint.
    """
    if overwrite and resume:
        raise UsageError("overwrite=True goes with resume=False: the same call without both resumes the run")
    given = str(config) if isinstance(config, Path) else config
    resolved = load_config(given, overrides)
    path = default_run_dir(given, resolved.data.path) if run_dir is None else Path(run_dir)
    options = Options(path, resume, overwrite, init_from=init_from, profile=profile)
    return TrainingResult(path, _train(resolved, options))


def main(argv: list[str]) -> int:
    """`train.py`: train, and return the exit code: 0 done or preempted, 1 failed, 2 wrong usage.

    Under a launcher, and when Ctrl-C came twice, the process ends here instead, so that nothing at the interpreter's
    end can spoil the code or take its time.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    rank, world_size, code = 0, 1, 0
    try:
        rank, world_size = rank_and_world_size()
        if (text := information(argv)) is not None:
            if rank == 0:
                print(text)
            return 0
        config, options = parse_arguments(argv)
        if options.dry_run:
            from inpaint.training import opening

            opening.dry_run(opening.settled(config, options), world_size)
        else:
            _train(config, options)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # noqa: BLE001 - the last resort: one line, and the traceback for --debug
        code, text = 2 if isinstance(error, UsageError) else 1, str(error)
        if not isinstance(error, InpaintError):
            text = f"{type(error).__name__}: {' '.join(text.split())[:600]}"
            if world_size > 1 and _is_connection_lost(error):
                text = f"the processes lost one another ({text})"
            text += " (--debug shows where)"
        tell(rank, world_size, text, code)
        if is_debug(argv):
            traceback.print_exc()
    if world_size > 1 or code == 130:
        sys.stdout.flush()
        sys.stderr.flush()
        # After a failure the others may never come to a barrier, and even after success a library's destructor could
        # still abort the process; everything that must be written has been.
        os._exit(code)
    return code


def _train(config: Config, options: Options) -> str:
    if find_spec("fcntl") is None:
        raise UsageError(
            "training needs Linux or macOS; on Windows start it in WSL, or fill images: inpaint fill --help"
        )
    wait_briefly()
    import torch

    from inpaint.distributed.collectives import meet
    from inpaint.distributed.runtime import Runtime
    from inpaint.distributed.signals import StopRequest, die_with_launcher

    die_with_launcher()
    from inpaint.training import opening

    start_prefix(begin=True)
    opening.load_entries(config)
    group = meet(config.training.timeout_s)
    config = opening.settled(config, options, group)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(config.training.num_threads or num_threads)
    try:
        runtime = Runtime.of(config, group)
        fingerprint = config.fingerprint()
        # They would train different things.
        if different := runtime.others_than(runtime.broadcast(fingerprint), fingerprint):
            raise UsageError(
                f"rank(s) {', '.join(map(str, different))} have other settings than rank 0; start all processes with "
                "the same --config and flags"
            )
        # Only now: until all have met there is nothing to save, and a process that waits in vain shall be stoppable.
        stop = StopRequest(runtime.is_main)
        try:
            outcome = _train_until(stop, runtime, config, options)
        finally:
            stop.restore()
    finally:
        torch.set_num_threads(num_threads)
    if runtime.is_main and outcome in _STOPPED:
        print(f"\nasked to stop{_STOPPED[outcome]}", file=sys.stderr)
    if outcome.startswith("unsaved"):
        raise InpaintError(
            f"the last state of {options.run_dir} could not be saved{outcome.removeprefix('unsaved')}; the same "
            "command goes on from the one before"
        )
    return "preempted" if outcome in _STOPPED else outcome


def _train_until(stop: StopRequest, runtime: Runtime, config: Config, options: Options) -> str:
    from inpaint.distributed.heartbeat import Heartbeat
    from inpaint.training import opening
    from inpaint.training.run_directory import RunDirectory
    from inpaint.training.trainer import Trainer

    run = RunDirectory(options.run_dir)
    _on_main(runtime, lambda: opening.open_run(run, config, options))
    heartbeat = Heartbeat(runtime.rank, runtime.world_size, config.training.timeout_s)
    outcome: str | None = None
    try:
        heartbeat.busy("preparing the data")
        with stop_of_any(stop, runtime.world_size) as wants_stop:
            images = opening.open_splits(runtime, config, wants_stop)
            heartbeat.wait_for_all()  # one machine may have to decode what another has in its cache
        is_stopped = images is None or stop.asked is not None
        if runtime.all_reduce_max_async(int(is_stopped))() or images is None:
            heartbeat.busy("leaving")
            runtime.close()
            outcome = "preempted"
            return "unbegun"
        trainer = Trainer(config, options, runtime, run, stop, heartbeat, images)
        if runtime.is_main:
            _print_start(runtime, config, trainer)
            print(f"run directory: {run.path}", file=sys.stderr)
        outcome = trainer.run()
        heartbeat.busy("leaving")
        publication = trainer.publication
        del trainer
        runtime.close()
        # Only now, when the other processes have left: it may take its time.
        if statement := publication.close(preempted=outcome == "preempted"):
            print(statement, file=sys.stderr)
        return outcome
    except RuntimeError as error:
        if runtime.world_size == 1 or not _is_connection_lost(error):
            raise
        # Without gloo's advice, which follows in the same line.
        said = str(error).strip().splitlines()[0].partition(". This is")[0][:300]
        lost = heartbeat.missing() or f"all others still answer ({said})"
        raise InpaintError(f"the processes lost one another: {lost}") from error
    finally:
        heartbeat.close(in_order=outcome is not None)
        if runtime.is_main:
            run.close(preempted=outcome == "preempted")


def _print_start(runtime: Runtime, config: Config, trainer: Trainer) -> None:
    training = config.training
    notes = start_notes(training.num_threads or 1, runtime.world_size)
    steps = trainer.phases.steps
    shares = zip((1, 2, 3), training.phases, steps, strict=True)
    if idle := [str(phase) for phase, share, num_steps in shares if share and not num_steps]:
        whole = "an epoch" if training.phases_per == "epoch" else "the run"
        notes.append(
            f"{whole} has {sum(steps)} step(s), none of them left for phase {' and '.join(idle)} "
            "(training.phases): use more images, or a training.global_batch_size below "
            f"{training.global_batch_size}"
        )
    num_parameters = trainer.task.num_parameters
    sizes = " + ".join(f"{num / 1e6:.2f} M" for num in num_parameters.values())
    about = f"{runtime.describe()}; {sizes} parameters ({' + '.join(num_parameters)})"
    print(*notes, about, sep="\n", file=sys.stderr)


def _on_main(runtime: Runtime, act: Callable[[], None]) -> None:
    """Act in the main process; if that fails, fail alike in all."""
    error: InpaintError | None = None
    if runtime.is_main:
        try:
            act()
        except InpaintError as caught:
            error = caught
    if (error := runtime.broadcast(error)) is not None:
        raise error


def _is_connection_lost(error: Exception) -> bool:
    """Whether a reduction failed because of another process (gloo and NCCL raise plain RuntimeErrors or DistErrors)."""
    words = ("connection", "gloo", "nccl", "peer", "timed out", "timeout", "socket", "broken pipe")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
