"""Owns the way in and the one way out of a training process: arguments, processes, data, folder, exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from inpaint.arguments import Options, parse_arguments, usage
from inpaint.config import Config
from inpaint.data.holes import SPLITS
from inpaint.errors import InpaintError, UsageError
from inpaint.training.schedule import phase_steps

if TYPE_CHECKING:
    from inpaint.data.holes import Split
    from inpaint.data.pictures import Pictures
    from inpaint.data.stream import Stream
    from inpaint.training.run_directory import RunDirectory
    from inpaint.training.runtime import Runtime


def main(argv: list[str]) -> int:
    """Train, and return the exit code: 0 done or preempted, 1 failed, 2 wrong usage.

    Under a launcher the process ends here instead, so that nothing at the interpreter's end can spoil the code.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if "--help" in argv or "-h" in argv:
        if rank == 0:
            print(usage())
        return 0
    debug = "--debug" in argv
    try:
        config, options = parse_arguments(argv)
        code = dry_run(config, world_size) if options.dry_run else _train(config, options)
    except InpaintError as error:
        code = 2 if isinstance(error, UsageError) else 1
        _say(rank, world_size, str(error))
        if debug:
            traceback.print_exc()
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # noqa: BLE001 - the last resort: one line, and the traceback for --debug
        code = 1
        text = " ".join(str(error).split())[:600]
        _say(rank, world_size, f"{type(error).__name__}: {text} (--debug shows where)")
        if debug:
            traceback.print_exc()
    if world_size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        # After a failure the others may never come to a barrier, and even after success a library's destructor could
        # still abort the process; everything that must be written has been.
        os._exit(code)
    return code


def dry_run(config: Config, world_size: int) -> int:
    """Print as YAML what this config amounts to."""
    from inpaint.training.build import build_networks
    from inpaint.training.set_up import divide_batch

    micro, accumulation = divide_batch(config.training.global_batch_size, config.training.micro_batch_size, world_size)
    generator, discriminator = (sum(p.numel() for p in network.parameters()) for network in build_networks(config))
    facts: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "parameters": {
            "generator": generator,
            "discriminator": discriminator,
            "total": generator + discriminator,
        },
        "batch": {"global": config.training.global_batch_size, "micro": micro, "accumulation": accumulation},
    }
    num = config.data.synthetic_train if config.data.path is None else None
    if config.data.path is not None:
        from inpaint.data.photos import find

        streaming = config.data.streaming
        num = len(_open_stream(config) if streaming else find(config.data.path).read(None)["train"])
    steps = (num or 0) // config.training.global_batch_size
    phases = dict(zip((1, 2, 3), phase_steps(config.training.phases, steps), strict=True))
    facts["training_pictures"], facts["steps_per_epoch"], facts["steps_per_phase"] = num, steps, phases
    facts["steps"] = min(steps * config.training.epochs, config.training.max_steps or steps * config.training.epochs)
    if int(os.environ.get("RANK", "0")) == 0:
        print(yaml.safe_dump(facts, sort_keys=False), end="")
    return 0


def _train(config: Config, options: Options) -> int:
    from inpaint.training.run_directory import RunDirectory
    from inpaint.training.runtime import Runtime
    from inpaint.training.signals import StopRequest, die_with_launcher
    from inpaint.training.trainer import Trainer
    from inpaint.training.watch import Watch

    die_with_launcher()
    training = config.training
    runtime = Runtime.of(config)
    _compare_configs(runtime, config)
    # Only now: until all processes have met there is nothing to save, and one that waits in vain shall be stoppable.
    stop = StopRequest()
    run = RunDirectory(options.run_dir)
    _on_main(runtime, lambda: _open_run(run, config, options))
    watch = Watch(runtime.rank, runtime.world_size, training.timeout_s, run.renew if runtime.is_main else None)
    outcome = "failed"
    try:
        watch.busy("preparing the data")
        trainer = Trainer(config, options, runtime, run, stop, watch, _open_pictures(runtime, config))
        if runtime.is_main:
            _print_start(runtime, trainer.num_parameters, run)
        outcome = trainer.run()
        watch.busy("leaving")
        publication = trainer.publication
        del trainer
        runtime.close()
        # Only now, when the other processes have left: it may take its time.
        if statement := publication.close(preempted=outcome == "preempted"):
            print(statement, file=sys.stderr)
    except RuntimeError as error:
        if runtime.world_size == 1 or not _is_connection_lost(error):
            raise
        raise InpaintError(f"the processes lost one another: {watch.missing()} ({_first_line(error)})") from error
    finally:
        watch.close(in_order=outcome != "failed")
        if runtime.is_main:
            run.close(preempted=outcome == "preempted")
        stop.restore()
    if runtime.is_main and outcome == "preempted":
        print("\nasked to stop: the run is saved; the same command resumes it", file=sys.stderr)
    return 1 if outcome == "unsaved" else 0


def _open_run(run: RunDirectory, config: Config, options: Options) -> None:
    for change in run.open(config, options.resume, options.overwrite):
        print(f"changed since this run was last started: {change}", file=sys.stderr)


def _open_pictures(runtime: Runtime, config: Config) -> dict[Split, Pictures | Stream]:
    from inpaint.data.pictures import SyntheticSpec, open_pictures

    data = config.data
    train = _open_stream(config) if data.streaming else None
    pictures: dict[Split, Any] = open_pictures(
        data.path,
        data.hole_spec,
        cache_dir=Path(data.cache_dir) if data.cache_dir else None,
        max_bad_fraction=data.max_bad_fraction,
        synthetic=SyntheticSpec(data.synthetic_train, data.synthetic_held_out, data.synthetic_held_out, seed=0),
        show_progress=runtime.is_main,
        splits=SPLITS[1:] if data.streaming else SPLITS,
    )
    if train is not None:
        pictures["train"] = train
    num, batch = len(pictures["train"]), config.training.global_batch_size
    if num < batch:
        raise UsageError(
            f"training.global_batch_size = {batch} is larger than the {num} training pictures; use a smaller batch or "
            "more pictures"
        )
    return pictures


def _open_stream(config: Config) -> Stream:
    from inpaint.data.stream import Stream, find_shards

    data = config.data
    assert data.path is not None
    return Stream(
        find_shards(data.path),
        data.hole_spec,
        config.training.global_batch_size,
        data.stream_window,
        data.max_bad_fraction,
    )


def _print_start(runtime: Runtime, num_parameters: list[int], run: RunDirectory) -> None:
    generator, discriminator = (count / 1e6 for count in num_parameters)
    print(
        f"{runtime.describe()}; {generator:.2f} M + {discriminator:.2f} M parameters (generator + discriminator)\n"
        f"run directory: {run.path}",
        file=sys.stderr,
    )


def _compare_configs(runtime: Runtime, config: Config) -> None:
    """Processes that were started with different settings would train different things; refuse."""
    hashes = runtime.same_everywhere(config.fingerprint())
    if len(set(hashes)) > 1:
        different = [rank for rank, value in enumerate(hashes) if value != hashes[0]]
        raise UsageError(
            f"rank(s) {', '.join(map(str, different))} have other settings than rank 0; start all processes "
            "with the same --config and flags"
        )


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


def _say(rank: int, world_size: int, text: str) -> None:
    """Print an error once, however many processes have it; name the rank where it is not the main one."""
    from inpaint.training.watch import first_to_say

    if world_size == 1 or first_to_say(text):
        print(f"inpaint: {f'rank {rank}: ' if rank else ''}{text}", file=sys.stderr, flush=True)


def _is_connection_lost(error: RuntimeError) -> bool:
    """Whether a reduction failed because of another process (gloo and NCCL raise plain RuntimeErrors or DistErrors)."""
    words = ("connection", "gloo", "nccl", "peer", "timed out", "timeout", "socket")
    return any(word in str(error).lower() for word in words)


def _first_line(error: BaseException) -> str:
    """What went wrong without gloo's advice, which follows in the same line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).partition(". This is")[0][:300]
