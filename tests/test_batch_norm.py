"""BatchNorm over several processes is BatchNorm over their batches together, in float32 at least and without waits."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from norms import Case, close, make_layer, trained
from torch import Tensor, nn
from torch.nn.modules import _functions
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from waits import BATCH_NORM_KERNELS, Waits, batch_norm_kernels

from inpaint.distributed.batch_norm import SyncBatchNorm, synchronise_batch_norm

SHAPES = [(6, 4, 8, 8), (12, 17, 5, 3), (6, 3, 1, 1)]
NUM_PROCESSES = 3


EXACT = [
    Case(*each)
    for each in product(SHAPES, [torch.float64, torch.float32], [torch.contiguous_format, torch.channels_last])
]
HALF = [Case(*each) for each in product(SHAPES, [torch.bfloat16, torch.float16])]
FAR = Case((12, 4, 8, 8), torch.float32, offset=3_000.0)


def process(rank: int, folder: str) -> None:
    store, timeout = dist.FileStore(f"{folder}/store", NUM_PROCESSES), timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=NUM_PROCESSES, timeout=timeout)
    results = {}
    for case in [*EXACT, *HALF, FAR]:
        layers = nn.Sequential(make_layer(case.shape[1], case.of_parameters))
        synchronise_batch_norm(layers)
        (layer,) = layers
        assert type(layer) is SyncBatchNorm
        results[repr(case)] = trained(layer, *([t.chunk(NUM_PROCESSES)[rank] for t in each] for each in case.tensors()))
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


Results = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """By rank, what it found for each case."""
    folder: Path = tmp_path_factory.mktemp("batch_norm")
    mp.spawn(process, (str(folder),), NUM_PROCESSES)
    return [torch.load(folder / f"{rank}.pt") for rank in range(NUM_PROCESSES)]


def compare(case: Case, ranks: list[Results]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """By quantity: what the processes found together, and torch's own layer for the whole batch in float64."""
    whole = make_layer(case.shape[1], case.of_parameters).double()
    for name, expected in trained(whole, *([t.double() for t in each] for each in case.tensors())).items():
        parts = [rank[repr(case)][name] for rank in ranks]
        if name in ("output", "input"):
            assert {part.dtype for part in parts} == {case.dtype}
            assert all(part.is_contiguous(memory_format=case.order) for part in parts)
            yield name, torch.cat(parts).double(), expected
        elif name in ("weight", "bias"):  # the engine reduces these
            assert {part.dtype for part in parts} == {case.of_parameters}
            yield name, torch.stack(parts).double().sum(dim=0), expected
        else:
            assert all(torch.equal(part, parts[0]) for part in parts), name
            yield name, parts[0].to(expected.dtype), expected


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_it_is_that_of_the_whole_batch(results: list[Results], case: Case) -> None:
    tolerance = 1e-12 if case.dtype == torch.float64 else 1e-4
    for name, ours, theirs in compare(case, results):
        close(name, ours, theirs, tolerance)


@pytest.mark.parametrize("case", HALF, ids=str)
def test_in_half_precision_only_what_goes_on_is_rounded(results: list[Results], case: Case) -> None:
    for name, ours, theirs in compare(case, results):
        tolerance = torch.finfo(case.dtype).eps if name in ("output", "input") else 1e-5
        close(name, ours, theirs, tolerance)


def test_a_mean_far_from_zero_costs_no_more_digits_than_its_own(results: list[Results]) -> None:
    """Where a variance is taken as the mean square less the squared mean, all of it is lost."""
    for name, ours, theirs in compare(FAR, results):
        close(name, ours, theirs, 5e-3)


def test_in_evaluation_it_is_the_plain_layer_and_asks_nobody() -> None:
    plain, layer = make_layer(4, torch.float32).eval(), make_layer(4, torch.float32).eval()
    synchronise_batch_norm(nn.Sequential(layer))
    input = torch.randn(3, 4, 5, 5)
    assert torch.equal(layer(input), plain(input))  # there is no process group here


# --- on GPUs, played by meta tensors: what is asked of them, and that nobody waits for an answer


@pytest.fixture
def gpus() -> Iterator[None]:
    """The first of two GPUs, which talk to nobody."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    with batch_norm_kernels():
        yield
    dist.destroy_process_group()


class Calls(TorchDispatchMode):
    """Remembers which kernels of BatchNorm were called, and with what."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in BATCH_NORM_KERNELS:
            self.seen.append((name, [(a.numel(), a.dtype) if isinstance(a, Tensor) else a for a in args]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpus_are_asked_what_torchs_own_layer_asks_them_and_nobody_waits(
    gpus: None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        layer = nn.BatchNorm2d(5)
        input = torch.empty(4, 5, 6, 6, dtype=dtype, requires_grad=True)
    synchronise_batch_norm(nn.Sequential(layer))
    with Waits() as seen, Calls() as ours:
        output = layer(input)
        output.sum().backward()
    assert (output.shape, output.dtype) == (input.shape, dtype)
    assert seen.waits == []

    # Where it is recorded as a graph, torch's layer looks at no count either.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    running = (layer.running_mean, layer.running_var, layer.eps, layer.momentum)
    with Calls() as theirs:
        _functions.SyncBatchNorm.apply(input, layer.weight, layer.bias, *running, dist.group.WORLD, 2).sum().backward()
    # All but the gathering.
    assert [name for name, _ in theirs.seen] == list(BATCH_NORM_KERNELS)
    assert ours.seen == [each for each in theirs.seen if each[0] != "batch_norm_gather_stats_with_counts"]


def test_what_is_exchanged_does_not_grow_with_the_processes() -> None:
    """Torch's own layer gathers: of a thousand processes a thousand times as much, one after another."""
    exchanged = []
    for world_size in (2, 1000):
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
        layers = nn.Sequential(nn.BatchNorm2d(5))
        synchronise_batch_norm(layers)
        with Exchanges() as seen:
            layers(torch.randn(4, 5, 6, 6, requires_grad=True)).sum().backward()
        exchanged.append(seen.num_bytes)
        dist.destroy_process_group()
    assert exchanged[0] == exchanged[1] == [2 * 5 * 8, 2 * 5 * 4]


class Exchanges(TorchDispatchMode):
    """Counts the bytes of each collective."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            self.num_bytes.append(sum(tensor.nbytes for tensor in tensors))
        return func(*args, **(kwargs or {}))
