"""Owns the look at an allocation before a run is started on it: every node says what it sees, one place compares.

python slurm/preflight.py node RUN_DIR TOKEN [train.py's arguments]   on each node: one line of JSON
python slurm/preflight.py compare ... -- [train.py's arguments]   on the first: those lines in, the rank table out
accelerate launch ... slurm/preflight.py all-reduce               as training will be started: do they reach one another
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from inpaint.arguments import parse_arguments
from inpaint.distributed.launcher import divide_batch, env_true, refuse_lost_gpus
from inpaint.errors import InpaintError, UsageError
from inpaint.processes import rank_and_world_size
from inpaint.sources.opening import open_source

REPOSITORY = Path(__file__).resolve().parents[1]
CODE = ("train.py", "inpaint/**/*.py", "inpaint/**/*.yaml", "accelerate_configs/*", "slurm/*.py")
PACKAGES = ("torch", "accelerate", "deepspeed", "numpy")
# As RunDirectory must find a new folder empty, the batch script removes what begins so again.
TOKEN = ".preflight-"
MISSING = "missing"
ALL_REDUCE_BYTES, NUM_REPEATS, MEET_S = 16 << 20, 5, 120


@dataclass(frozen=True)
class Node:
    """What one node sees; `code`, `data` and `software` must be the same on all.

    Attributes:
        number: SLURM_NODEID, which becomes the machine rank.
        num_gpus: given to the job on this node.
        num_driver_gpus: that the driver answers for; None without a driver.
        num_cpus: cores that a process of the job may use here.
        lack: why the run directory cannot be used, as by all others; empty if it can.
    """

    name: str
    number: int
    num_gpus: int
    num_driver_gpus: int | None
    code: str
    software: str
    data: str
    num_cpus: int
    lack: str
    trouble: tuple[str, ...] = ()


def look(run_dir: Path, token: str, train_arguments: list[str]) -> Node:
    """This node as it is; the batch script has put the empty file `token` into the run directory for this start."""
    trouble, lack = [], ""
    try:
        (run_dir / f"{TOKEN}{token}").stat()
        probe = run_dir / f"{TOKEN}{socket.gethostname()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        lack = f"{error.strerror}: {error.filename}"
    if int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) > 1 and not os.environ.get("GLOO_SOCKET_IFNAME"):
        trouble += [line for line in [_loopback(socket.gethostname())] if line]
    try:
        data = _data_fingerprint(parse_arguments(train_arguments)[0].data.path)
    except UsageError:
        data = "unknown"  # the settings are at fault, which `compare` says once
    except InpaintError as error:
        data = MISSING
        trouble.append(str(error))
    return Node(
        name=os.environ.get("SLURMD_NODENAME", socket.gethostname()),
        number=int(os.environ.get("SLURM_NODEID", "0")),
        num_gpus=int(os.environ.get("SLURM_GPUS_ON_NODE", "0")),
        num_driver_gpus=_driver_gpus(),
        code=_code_hash(REPOSITORY),
        software=f"Python {sys.version.split()[0]}, " + ", ".join(_versions()),
        data=data,
        num_cpus=_num_cpus(),
        lack=lack,
        trouble=tuple(trouble),
    )


def _loopback(host: str) -> str:
    """That gloo would tell the others an address at which they find themselves; empty if it would not."""
    try:
        address = socket.gethostbyname(host)
    except OSError as error:
        return f"its own name {host} has no address ({error.strerror}); set NETWORK_INTERFACE=NAME"
    if not address.startswith("127."):
        return ""
    return (
        f"its own name {host} means {address} here (/etc/hosts), at which no other node reaches it: name the network "
        "with NETWORK_INTERFACE=NAME (`ip -br addr` lists them)"
    )


def _num_cpus() -> int:
    allowed = len(os.sched_getaffinity(0))
    # Not every site binds a job to what it was given.
    return min(allowed, int(os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or allowed))


def _data_fingerprint(path: str | None) -> str:
    if path is None:
        return "made up"
    # A dataset of the Hub is not fetched for a look.
    is_local = Path(path).expanduser().exists() or path.count("/") != 1 or path.startswith((".", "/", "~"))
    return open_source(path).fingerprint() if is_local else f"Hub: {path}"


def _code_hash(root: Path) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted({path for pattern in CODE for path in root.glob(pattern)}):
        if path.is_file():
            digest.update(f"{path.relative_to(root)}\0".encode() + hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


def _versions() -> Iterator[str]:
    for package in PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield f"no {package}"


def _driver_gpus() -> int | None:
    if shutil.which("nvidia-smi") is None:
        return None
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False, timeout=60)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def rank_table(nodes: list[Node], processes_per_node: int) -> str:
    """Which ranks will be where, and what each node has."""
    rows = [("node", "ranks", "GPUs", "code", "data")]
    for node in nodes:
        first = node.number * processes_per_node
        ranks = f"{first}" if processes_per_node == 1 else f"{first}-{first + processes_per_node - 1}"
        rows.append((node.name, ranks, str(node.num_gpus), node.code, node.data))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def faults(nodes: list[Node], expected: list[str], processes_per_node: int, use_cpu: bool, port: int) -> list[str]:
    """What is wrong with the allocation, each fault with the node it is on and what to do.

    Args:
        nodes: those that answered.
        expected: the names of all, the first being where this runs.
        processes_per_node: wanted.
        use_cpu: whether the launcher's YAML keeps off the GPUs.
        port: where rank 0 will listen.
    """
    found = [
        f"{name} did not answer (its messages stand above): leave it out with sbatch --exclude={name}"
        for name in expected
        if name not in {node.name for node in nodes}
    ]
    for node in nodes:
        found += [f"{node.name}: {line}" for line in node.trouble]
        if node.lack:
            found.append(f"{node.name} does not see this run directory ({node.lack}): it must be on a shared disk")
        if use_cpu:
            continue
        if node.num_gpus < processes_per_node:
            found.append(
                f"{node.name} has {node.num_gpus} GPU(s) for {processes_per_node} process(es): ask for sbatch "
                f"--gpus-per-node={processes_per_node}, or set PROCESSES_PER_NODE=N; to train on CPUs, "
                "ACCELERATE_CONFIG=accelerate_configs/cpu.yaml"
            )
        elif node.num_driver_gpus is not None and node.num_driver_gpus < processes_per_node:
            found.append(
                f"{node.name} was given {node.num_gpus} GPU(s), but its driver answers for {node.num_driver_gpus}: "
                f"leave it out with sbatch --exclude={node.name}"
            )
    for what, remedy in {
        "code": "update the checkout there, or keep one on a shared disk",
        "software": "use one environment on all nodes (PYTHON, SETUP)",
        "data": "data.path must be the same folder everywhere",
    }.items():
        seen = [(node.name, getattr(node, what)) for node in nodes if getattr(node, what) != MISSING]
        usual = Counter(value for _, value in seen).most_common(1)[0][0] if seen else ""
        one = next((name for name, value in seen if value == usual), "")
        found += [
            f"{name} has other {what} than {one}: {value}, not {usual}; {remedy}"
            for name, value in seen
            if value != usual
        ]
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError as error:
            found.append(f"port {port} on {expected[0]} cannot be had ({error.strerror}): set another MASTER_PORT")
    return found


def compare(options: argparse.Namespace, lines: Iterable[str]) -> int:
    """Print the rank table and all faults; 1 if there is one."""
    known = {field.name for field in fields(Node)}
    nodes = []
    for line in lines:
        # Modules and prologues like to print too.
        if line.startswith("{") and (values := json.loads(line)).keys() == known:
            nodes.append(Node(**values | {"trouble": tuple(values["trouble"])}))
    nodes.sort(key=lambda node: node.number)
    num_processes = len(options.nodes) * options.processes_per_node
    print(f"preflight: {len(options.nodes)} node(s), {num_processes} process(es), {nodes[0].software if nodes else ''}")
    print(rank_table(nodes, options.processes_per_node), flush=True)
    use_cpu = bool(yaml.safe_load(options.accelerate_config.read_text()).get("use_cpu"))
    for node in nodes:
        if node.num_cpus < options.processes_per_node:
            print(
                f"preflight: warning: {node.name} gives {node.num_cpus} core(s) for {options.processes_per_node} "
                f"processes, which then wait for one another: ask for sbatch --cpus-per-task="
                f"{4 * options.processes_per_node}",
                file=sys.stderr,
            )
    found = faults(nodes, options.nodes, options.processes_per_node, use_cpu, options.port)
    try:
        training = parse_arguments(options.train_arguments)[0].training
        divide_batch(training.global_batch_size, training.micro_batch_size, num_processes)
    except InpaintError as error:
        found.append(str(error))
    for fault in found:
        print(f"preflight: {fault}", file=sys.stderr)
    return 1 if found else 0


def all_reduce() -> int:
    """Sum a tensor over all processes and say how long it took, as training will do it in every step."""
    import torch
    import torch.distributed as dist

    try:
        rank, world = rank_and_world_size()
    except UsageError as error:
        print(f"preflight: {error}", file=sys.stderr)
        return 1
    local_rank, here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    place = f"rank {rank} on {socket.gethostname()}"
    use_cpu = env_true("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    if not env_true("ACCELERATE_USE_CPU") and not torch.cuda.is_available():
        try:
            refuse_lost_gpus(torch.__version__, torch.version.cuda or torch.version.hip)
        except InpaintError as error:
            print(f"preflight: {place}: {error}", file=sys.stderr)
            return 1
    if not use_cpu and torch.cuda.device_count() < here:
        print(f"preflight: {place}: torch sees {torch.cuda.device_count()} GPU(s) for {here}", file=sys.stderr)
        return 1
    device = torch.device("cpu") if use_cpu else torch.device("cuda", local_rank)
    if world == 1:
        print(f"preflight: one process, on {device}; nothing to reduce")
        return 0
    if not use_cpu:
        torch.cuda.set_device(device)  # else all processes of a node would meet on its first one
    means = "gloo" if use_cpu else "nccl"
    try:
        dist.init_process_group(means, timeout=timedelta(seconds=MEET_S))
        values = torch.ones(ALL_REDUCE_BYTES // 4, device=device)
        seconds = []
        for _ in range(1 + NUM_REPEATS):
            values.fill_(rank)
            dist.barrier()
            begun = time.perf_counter()
            dist.all_reduce(values)
            total = values[0].item()  # waits for the device
            seconds.append(time.perf_counter() - begun)
        if total != world * (world - 1) / 2:
            raise RuntimeError(f"the sum of the ranks 0 to {world - 1} came out as {total:g}")
        # Training sends its flags over gloo, whatever the device is.
        means = "gloo"
        agreed = torch.tensor(rank)
        dist.all_reduce(agreed, dist.ReduceOp.MAX, dist.new_group(backend="gloo", timeout=timedelta(seconds=MEET_S)))
        dist.destroy_process_group()
    except RuntimeError as error:
        words = " ".join(str(error).split())[:300]
        print(
            f"preflight: {place} cannot reduce with the others over {means} ({words}); look at the network between "
            "the nodes: NETWORK_INTERFACE names the interface, NCCL_DEBUG=INFO shows what NCCL tries",
            file=sys.stderr,
        )
        return 1
    if rank == 0:
        took = statistics.median(seconds[1:])
        bus = 2 * (world - 1) / world * ALL_REDUCE_BYTES / took
        print(
            f"preflight: all-reduce of {ALL_REDUCE_BYTES >> 20} MiB over {world} processes on {device.type}: "
            f"{took * 1e3:.1f} ms, {bus / 1e9:.2f} GB/s on the bus"
        )
    return 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    on_node = commands.add_parser("node")
    on_node.add_argument("run_dir", type=Path)
    on_node.add_argument("token")
    on_node.add_argument("train_arguments", nargs=argparse.REMAINDER)
    together = commands.add_parser("compare")
    together.add_argument("--nodes", nargs="+", required=True)
    together.add_argument("--processes-per-node", type=int, required=True)
    together.add_argument("--accelerate-config", type=Path, required=True)
    together.add_argument("--port", type=int, required=True)
    together.add_argument("train_arguments", nargs="*")
    commands.add_parser("all-reduce")
    options = parser.parse_args(arguments)
    if options.command == "all-reduce":
        return all_reduce()
    if options.command == "compare":
        return compare(options, sys.stdin)
    print(json.dumps(asdict(look(options.run_dir, options.token, options.train_arguments))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
