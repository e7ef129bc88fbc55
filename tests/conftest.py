"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inpaint.processes import num_cores, wait_briefly

if (num_workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:  # each has its share of the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // num_workers)))
wait_briefly()  # before torch is imported, as train.py does: tests run beside other programs too

from hub_server import LoopbackHub  # noqa: E402
from slurm_site import Site, make_site, train_undisturbed  # noqa: E402

from inpaint.distributed.signals import STOPPING  # noqa: E402

# What takes longest, in that order: side by side, a long file that began last would be waited for alone.
LONGEST = [
    "slurm",
    "slurm_faults",
    "grid",
    "study",
    "launchers",
    "benchmarks",
    "kills",
    "export",
    "distributed",
    "resume",
    "contributing",
]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One for each core that this process may use, where xdist would count those of the machine."""
    return num_cores()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if num_workers > 1:
        places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache of decoded images for all tests and the processes they start, and nobody's own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("INPAINT_CACHE", str(folder))
        yield folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub on loopback that every client of this test talks to, in this process and in those it starts.

    Other processes read the environment. This one has read it when huggingface_hub was imported, so its constants
    are changed as well; and the import comes first, or they would stay changed after the test.
    """
    import huggingface_hub.hf_api

    with LoopbackHub() as server:
        home = tmp_path / "hf_home"
        for name, value in server.environment(home).items():
            monkeypatch.setenv(name, value)
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(home / "assets"))
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.endpoint)
        yield server


@pytest.fixture
def datasets_hub(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """The loopback Hub, for `datasets` too, which has its own copy of the settings."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))
    return hub


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """What a signal does is after each test as before: else one that should end the tests is only noted down."""
    before = [signal.getsignal(number) for number in STOPPING]
    yield
    assert [signal.getsignal(number) for number in STOPPING] == before


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Places365 tree with one of every trouble in it."""
    from preparing import make_tree

    return make_tree(tmp_path_factory.mktemp("source") / "places365_standard")


@pytest.fixture(scope="session")
def dataset(places: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `inpaint prepare` makes of it."""
    from preparing import COUNTS, options

    from inpaint.prepare.run import prepare

    out = tmp_path_factory.mktemp("dataset") / "out"
    plan = prepare(options(places, out))
    assert plan is not None and +plan.counts() == COUNTS
    return out


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run's, with a checkpoint every third step, in the middle of epochs and of phases."""
    from running import tiny_config

    return tiny_config(tmp_path_factory.mktemp("config"), checkpointing={"every_steps": 3, "keep": 3})


@pytest.fixture(scope="session")
def straight(config: Path) -> Path:
    """A run of it in one process that nothing disturbed."""
    from stopping import finish

    finish(config, config.parent / "straight")
    return config.parent / "straight"


@pytest.fixture
def config_file(tmp_path: Path) -> Callable[[str], str]:
    """Writes a config file of a text, and names it."""

    def write(text: str) -> str:
        (tmp_path / "mine.yaml").write_text(text)
        return str(tmp_path / "mine.yaml")

    return write


@pytest.fixture
def features_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A feature network of the right shapes and random weights, in the place of the one whose hash is known."""
    from features_file import make_features_file

    return make_features_file(tmp_path / "standin.pth", monkeypatch)


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run to be published, by publishers that soon try again."""
    from publishing import make_run

    monkeypatch.setattr("inpaint.hub.publisher.FIRST_WAIT_S", 0.05)
    return make_run(tmp_path / "run")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own pauses between its tries take no time, and large files go by LFS, in this process."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A SLURM of two nodes, where one can be."""
    with make_site(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture(scope="session")
def undisturbed(site: Site) -> dict[str, bytes]:
    """The final weights of the tiny training in two processes without SLURM."""
    return train_undisturbed(site)
