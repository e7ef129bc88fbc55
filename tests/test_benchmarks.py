"""The benchmarks: that they run, and that what they compare is the same thing. No figure decides anything."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import baseline_loop, busy, health, limit, overhead, scaling, start, streaming
from benchmarks.measuring import Figure, middle, rate, ratio, table, take_turns
from benchmarks.step import image_files
from benchmarks.subject import Subject, configured
from inpaint.resolve import load_config
from inpaint.tables import GENERATORS
from inpaint.training.task import build_networks

ROOT = Path(__file__).parent.parent
TINY = {"model__width": 4, "data__image_size": 16}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def test_rivals_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    ticks = iter(range(100))
    seconds = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, lambda: next(ticks))
    assert calls == ["a", "b"] * 3
    assert seconds == {"a": [1, 1], "b": [1, 1]}


def test_figures_by_hand() -> None:
    assert middle([1, 2, 3, 4, 100]) == (3, 1)
    assert middle([5]) == (5, 0)
    assert rate("", [0.5, 0.5], 10, "img/s").value == 20
    # Of neighbours: a machine that slows down half-way changes both alike, and not their ratio.
    assert ratio("", [1, 10], [3, 30]) == Figure("", 3, "x", 0)
    assert "| 12,345 x | ± 0.5  |" in table([Figure("a", 12345, "x", 0.5)])


def test_the_rival_has_the_same_layers() -> None:
    ours = build_networks(load_config("paper/final"))
    theirs = baseline_loop.completion_network(64), baseline_loop.ContextDiscriminator(64)
    for mine, rivals in zip(ours, theirs, strict=True):
        shapes = [sorted(tuple(p.shape) for p in network.parameters()) for network in (mine, rivals)]
        assert shapes[0] == shapes[1]
    # With equal weights the generators are equal too.
    theirs[0].load_state_dict(dict(zip(theirs[0].state_dict(), ours[0].state_dict().values(), strict=True)))
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(theirs[0].eval()(image), ours[0].eval()(image, image[:, :1]), atol=1e-5)


@pytest.mark.parametrize("phase", [1, 2, 3])
def test_the_rival_trains_what_the_phase_is_for(phase: int, tmp_path: Path) -> None:
    loop = baseline_loop.BaselineLoop(image_files(tmp_path, 2, size=80), batch_size=2, width=4)
    before = [[p.clone() for p in net.parameters()] for net in (loop.generator, loop.discriminator)]
    loop.step(phase)
    moved = [
        any(not torch.equal(p, q) for p, q in zip(net.parameters(), old, strict=True))
        for net, old in zip((loop.generator, loop.discriminator), before, strict=True)
    ]
    assert moved == [phase != 2, phase != 1]


def test_the_bare_loop_does_what_the_trainer_does() -> None:
    """Else the trainer's overhead would be measured against other work."""
    config = configured("paper/original", 4, **TINY)
    subject, bare = Subject(config), overhead.BareLoop(config, torch.device("cpu"))
    for phase in (1, 2, 3):
        batch = subject.batch()
        subject.step(phase, batch)
        bare.step(phase, batch)
    for ours, theirs in zip(subject.task.networks.values(), bare.networks, strict=True):
        for (name, value), other in zip(ours.module.state_dict().items(), theirs.state_dict().values(), strict=True):
            assert torch.allclose(value, other, atol=1e-3), name
    subject.close()


def test_the_overhead_is_measured_on_the_real_trainer(tmp_path: Path) -> None:
    config = configured("paper/original", 2, **TINY, training__epochs=10**6, evaluation__every_epochs=10**6)
    assert [figure.unit for figure in overhead.compare(config, tmp_path, rounds=2)] == ["%", "%"]


def test_more_gpus_and_smaller_batches_scale_worse() -> None:
    reduced = scaling.Exchanged(10**8, 54, 10**5)
    job = scaling.Job(reduced, 8, step=scaling.StepTime(floor_s=1e-3, image_s=1e-4), draw_s=0.0, checkpoint_bytes=0)
    assert scaling.share_of_work(1, job) == 1
    across = [scaling.share_of_work(gpus, job) for gpus in (1, 8, 64, 1024)]
    assert across == sorted(across, reverse=True) and 0 < across[-1] < 0.9
    larger = [scaling.share_of_work(64, replace(job, images=images)) for images in (8, 64, 512)]
    assert larger == sorted(larger)
    below = scaling.first_below(job)
    assert below and scaling.share_of_work(below, job) < 0.9 <= scaling.share_of_work(below // 2, job)
    for what, reached in scaling.remedies(1024, job):
        assert reached >= 0.9, what
    # BatchNorm's latencies come with every micro batch: to accumulate more of them is no remedy.
    assert not any(what.endswith("accumulated") and "GroupNorm" not in what for what, _ in scaling.remedies(1024, job))


def test_a_reduction_by_hand() -> None:
    """Two machines of eight: 7/8 of the bytes twice inside, an eighth of them once each way between."""
    inside = 2 * 7 / 8 * 1e6 / scaling.NVLINK_BYTES_S + 14 * scaling.NVLINK_LATENCY_S
    between = 2 * 1 / 2 * 1e6 / 8 / scaling.ADAPTER_BYTES_S + 2 * scaling.ADAPTER_LATENCY_S
    assert scaling.reduction_s(16, 1e6) == pytest.approx(inside + between)
    assert scaling.reduction_s(1, 1e6) == 0


# What the project uses elsewhere and the machine with the GPU need not have.
NOT_THERE = "pyarrow datasets pandas torchmetrics cv2 transformers deepspeed matplotlib onnxruntime tensorboard"
HIDING = f"""
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {NOT_THERE.split()}
        return None if hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


def test_the_gpu_check_is_rehearsed(tmp_path: Path) -> None:
    """From another folder, as on a machine to which the files were copied and that has little else."""
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--rehearse", "--seconds", "2000"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=2000)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "FAILED" not in ended.stdout
    assert "| best epoch of 170k images" in ended.stdout


def test_an_unknown_suite_is_named() -> None:
    ended = subprocess.run([sys.executable, "-m", "benchmarks", "steps"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "no such suite: steps" in ended.stderr


def test_a_start_is_timed_from_the_launcher_on(tmp_path: Path) -> None:
    environment = os.environ | {"INPAINT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    flags = ("--data.synthetic_train", "32", "--data.synthetic_held_out", "16")
    reduction, step = start.start(tmp_path / "run", 2, environment, flags)
    assert 0 < reduction < step
    with pytest.raises(RuntimeError, match=r"(?s)no rank0\.pid: inpaint: .*did you mean training\.epochs"):
        start.start(tmp_path / "bad", 1, environment, ("--training.epoks", "1"))


@pytest.mark.soak
def test_training_beside_busy_loops_is_timed() -> None:
    figures = busy.run(0.5, "--model.width=4", "--data.image_size=16", "--model.norm=group")
    assert len(figures) == 4 and all(figure.value > 0 for figure in figures)


def test_health_counts_first_verdicts_at_the_end_and_alarms_at_any(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        ("no adversarial loss", 1): [["blurred", "collapsed"]],
        ("no adversarial loss", 2): [["blurred"], ["collapsed"]],
        ("sound, hinge", 1): [["too early to say"], ["blurred"], ["converging"]],
    }
    monkeypatch.setattr(health, "verdicts", lambda kind, seed: said.get((kind.name, seed), [["converging"]]))
    figures = {figure.what: figure for figure in health.run((1, 2))}
    assert len(figures) == 7  # of so few seeds none has the dataset of one image
    ill, sound = figures["no adversarial loss: blurred"], figures["sound, hinge: converging"]
    assert (ill.value, ill.unit) == (1, "of 2")
    assert ill.note == "told: blurred 1, collapsed 1; beside it: collapsed 1"
    assert sound.value == 2 and sound.note == "told: converging 2; alarms after 1 of 4 epochs"


def test_health_trains_what_it_makes_ill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "RUNS", tmp_path)
    monkeypatch.setattr(health, "COPIES", tmp_path / "copies")
    monkeypatch.setattr(health, "NUM_COPIES", 60)
    tiny = {"data.synthetic_train": 64, "data.synthetic_held_out": 8, "model.width": 4, "training.epochs": 1}
    for kind in health.kinds(health.PAPER | tiny)[3:5]:
        assert health.verdicts(kind, 3) == [["too early to say"]]
    assert len(list(tmp_path.glob("*-3/report.md"))) == 2
    assert "one_image" not in GENERATORS


def test_streaming_is_measured_on_a_prepared_dataset(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BATCH", 4)
    monkeypatch.setattr(streaming, "SECONDS", 0.1)
    assert streaming.measure(str(dataset), 64, 512) > 0
    assert streaming.measure(str(dataset), 64, 0) == 0


def test_a_limit_is_of_all_convolutions_of_a_step() -> None:
    """Of the generator's 17 layers forth and back in phase 1, forth alone in phase 2; of the other's 5 as it runs."""
    figures = limit.limits("paper/final", TINY | {"model__discriminator": "patch"}, 2, 1)
    assert [figure.what.rpartition("phase ")[2] for figure in figures[1::3]] == [
        "1, its 34 convolutions",
        "2, its 27 convolutions",
        "3, its 54 convolutions",
    ]
    assert all("of the step: " in figure.note for figure in figures[2::3])
