"""Ranks that die, stop or fail; every launcher config; a hundred runs that end in order."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from running import (
    CONFIGS,
    ENGINES,
    ROOT,
    WORKER,
    Job,
    differences,
    environment,
    launch,
    metrics,
    start,
    tiny_config,
    train,
    weights,
)

from inpaint.distributed.launcher import OURS_IN_DEEPSPEED, start_notes
from inpaint.processes import num_cores

NUM_STEPS = 20


# --- dead, stopped and failing ranks


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    return tiny_config(tmp_path, training={"epochs": 500, "timeout_s": 20}, evaluation={"every_epochs": 1000})


def under_way(run_dir: Path) -> Any:
    lines = run_dir / "metrics.jsonl"
    return lambda: lines.exists() and lines.read_text().count("\n") >= 3


def workers(launcher: int) -> list[int]:
    """The launcher's own children that run train.py."""
    tasks = Path(f"/proc/{launcher}/task").glob("*/children")
    pids = [int(pid) for task in tasks for pid in task.read_text().split()]
    return [pid for pid in pids if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_killed_rank_is_named_and_the_job_over_in_seconds(endless: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with launch("cpu", "--config", endless, "--run-dir", run_dir, "--training.timeout_s", "1000") as job:
        job.until(under_way(run_dir))
        first = int((run_dir / "rank0.pid").read_text())
        (victim,) = (pid for pid in workers(job.processes[0].pid) if pid != first)
        os.kill(victim, signal.SIGKILL)
        ended = job.wait()
    assert ended.codes == [1]
    (line,) = ended.said
    assert f"rank 1 (process {victim} on " in line
    assert ended.stderr.index(line) < ended.stderr.index("Traceback"), "the launcher's own noise comes after it"


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_a_stopped_rank_is_named_within_the_timeout(endless: Path, tmp_path: Path, rank: int) -> None:
    """It is this process's child, as it would be the launcher's: the other one kills it, since no SIGTERM would."""
    run_dir = tmp_path / "run"
    with start("--config", endless, "--run-dir", run_dir, processes=2) as job:
        job.until(under_way(run_dir))
        os.kill(job.processes[rank].pid, signal.SIGSTOP)
        ended = job.wait()
    assert ended.codes[rank] == -signal.SIGKILL
    assert ended.codes[1 - rank] == 1
    (line,) = ended.said
    assert f"rank {rank} (process {job.processes[rank].pid} on " in line
    assert "silent for" in line


def test_a_failing_rank_says_its_rank_and_error_in_one_line(endless: Path, tmp_path: Path) -> None:
    job = ("fault", "raise", 1, 5, "--config", endless, "--run-dir", tmp_path / "run")
    reason = tmp_path / "reason"
    ended = train(*job, processes=2, script=WORKER, env={"INPAINT_FAILURE_FILE": str(reason)})
    assert ended.codes == [1, 1]
    mine = [line for line in ended.said if line.startswith("inpaint: rank 1: ValueError: the dog ate the batch")]
    assert len(mine) == 1
    assert "Traceback" not in ended.stderr
    (other,) = (line for line in ended.said if line not in mine)
    assert "rank 1 (process" in other
    assert reason.read_text() == f"1 {mine[0].removeprefix('inpaint: ')}\n", "not what only followed"


def test_a_process_may_take_longer_over_its_images_than_the_others_wait_elsewhere(tmp_path: Path) -> None:
    """As on a machine that decodes what the others have in their own caches."""
    config = tiny_config(tmp_path, training={"max_steps": 2, "timeout_s": 20})
    job = ("fault", "late", 1, 25, "--config", config, "--run-dir", tmp_path / "run")
    train(*job, processes=2, script=WORKER).ok()


def test_a_restart_by_torchrun_resumes(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, checkpointing={"every_steps": 4})
    run_dir, straight = tmp_path / "restarted", tmp_path / "straight"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--max_restarts", "1"]
    command = [sys.executable, *torchrun, WORKER, "fault", "exit", 1, 15, "--config", config, "--run-dir", run_dir]
    with Job([list(map(str, command))], [environment()]) as job:
        ended = job.wait().ok()
    assert re.search(r"resuming at step (8|12) of 20", ended.stderr)
    train("--config", config, "--run-dir", straight, processes=2).ok()
    assert set(differences(weights(run_dir), weights(straight)).values()) == {0.0}
    assert [line["step"] for line in metrics(run_dir) if "time/total_s" in line] == list(range(1, NUM_STEPS + 1))


# --- every launcher config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_launcher_configs_leave_the_rest_to_ours(path: Path) -> None:
    text = path.read_text()
    values = yaml.safe_load(text)
    assert text.startswith("# "), "when to choose it"
    assert values.get("mixed_precision", "no") == ("fp16" if path.stem == "fp16" else "no")
    if "deepspeed_config" in values:
        assert values["deepspeed_config"].keys() == {"deepspeed_config_file", "deepspeed_multinode_launcher"}
        settings = json.loads((ROOT / values["deepspeed_config"]["deepspeed_config_file"]).read_text())
        assert not settings.keys() & OURS_IN_DEEPSPEED.keys()


LAUNCHED = ["cpu", "multi_gpu", "single_gpu", *(f"deepspeed_{name}" for name in (*ENGINES, "zero2_offload"))]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "deepspeed_zero3" else pytest.mark.soak) for name in LAUNCHED]
)
def test_launcher_config_trains_here(name: str, tmp_path: Path) -> None:
    processes = {"single_gpu": 1, "cpu": None}.get(name, 2)
    run = ("--config", tiny_config(tmp_path), "--run-dir", tmp_path / "run", "--training.max_steps", "4")
    with launch(name, *run, processes=processes) as job:
        ended = job.wait().ok()
    engine = {"single_gpu": "one process"}.get(name, "DDP, 2 processes on 1 machine")
    if name.startswith("deepspeed"):
        engine = f"DeepSpeed ZeRO-{name[14]}, 2 processes on 1 machine"
    assert f"{engine}, cpu, float32; batch 16" in ended.stderr
    assert (tmp_path / "run" / "generator" / "model.safetensors").exists()


def test_the_launchers_own_words_are_enough(tmp_path: Path) -> None:
    """bf16 from the launcher makes no weight bf16; `auto` resumes with it; OpenMP's threads wait briefly."""
    run = ("--config", tiny_config(tmp_path), "--run-dir", tmp_path / "run")
    words = ("--use_deepspeed", "--zero_stage", "2", "--mixed_precision", "bf16")
    display = {"OMP_DISPLAY_ENV": "verbose"}
    with launch(None, *run, "--training.max_steps", "3", processes=2, launcher=words, env=display) as job:
        ended = job.wait().ok()
    assert "DeepSpeed ZeRO-2, 2 processes on 1 machine, cpu, bf16; " in ended.stderr
    for taken in ("OMP_WAIT_POLICY = 'ACTIVE'", "GOMP_SPINCOUNT = '10000'"):
        assert ended.stderr.count(taken) == 2, "what libgomp took, in both processes"
    assert {tensor.dtype for tensor in weights(tmp_path / "run")["generator"].values()} == {torch.float32}
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]
    assert (saved["precision"], saved["num_threads"]) == ("bf16", max(1, num_cores() // 2))
    with launch(None, *run, "--training.max_steps", "4", processes=2, launcher=["--cpu"]) as job:
        ended = job.wait().ok()
    assert "one process, cpu, bf16; " in ended.stderr
    assert "told to start 2 processes and started one" in ended.stderr and "cpu.yaml --num_processes 2" in ended.stderr


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("accelerate launch --num_processes 2 --cpu SCRIPT --data.path x", 2),
        ("python -m accelerate.commands.launch --cpu --num-processes=3 SCRIPT", 3),
        ("accelerate launch --config_file YAML SCRIPT", 4),
        ("accelerate launch --config_file YAML --num_processes 1 SCRIPT", 1),
        ("accelerate launch --config_file gone.yaml SCRIPT --num_processes 2", 0),
        ("accelerate launch --num_processes many SCRIPT", 0),
        ("accelerate launch --num_processes", 0),
        ("bash -c SCRIPT", 0),
    ],
)
def test_how_many_processes_were_asked_for(
    command: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "several.yaml").write_text("distributed_type: MULTI_CPU\nnum_processes: 4\n")
    words = command.replace("YAML", str(tmp_path / "several.yaml")).replace("SCRIPT", sys.argv[0]).split()
    read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self: "\0".join([*words, ""]) if self.name == "cmdline" else read(self)
    )
    notes = start_notes(num_threads=1, world_size=1)
    assert [f"told to start {expected} processes and started one" in note for note in notes] == [True] * (expected > 1)
    assert not start_notes(num_threads=1, world_size=2)


@pytest.mark.soak
def test_several_machines_as_launchers_on_loopback(tmp_path: Path) -> None:
    run = ("--config", tiny_config(tmp_path), "--run-dir", tmp_path / "run")
    where = ("--num_machines", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", "29731")
    with (
        launch("multi_node", *run, launcher=(*where, "--machine_rank", "0")) as first,
        launch("multi_node", *run, launcher=(*where, "--machine_rank", "1")) as second,
    ):
        ended, other = first.wait().ok(), second.wait().ok()
    assert "DDP, 2 processes on 2 machines" in ended.stderr
    assert "processes on" not in other.stderr, "only the main process prints"
    assert len(weights(tmp_path / "run")) == 5


@pytest.mark.soak
def test_a_machine_that_is_not_there_is_not_waited_for_longer_than_asked(tmp_path: Path) -> None:
    """Without the flag a launcher waits for 15 minutes, and none of our code runs meanwhile."""
    run = ("--config", tiny_config(tmp_path), "--run-dir", tmp_path / "run")
    where = ("--num_machines", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", "29733")
    with launch("multi_node", *run, launcher=(*where, "--machine_rank", "0", "--rdzv_conf", "timeout=5")) as job:
        ended = job.wait()
    assert ended.codes == [1] and "Timed out after 6 seconds" in ended.stderr


@pytest.mark.soak
@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is refused on CPUs alone, and there is a GPU here")
def test_fp16_config_refuses_on_a_cpu(tmp_path: Path) -> None:
    run = ("--config", tiny_config(tmp_path), "--run-dir", tmp_path / "run", "--training.precision", "fp16")
    with launch("fp16", *run, processes=1) as job:
        assert "fp16 needs a GPU" in job.wait().only_line()


@pytest.mark.soak
@pytest.mark.timeout(4000)
def test_a_hundred_runs_in_a_row_end_in_order(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    for number in range(int(os.environ.get("INPAINT_SOAK_RUNS", "100"))):
        with launch("cpu", "--config", config, "--run-dir", tmp_path / str(number), "--training.max_steps", "4") as job:
            ended = job.wait(300)
        assert ended.codes == [0], (number, ended.stderr)
