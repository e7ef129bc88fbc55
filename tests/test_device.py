"""What a GPU would be asked for, seen without one: when the processor waits for it, which types it is given, and when.

`waits.Waits` runs the program itself, with tensors on `meta` in the place of the GPU's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from waits import DEVICE, Waits, batch_norm_kernels

from inpaint.arguments import Options
from inpaint.config import Config
from inpaint.data.decoded import DecodedSplit
from inpaint.data.draws import stored_holes
from inpaint.distributed.collectives import device_type
from inpaint.distributed.heartbeat import Heartbeat
from inpaint.distributed.launcher import validate_launcher
from inpaint.distributed.runtime import Runtime
from inpaint.distributed.signals import StopRequest
from inpaint.errors import UsageError
from inpaint.training.evaluator import Evaluator
from inpaint.training.run_directory import RunDirectory
from inpaint.training.trainer import Trainer

SIZE, LOG_EVERY = 16, 3


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", str(DEVICE))
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def group_of_two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is the first of two, of which the other need not be there."""
    launched_as(monkeypatch, 0, 2)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    new_group = dist.new_group
    monkeypatch.setattr(dist, "new_group", lambda **_: new_group(backend="fake"))
    # It reads the other's answer, and on `meta` there is none.
    monkeypatch.setattr("torch.nn.parallel.distributed._verify_param_shape_across_processes", lambda *_: None)
    with batch_norm_kernels():
        yield
    dist.destroy_process_group()


def launched_as(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    meeting = {"WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size, "RANK": rank, "LOCAL_RANK": rank}
    for name, value in {**meeting, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, str(value))


def images_of(config: Config, num: int) -> DecodedSplit:
    holes, crops = stored_holes(np.arange(num, dtype=np.uint64), config.data.hole_spec)
    size = config.data.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (num, size, size, 3), dtype=np.uint8)
    return DecodedSplit(pixels, holes, crops, [""] * num)


def config_of(norm: str, processes: int) -> Config:
    """Six steps an epoch, two of each phase, of two micro batches on each process."""
    sections = {
        "data": {"image_size": SIZE, "flip": True, "holes": "resampled"},
        "model": {"width": 4, "norm": norm, "mask_channel": True},
        "loss": {"terms": {"r1": 1.0, "r2": 1.0} if norm == "group" else {}, "penalty_every": 1},
        "training": {"epochs": 2, "global_batch_size": 8, "micro_batch_size": 4 // processes, "log_every": LOG_EVERY},
        "optimizer": {"gradient_clip": 1.0},
        "evaluation": {"num_pictures": 7, "num_samples": 5},
    }
    return Config.model_validate(sections)


def train_watched(config: Config, folder: Path) -> tuple[Waits, dict[int, tuple[int, list[str]]]]:
    """A whole run on `meta`; by step its phase, and what waited in it."""
    run, stop, heartbeat = RunDirectory(folder / "run"), StopRequest(), Heartbeat(0, 1, 60.0)
    steps: dict[int, tuple[int, list[str]]] = {}
    with Waits() as seen:
        runtime = Runtime.of(config)
        assert runtime.device == DEVICE
        run.open(config, True, False)
        images = {split: images_of(config, num) for split, num in (("train", 50), ("validation", 7), ("test", 9))}
        trainer = Trainer(config, Options(run.path), runtime, run, stop, heartbeat, images)
        if runtime.world_size > 1:
            for network in trainer.task.networks.values():
                network.engine.register_comm_hook(None, already_reduced)  # type: ignore[operator]
        whole_step, train_step = trainer._step, trainer.task.step

        def step(batches: Any) -> int:
            number, before = trainer.progress.step + 1, len(seen.waits)
            result = whole_step(batches)
            steps[number] = (steps[number][0], seen.waits[before:])
            return result

        def phase_of(phase: int, *arguments: Any) -> Any:
            steps[trainer.progress.step + 1] = (phase, [])
            return train_step(phase, *arguments)

        trainer._step, trainer.task.step = step, phase_of  # type: ignore[method-assign]
        try:
            assert trainer.run() == "finished"
            trainer.store.wait()
        finally:
            stop.restore()
    heartbeat.close(in_order=True)
    run.close(preempted=False)
    return seen, steps


def already_reduced(state, bucket):  # torch would read annotations, and takes no strings
    """Instead of a reduction that the stand-in of a group does not begin."""
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def test_the_counter_sees_what_waits() -> None:
    def waits(act: Callable[[Tensor], object]) -> int:
        with Waits() as seen:
            act(torch.ones(4, device=DEVICE))
        return len(seen.waits)

    for act in (
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x.any()),
        lambda x: x.cpu(),
        lambda x: x.to("cpu", torch.float64),
        lambda x: x[x > 0],
        lambda x: x.__setitem__(x > 0, torch.zeros(4, device=DEVICE)),
        lambda x: torch.zeros(4).copy_(x),
        lambda x: x.copy_(torch.zeros(4)),
        lambda x: torch.zeros(4).to(DEVICE),
        lambda x: torch.tensor([1.0], device=DEVICE),
    ):
        assert waits(act) >= 1
    for act in (
        lambda x: x.to(torch.bfloat16) * 2,
        lambda x: torch.zeros(4).to(DEVICE, non_blocking=True),
        lambda x: x.__setitem__(0, 1.0),
        lambda x: torch.full((3,), 2.0, device=DEVICE) + torch.arange(3, device=DEVICE),
        lambda x: x[torch.zeros(2, dtype=torch.int64, device=DEVICE)],
        lambda x: torch.where(x > 0, x, 0.0),
    ):
        assert waits(act) == 0
    with Waits() as seen:
        torch.ones(2, device=DEVICE).double()
        torch.ones(2, device=DEVICE).cpu().double()
    assert len(seen.float64) == 1


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_waits_for_the_device_only_to_log(
    request: pytest.FixtureRequest, on_meta: None, tmp_path: Path, processes: int, norm: str
) -> None:
    """With accumulation, clipping, average and meter, in each phase.

    And float64, which Apple's GPUs lack, is only what BatchNorm reduces over processes, which share no such GPU.
    """
    if processes == 2:
        request.getfixturevalue("group_of_two")
    seen, steps = train_watched(config_of(norm, processes), tmp_path)
    num = len(steps)
    assert num == 12 and {phase for phase, _ in steps.values()} == {1, 2, 3}
    # The last step of an epoch is followed by the held-out images; the first epoch's by what is done once in a run.
    for number in range(num // 2 + 1, num):
        phase, waits = steps[number]
        assert len(waits) == (number % LOG_EVERY == 0), (number, phase, waits)
        assert all(" at meter.py:" in wait for wait in waits)
    assert processes == 2 or seen.float64 == []
    assert all(" at batch_norm.py:" in made for made in seen.float64)


# --- how much at once, and how often


@pytest.mark.parametrize(
    ("size", "micro", "at_once"), [(64, 128, 128), (64, 4096, 256), (512, 128, 4), (1024, 64, 1), (512, 2, 2)]
)
def test_held_out_images_are_filled_by_area_and_never_more_than_a_micro_batch(
    size: int, micro: int, at_once: int, tmp_path: Path
) -> None:
    """The figures, SSIM's too, and the sample grid."""
    num = min(9, at_once + 1)
    config = Config.model_validate({"data": {"image_size": size}})
    filled: list[int] = []

    def generator(masked_image: Tensor, mask: Tensor) -> Tensor:
        filled.append(len(masked_image))
        return masked_image

    runtime = SimpleNamespace(
        micro_batch_size=micro,
        world_size=1,
        rank=0,
        is_main=False,
        device=torch.device("cpu"),
        reduce_sum=lambda x: x,
        others_than=lambda wanted, text: {},
    )
    evaluator = Evaluator(runtime, {"validation": images_of(config, num)}, config)  # type: ignore[arg-type, dict-item]
    evaluator._fill = lambda _: generator  # type: ignore[method-assign]
    assert evaluator.at_once == at_once
    evaluator.validate(torch.nn.Identity(), lambda: False)
    evaluator.save_samples(torch.nn.Identity(), RunDirectory(tmp_path), 1)
    assert sum(filled) == 2 * num and max(filled) == min(num, at_once)


# --- which device


def test_a_process_that_sees_one_gpu_counts_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`srun --gpus-per-task=1`: the fourth process of a machine has the first of the GPUs that it sees."""
    launched_as(monkeypatch, 3, 4)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    cuda, chosen = torch.device("cuda"), []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: cuda)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1].index)
    monkeypatch.setattr("accelerate.state.check_cuda_p2p_ib_support", lambda: True)
    AcceleratorState._reset_state(reset_partial_state=True)
    dist.init_process_group("fake", store=FakeStore(), rank=3, world_size=4)
    monkeypatch.setattr(dist, "new_group", lambda **_: None)
    try:
        runtime = Runtime(global_batch_size=4)
        assert runtime.device == torch.device("cuda", 0) and chosen == [runtime.device]
        # What Accelerate gives DDP as `device_ids`, and the variable that DeepSpeed reads.
        assert runtime.accelerator.local_process_index == 0
        assert os.environ["LOCAL_RANK"] == "0"
    finally:
        dist.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


def test_tf32_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def words(precision: str, device: str) -> str:
        stand_in = SimpleNamespace(precision=precision, device=torch.device(device))
        return Runtime.precision_in_words.fget(stand_in)  # type: ignore[attr-defined]

    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: True)
    assert words("float32", "cuda") == "float32 (convolutions in TF32)"
    assert (words("bf16", "cuda"), words("float32", "cpu")) == ("bf16", "float32")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert words("float32", "cuda") == "float32"


@pytest.mark.parametrize(("processes", "expected"), [(1, "mps"), (2, "cpu")])
def test_several_processes_share_no_apple_gpu(processes: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("mps"))
    assert device_type(processes) == expected
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert device_type(processes) == "cpu"


def test_what_apple_gpus_lack_is_refused() -> None:
    validate_launcher("float32", False, "mps")
    validate_launcher("bf16", False, "mps")
    with pytest.raises(UsageError, match=r"float64: Apple's GPUs have none; use float32 or bf16, or train on the CPU"):
        validate_launcher("float64", False, "mps")
    with pytest.raises(UsageError, match="DeepSpeed does not run on Apple's GPUs"):
        validate_launcher("float32", True, "mps")
