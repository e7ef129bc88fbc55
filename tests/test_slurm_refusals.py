"""What the preflight and the SLURM scripts refuse, in words, before anything is begun."""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from slurm_site import REPOSITORY, Site, assert_refused, on_slurm, write_image


def test_faults_name_their_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "slurm")
    from preflight import Node, faults

    def node(name: str, number: int, num_driver_gpus: int | None = None, **other: Any) -> Node:
        alike = {"code": "1", "software": "s", "data": "d", "num_cpus": 4, "lack": ""}
        return Node(name, number, 2, num_driver_gpus, **{**alike, **other})

    nodes = [
        node("a", 0, data="missing", trouble=("no images",)),
        node("b", 1, 1),
        node("c", 2, 2, code="2", lack="not there"),
    ]
    found = faults(nodes, ["a", "b", "c", "d"], processes_per_node=2, use_cpu=False, port=0)
    starts = ("d did not answer", "a: no images", "b was given 2 GPU(s), but", "c does not see", "c has other code")
    assert len(found) == len(starts) and all(map(str.startswith, found, starts)), found
    assert faults([node("a", 0), node("b", 1)], ["a", "b"], processes_per_node=2, use_cpu=False, port=0) == []


@pytest.mark.parametrize(
    ("address", "interface", "words"),
    [
        ("127.0.1.1", "", "means 127.0.1.1 here (/etc/hosts), at which no other node reaches it"),
        ("10.0.0.7", "", ""),
        ("127.0.1.1", "ib0", ""),
    ],
)
def test_a_name_that_means_the_node_itself_is_found(
    address: str, interface: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """NCCL does not mind; gloo, which training needs too, tells the others that address."""
    monkeypatch.syspath_prepend(REPOSITORY / "slurm")
    import preflight

    monkeypatch.setattr(preflight.socket, "gethostbyname", lambda host: address)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", interface)
    (tmp_path / ".preflight-token").touch()
    (trouble,) = preflight.look(tmp_path, "token", []).trouble or ("",)
    assert (words in trouble) if words else not trouble


def test_processes_that_share_a_core_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "slurm")
    import preflight

    node = preflight.Node("a", 0, 0, None, code="1", software="s", data="d", num_cpus=1, lack="")
    options = argparse.Namespace(
        nodes=["a"],
        processes_per_node=8,
        accelerate_config=REPOSITORY / "accelerate_configs/cpu.yaml",
        port=0,
        train_arguments=[],
    )
    assert preflight.compare(options, [json.dumps(asdict(node))]) == 0
    assert "a gives 1 core(s) for 8 processes" in capsys.readouterr().err


def test_a_rank_that_is_no_number_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "slurm")
    import preflight

    monkeypatch.setenv("RANK", "one")
    assert preflight.all_reduce() == 1
    assert capsys.readouterr().err.startswith("preflight: RANK='one' in the environment is not a whole number; unset")


def test_the_look_at_the_nodes_goes_without_torch() -> None:
    """It takes a second or more of each start."""
    program = "import sys; sys.path.insert(0, 'slurm'); import preflight; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0


REFUSED: dict[str, tuple[dict[str, str], tuple[str, ...], str]] = {
    "no run directory": ({}, ("--config", "quickstart"), "no run directory: give --run-dir DIR or set RUN_DIR"),
    "no Python": ({"PYTHON": "/nowhere/python"}, ("--run-dir", "bad"), "PYTHON=/nowhere/python does not run on node1"),
    "no repository": ({"REPOSITORY": "/tmp"}, ("--run-dir", "bad"), "/tmp holds no train.py"),
    "bad setting": ({}, ("--run-dir", "bad", "--training.epoks", "3"), "did you mean training.epochs?"),
    "a limit shorter than its warning": ({"SBATCH_TIMELIMIT": "5"}, ("--run-dir", "bad"), "the time limit is 300 s"),
    "a second life that overwrites": ({}, ("--run-dir", "bad", "--no-resume"), "would throw its first away"),
}


@on_slurm
@pytest.mark.parametrize("case", REFUSED)
def test_bad_settings_are_named_and_not_tried_again(site: Site, case: str) -> None:
    settings, arguments, message = REFUSED[case]
    script = site.repository / "slurm/train.sbatch"
    job = site.cluster.submit(script, *arguments, options=("--nodes=2",), settings=site.settings | settings)
    assert_refused(site, job, message)


@on_slurm
def test_an_allocation_that_does_not_fit_is_refused(site: Site) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        settings = {"ACCELERATE_CONFIG": "accelerate_configs/multi_node.yaml", "PROCESSES_PER_NODE": "3"}
        job = site.train("bad", options=("--gpus-per-node=2",), MASTER_PORT=port, **settings)
        assert_refused(
            site,
            job,
            "node1 has 2 GPU(s) for 3 process(es): ask for sbatch --gpus-per-node=3",
            "node2 has 2 GPU(s) for 3 process(es)",
            f"port {port} on node1 cannot be had (Address already in use)",
            "global_batch_size = 16 cannot be divided among 6 processes",
        )


@on_slurm
def test_a_node_that_sees_something_else_is_named(site: Site) -> None:
    root, presets, runs = site.runs.parent, site.repository / "inpaint/presets", site.runs / "nested"
    photos, empty, other_presets = root / "photos", root / "empty", root / "presets"
    for folder in (photos, empty, runs):
        folder.mkdir()
    write_image(photos / "one.png")
    shutil.copytree(presets, other_presets)
    (other_presets / "quickstart.yaml").write_text("training: {epochs: 3}\n")
    with ExitStack() as mounts:
        for path, other in {runs: empty, photos: empty, presets: other_presets}.items():
            mounts.enter_context(site.cluster.seen_as("node2", path, other))
        job = site.train("nested/bad", "--data.path", str(photos))
        assert_refused(
            site,
            job,
            "node2 does not see this run directory (No such file or directory",
            f"node2: no images found in {photos}",
            "node2 has other code than node1",
        )
    assert "preflight: node1" not in site.cluster.log(job)
