"""What the publisher and `inpaint push` say, refuse and keep to themselves. The Hub is the loopback one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import LoopbackHub
from publishing import REPO

from inpaint import cli
from inpaint.errors import UsageError
from inpaint.hub.errors import describe, redact
from inpaint.hub.publisher import HubPublisher


def test_names_that_cannot_be_are_refused_before_training(run_dir: Path) -> None:
    for name in ("landscapes", "alice/landscapes/2", "alice/land scapes"):
        with pytest.raises(UsageError, match=name):
            HubPublisher(name, False, run_dir)


def test_no_secret_is_left_in_any_file_or_word(
    hub: LoopbackHub, run_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.fault("/commit/", status=500, headers={"X-Error-Message": f"bad token {hub.token}"})
    publishing = HubPublisher(REPO, False, run_dir)
    publishing.submit("epoch-0001")
    print(publishing.close(300))
    printed = "".join(capfd.readouterr())
    assert "the Hub answered 500: bad token [secret]" in printed
    written = [path.read_bytes() for path in run_dir.rglob("*") if path.is_file()]
    stored = [file.content for commit in hub.head(REPO).history() for file in commit.files.values()]
    for text in [printed.encode(), *written, *stored]:
        assert hub.token.encode() not in text


def test_redaction_and_plain_words() -> None:
    assert redact("a hf_abcdefgh12 b") == "a [secret] b"
    assert redact("https://me:pw@host/x?signature=12ab&a=1") == "https://[secret]@host/x?signature=[secret]&a=1"
    assert redact("odd-token", "odd-token") == "[secret]"
    failure = describe(RuntimeError("two\nlines"))
    assert (failure.reason, failure.is_lasting) == ("RuntimeError: two lines", False)
    assert describe(ValueError("no")).is_lasting


def test_the_command_line(run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["push", str(run_dir)]) == 2
    assert "--repo-id" in capfd.readouterr().err
    assert cli.main(["push", str(tmp_path / "none"), "--repo-id", REPO]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("given", ["nan", "inf", "0", "-5", "1e9"])
def test_a_time_limit_that_is_none_is_refused(run_dir: Path, capfd: pytest.CaptureFixture[str], given: str) -> None:
    assert cli.main(["push", str(run_dir), "--repo-id", REPO, f"--timeout-s={given}"]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "--timeout-s is" in said and "604800" in said


def test_without_a_network_it_says_when_it_gives_up_and_gives_up_then(
    hub: LoopbackHub, run_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.fault("/api/", status=503, times=10_000)
    assert cli.main(["push", str(run_dir), "--repo-id", REPO, "--timeout-s", "1"]) == 1
    said = capfd.readouterr()
    assert f"pushing to {REPO}; giving up after 1 s (--timeout-s)\n" in said.err
    assert "NOT pushed yet: final" in said.out


def test_who_gives_up_in_the_middle_of_a_try_says_why_the_one_before_failed(hub: LoopbackHub, run_dir: Path) -> None:
    hub.fault("/api/", status=503)
    hang = hub.fault("/api/", hang=True, times=99)
    said: list[str] = []
    publishing = HubPublisher(REPO, False, run_dir, say=said.append)
    publishing.submit("final")
    deadline = time.monotonic() + 600
    while not hang.num_hit and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "NOT pushed yet: final (the Hub answered 503)" in publishing.close(0.05)
    assert len(said) == 1 and "503" in said[0]


def test_a_run_is_pushed_where_its_settings_say(
    hub: LoopbackHub, run_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "config.yaml").write_text(f"hub: {{repo_id: {REPO}, private: true}}\n")
    assert cli.main(["push", str(run_dir)]) == 0
    assert hub.repository(REPO).private
    capfd.readouterr()


def test_training_imports_nothing_heavy_to_publish() -> None:
    code = (
        "import sys, inpaint.hub.publisher; print([m for m in ('torch', 'matplotlib', 'jinja2') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert run.stdout.strip() == "[]"
