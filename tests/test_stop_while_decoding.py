"""Who is asked to stop while images are decoded leaves soon, with all others of the run, and keeps what is decoded."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
from filelock import FileLock
from running import Job, start, tiny_config
from shards import NUMS, write_shards

from inpaint.data.cache import StoppedError, build_once
from inpaint.errors import InpaintError

NUM, TASK = sum(NUMS.values()), 4

SCRIPT = """
import os, sys, time
from inpaint.data import decode, filling
from inpaint.training.launch import main

filling.TASK_IMAGES, original = int(os.environ["TASK"]), decode.decode_square

def decode_square(*arguments):
    os.write(1, b"decoded\\n")
    time.sleep(float(os.environ["SECONDS_EACH"]))
    return original(*arguments)

decode.decode_square = decode_square
if "APART" in os.environ:  # each process as if alone on its own machine
    cache = os.environ["INPAINT_CACHE"] + os.environ["RANK"]
    os.environ.update(LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", INPAINT_CACHE=cache)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("num", "apart", "asked", "name"), [(1, False, 0, "SIGINT"), (2, False, 1, "SIGUSR1"), (2, True, 1, "SIGTERM")]
)
def test_all_leave_and_what_is_decoded_is_kept(num: int, apart: bool, asked: int, name: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    run_dir, cache = tmp_path / "run", tmp_path / "cache"
    config = tiny_config(
        tmp_path,
        data={"path": str(write_shards(tmp_path / "shards"))},
        training={"max_steps": 1},
        evaluation={"num_samples": 2, "num_pictures": 2},
    )

    def begun(seconds_each: float) -> Job:
        env = {"INPAINT_CACHE": str(cache), "TASK": str(TASK), "SECONDS_EACH": str(seconds_each)}
        env |= {"APART": ""} if apart else {}
        where = ("--config", config, "--run-dir", run_dir)
        return start(*where, processes=num, script=tmp_path / "train.py", env=env)

    with begun(0.3) as job:
        job.until(lambda: job.stdout.count("decoded\n") > 3 * TASK)
        os.kill(job.processes[asked].pid, getattr(signal, name))
        ended = job.wait()
    assert ended.codes == [0] * num
    assert ended.stderr.count("asked to stop before the first step") == 1
    assert ended.stdout.count("decoded\n") < NUM * (2 if apart else 1)
    assert (run_dir / "PREEMPTED").exists() and not list(run_dir.glob("checkpoints/*step_*"))
    known = [path.read_text().count("\n") for path in tmp_path.glob("cache*/*.partial-*/journal.jsonl")]
    assert len(known) == (2 if apart else 1) and min(known) > 0

    if apart:
        return
    with begun(0.0) as job:
        ended = job.wait().ok()
    assert ended.stdout.count("decoded\n") == NUM - TASK * sum(known)
    assert not list(tmp_path.glob("cache*/*.partial-*"))


def unreadable() -> InpaintError:
    """What a source says of a shard that it cannot read now."""
    error = InpaintError("train.parquet cannot be read")
    error.__cause__ = OSError(errno.EIO, "Input/output error")
    return error


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (StoppedError(), True),
        (OSError(errno.ESTALE, "Stale file handle", "photo.jpg"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (InpaintError("3 of 4 images cannot be used"), False),
        (unreadable(), True),
    ],
)
def test_what_is_decoded_is_kept_where_the_same_can_be_gone_on_with(
    error: Exception, is_kept: bool, tmp_path: Path
) -> None:
    def fill(folder: Path) -> None:
        (folder / "some").touch()
        raise error

    with pytest.raises((StoppedError, InpaintError)):
        build_once(tmp_path / "entry", fill)
    assert len(list(tmp_path.glob("*/some"))) == is_kept

    built = []
    build_once(tmp_path / "entry", lambda folder: built.extend(folder.iterdir()))
    assert len(built) == is_kept


def test_waiting_for_another_job_that_decodes_the_same_can_be_stopped(tmp_path: Path) -> None:
    with FileLock(tmp_path / "entry.lock"), pytest.raises(StoppedError):
        build_once(tmp_path / "entry", lambda folder: None, wants_stop=lambda: True)
