"""A real SLURM on this machine: a controller and several nodes on loopback, in a folder of its own.

Each node is a slurmd with its own host name and its own view of the file system, so that jobs see several machines and
a test can make a folder look different on one of them. Nothing outside the folder is changed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged", "unshare", "nsenter", "setpriv")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
# There is one machine: no control groups, no accounting, and nodes may claim more processors than it has.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=0
KillWait={kill_wait_s}
MinJobAge=3600
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=urgent Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str | None:
    """The reason why no cluster can be started here, if there is one."""
    if os.geteuid() != 0:
        return "a SLURM on loopback needs root"
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"not installed: {', '.join(missing)} (apt-get install slurmctld slurmd slurm-client munge util-linux)"
    if subprocess.run(["unshare", "--uts", "--mount", "true"], capture_output=True).returncode:
        return "this container does not allow namespaces (unshare --uts --mount), which the nodes need"
    return None


class SlurmCluster:
    """A cluster from `with` to the end of its block; a job still there at the end is cancelled."""

    def __init__(self, num_nodes: int = 2, gpus_per_node: int = 2, cpus_per_node: int = 8) -> None:
        self.nodes = [f"node{number}" for number in range(1, num_nodes + 1)]
        self.root = Path(tempfile.mkdtemp(prefix="slurm-"))
        self._gpus, self._cpus = gpus_per_node, cpus_per_node
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        self.environment = inherited | {"SLURM_CONF": str(self.root / "slurm.conf")}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.call("scancel", "--user=root")
            _until(lambda: not self.call("squeue", "--noheader"), 300, "the jobs would not end")
        finally:
            self._stop()

    def call(self, *command: str) -> str:
        """What a SLURM command prints; CalledProcessError, with its words, if it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, " ".join(command), done.stdout, done.stderr)
        return done.stdout.strip()

    def submit(
        self, script: Path, *arguments: str, options: tuple[str, ...] = (), settings: Mapping[str, str] | None = None
    ) -> str:
        """Hand in a job from the script's repository and return its id; `settings` are environment variables."""
        command = ["sbatch", "--parsable", f"--output={self.root}/%A_%a.log", *options, str(script), *arguments]
        if not any(option.startswith("--array") for option in options) and script.stem != "table1":
            command[2] = f"--output={self.root}/%j.log"
        done = subprocess.run(
            command,
            env=self.environment | dict(settings or {}),
            cwd=script.parent.parent,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def log(self, job: str) -> str:
        path = self.root / f"{job}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says, by its own names: JobState, Restarts, ExitCode and so on."""
        words = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job: str, states: set[str], timeout_s: float = 900, hurry: bool = True) -> dict[str, str]:
        """Until the job is in one of `states`; if in a `hurry`, a requeued job need not wait its two minutes.

        After a node has failed it must: a slurmd that was cut off kills what comes too early with the same job id.
        """

        pending_since: float | None = None

        def arrived() -> bool:
            nonlocal pending_since
            state = self.facts(job)["JobState"]
            if state != "PENDING":
                pending_since = None
            elif pending_since is None:
                pending_since = time.monotonic()
            # Started within a second of its requeue, the same job id would still count as cancelled on its nodes.
            elif hurry and state not in states and time.monotonic() - pending_since > 3:
                # Refused while the life before is still being cleared away; asked again at the next look.
                command = ["scontrol", "update", f"jobid={job}", "StartTime=now"]
                subprocess.run(command, env=self.environment, capture_output=True, timeout=300)
            return state in states

        try:
            _until(arrived, timeout_s, "timed out")
        except TimeoutError:
            facts = {name: self.facts(job)[name] for name in ("JobState", "Reason", "Restarts")}
            raise TimeoutError(f"job {job} is {facts}, not {states}:\n{self.log(job)[-6000:]}") from None
        return self.facts(job)

    @contextmanager
    def seen_as(self, node: str, path: Path, other: Path) -> Iterator[None]:
        """In the block, `path` has the content of `other` on that node alone."""
        enter = ["nsenter", f"--target={self._daemons[node].pid}", "--mount"]
        subprocess.run([*enter, "mount", "--bind", str(other), str(path)], check=True)
        try:
            yield
        finally:
            subprocess.run([*enter, "umount", "--lazy", str(path)], check=True)

    def _start(self) -> None:
        host, ports = socket.gethostname(), _free_ports(1 + len(self.nodes))
        for name in ("munge", "state", "gpu", *(f"spool.{node}" for node in self.nodes)):
            (self.root / name).mkdir()
        lines = [
            f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} CPUs={self._cpus} RealMemory=2000 "
            f"Gres=gpu:{self._gpus}"
            for node, port in zip(self.nodes, ports[1:], strict=True)
        ]
        conf = _CONF.format(host=host, ports=ports, root=self.root, nodes="\n".join(lines), kill_wait_s=5)
        (self.root / "slurm.conf").write_text(conf)
        # A GPU must be a character device; a link to one will do, and then jobs get CUDA_VISIBLE_DEVICES.
        gres = []
        for number in range(self._gpus):
            (self.root / f"gpu/gpu{number}").symlink_to("/dev/null")
            gres.append(f"NodeName={','.join(self.nodes)} Name=gpu File={self.root}/gpu/gpu{number}\n")
        (self.root / "gres.conf").write_text("".join(gres))
        names = "".join(f"127.0.0.1 {name}\n" for name in ("localhost", host, *self.nodes))
        (self.root / "hosts").write_text(names)
        key = self.root / "munge/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        (self.root / "munge").chmod(0o755)
        self.root.chmod(0o755)
        munge = [f"--{name}-file={self.root}/munge/{name}" for name in ("key", "pid", "log", "seed")]
        self._daemon("munged", "munged", "--foreground", "--force", f"--socket={self.root}/munge/socket", *munge)
        _until((self.root / "munge/socket").exists, 300, "munged did not start")
        self._daemon("slurmctld", "slurmctld", "-D", "-f", self.environment["SLURM_CONF"])
        for node in self.nodes:
            script = 'hostname "$0" && mount --bind "$1/hosts" /etc/hosts && exec slurmd -D -f "$1/slurm.conf" -N "$0"'
            self._daemon(node, "unshare", "--uts", "--mount", "sh", "-c", script, node, str(self.root))
        _until(self._is_up, 300, "the nodes did not come up")

    def _is_up(self) -> bool:
        try:
            return self.call("sinfo", "--noheader", "--format=%T", "--partition=main").split() == ["idle"]
        except subprocess.CalledProcessError:
            return False

    def _daemon(self, name: str, *command: str) -> None:
        """Start one that ends with this process, even if that is killed."""
        with (self.root / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _stop(self) -> None:
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in reversed(self._daemons.values()):
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.root, ignore_errors=True)


def _until(done: Callable[[], bool], timeout_s: float, trouble: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(trouble)
        time.sleep(0.2)


def _free_ports(num: int) -> list[int]:
    sockets = [socket.socket() for _ in range(num)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
