"""What only a GPU can show, on one: half precision, compilation, BatchNorm under DDP, and steps that never wait.

On two or more also what NCCL makes of them. What can be told without any is in test_device.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from norms import Case, close, make_layer, trained
from running import ENGINES, differences, launch, metrics, tiny_config, train, weights
from stepping import BATCH, Setup
from torch.nn.parallel import DistributedDataParallel
from torch.utils.cpp_extension import CUDA_HOME

from inpaint.distributed.batch_norm import synchronise_batch_norm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="about training on GPUs, and torch finds no CUDA device here"
    ),
]
two_gpus = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="about several GPUs, and torch finds fewer than two here"
)
with_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None or CUDA_HOME is None, reason="needs DeepSpeed, which needs the CUDA toolkit"
)

# For runs that start without a launcher; the tests' environment hides all GPUs.
VISIBLE = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0,1")}
# What tests/test_distributed.py trains with on CPUs, and which there ends 13% below its start.
LEARNING = {
    "training": {"phases": [0.8, 0.1, 0.1], "epochs": 3},
    "optimizer": {"generator_learning_rate": 0.005},
    "loss": {"adversarial_weight": 0.001},
}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Accelerate remembers for the whole process which device it once chose; here it chooses anew."""
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def learning(folder: Path, **training: Any) -> Path:
    return tiny_config(folder, **{**LEARNING, "training": {**LEARNING["training"], **training}})


def assert_learnt(run: Path) -> None:
    losses = [line.get("loss/generator/reconstruction") for line in metrics(run)]
    known = [loss for loss in losses if loss is not None]
    assert len(known) == 27
    assert sum(known[-9:]) < 0.95 * sum(known[:9])


@pytest.mark.parametrize("flags", [{}, {"compile": True}], ids=["plain", "compiled"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(tmp_path: Path, precision: str, flags: dict[str, bool]) -> None:
    config = learning(tmp_path, precision=precision, **flags)
    ended = train("--config", config, "--run-dir", tmp_path / "run", env=VISIBLE).ok()
    assert f"one process, cuda, {precision}; batch 16" in ended.stderr
    assert "back to the last checkpoint" not in ended.stderr
    assert_learnt(tmp_path / "run")


@with_deepspeed
@pytest.mark.parametrize("engine", ENGINES)
def test_zero_trains_in_bf16(tmp_path: Path, engine: str) -> None:
    config = learning(tmp_path, precision="bf16")
    ended = train("--config", config, "--run-dir", tmp_path / "run", engine=engine, env=VISIBLE).ok()
    assert f"DeepSpeed ZeRO-{engine[-1]}, one process, cuda, bf16; batch 16" in ended.stderr
    assert_learnt(tmp_path / "run")


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_no_step_waits_for_the_device(device: None, precision: str, norm: str) -> None:
    setup = Setup(micro=BATCH // 2, precision=precision, model={"norm": norm})
    assert setup.runtime.device.type == "cuda"
    batches = setup.batch().split(setup.runtime.micro_batch_size)
    for phase in (1, 2, 3):
        setup.task.step(phase, batches, 1, BATCH)  # the first use of a kernel may wait
    try:
        torch.cuda.set_sync_debug_mode("error")
        for phase in (1, 2, 3):
            setup.task.step(phase, batches, 1, BATCH)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_batch_norm_under_ddp(device: None) -> None:
    """Two forwards before one backward fail here and not on a CPU; ours is one, of real and generated images."""
    setup = Setup(micro=BATCH // 2, precision="bf16", model={"norm": "batch"})
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        for network in (setup.generator, setup.discriminator):
            module = network.module
            synchronise_batch_norm(module)
            network.engine = DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)
        for phase in (1, 2, 3, 3):
            terms = setup(phase)
            assert all(value.isfinite() for value in terms.values())
        assert setup.generator.num_updates() == setup.discriminator.num_updates() == 3
    finally:
        setup.generator.release()
        setup.discriminator.release()
        dist.destroy_process_group()


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_over_processes_is_torchs_own_and_never_waits(
    dtype: torch.dtype, order: torch.memory_format
) -> None:
    case = Case((12, 17, 5, 3), dtype, order)
    tensors = [[tensor.cuda() for tensor in each] for each in case.tensors()]
    expected = trained(make_layer(17, torch.float32).double().cuda(), *([t.double() for t in each] for each in tensors))
    layer = make_layer(17, torch.float32).cuda()
    synchronise_batch_norm(torch.nn.Sequential(layer))
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        trained(layer, *tensors)  # the first use of a kernel may wait
        layer.reset_running_stats()
        torch.cuda.set_sync_debug_mode("error")
        found = trained(layer, *tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        dist.destroy_process_group()
    for name, whole in expected.items():
        tolerance = torch.finfo(dtype).eps if name in ("output", "input") and dtype != torch.float32 else 1e-4
        close(name, found[name].to(whole.dtype), whole, tolerance)


def test_fp16_finds_its_loss_scale(device: None) -> None:
    setup = Setup(precision="fp16", model={"norm": "group"})
    scaler = setup.generator.scaler
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**60})
    before = [p.detach().clone() for p in setup.generator.module.parameters()]
    assert setup(1)["gradient_norm/generator"] == 0
    assert setup.generator.num_updates() == 0
    assert all(torch.equal(old, new) for old, new in zip(before, setup.generator.module.parameters(), strict=True))
    norms = [float(setup(1)["gradient_norm/generator"]) for _ in range(70)]
    assert sum(norm > 0 for norm in norms[-20:]) >= 15  # close to what overflows, one may again
    assert setup.generator.num_updates() == sum(norm > 0 for norm in norms)


@two_gpus
def test_two_gpus_train_as_one(tmp_path: Path) -> None:
    """In float64, since a GAN under Adam makes much of float32's rounding."""
    config = tiny_config(tmp_path, model={"norm": "batch"}, training={"precision": "float64"})
    train("--config", config, "--run-dir", tmp_path / "1", env=VISIBLE).ok()
    with launch("multi_gpu", "--config", config, "--run-dir", tmp_path / "2", processes=2, env=VISIBLE) as job:
        ended = job.wait().ok()
    assert "DDP, 2 processes on 1 machine, cuda, float64; batch 16 = 8 x 2 processes" in ended.stderr
    assert max(differences(weights(tmp_path / "1"), weights(tmp_path / "2")).values()) < 1e-9


@two_gpus
@pytest.mark.parametrize(
    "engine", ["multi_gpu", *(pytest.param(f"deepspeed_{engine}", marks=with_deepspeed) for engine in ENGINES)]
)
def test_two_gpus_learn_in_bf16_under_every_engine(tmp_path: Path, engine: str) -> None:
    config = learning(tmp_path, precision="bf16")
    with launch(engine, "--config", config, "--run-dir", tmp_path / "run", processes=2, env=VISIBLE) as job:
        job.wait().ok()
    assert_learnt(tmp_path / "run")
