"""What is on the Hub after a push: a card that says what the files say, and weights and checkpoints to go on with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hub_server import LoopbackHub
from huggingface_hub import ModelCard
from publishing import FIGURES, REPO, drain, submit

from inpaint.errors import InpaintError
from inpaint.hub.push import fetch_run
from inpaint.hub.queue import PushQueue


@pytest.mark.usefixtures("quick")
def test_a_pushed_checkpoint_can_be_fetched_to_resume_elsewhere(
    hub: LoopbackHub, run_dir: Path, tmp_path: Path
) -> None:
    drain(submit(run_dir, "epoch-0001", b"x", checkpoint=run_dir / "checkpoints" / "step_00000003"))
    hub.fault("/resolve/", method="GET", status=503)  # the client itself gives up at once here
    there = fetch_run(REPO, tmp_path / "elsewhere", revision="epoch-0001")
    names = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert names == {
        "checkpoints/step_00000003/manifest.json",
        "config.yaml",
        "metrics.jsonl",
        "samples/epoch_0001.png",
    }
    with pytest.raises(InpaintError, match="exists already"):
        fetch_run(REPO, there)
    with pytest.raises(InpaintError, match="404"):
        fetch_run(REPO, tmp_path / "other", revision="epoch-9999")
    with pytest.raises(InpaintError, match="404"):
        fetch_run("alice/nothing", tmp_path / "other")


@pytest.mark.usefixtures("quick")
def test_the_card_says_what_the_files_say(hub: LoopbackHub, run_dir: Path) -> None:
    drain(submit(run_dir, "final", b"x"))
    text = hub.head(REPO).files["README.md"].content.decode()
    card = ModelCard(text)
    card.validate()
    assert (card.data.license, card.data.pipeline_tag, card.data.library_name) == (
        "apache-2.0",
        "image-to-image",
        "inpaint",
    )
    measured = {(r.metric_name, r.dataset_split): r.metric_value for r in card.data.eval_results}
    assert measured["PSNR (dB) in the hole", "test"] == FIGURES["hole_psnr"]
    assert len(measured) == 5, "a figure nobody could measure is left out"
    assert "| generator | 21.34 |" in text or "| generator | 21.35 |" in text
    assert "| Telea | 18.00 |" in text
    for part in ("2 CPU cores", "Hours: 0.03", "Pictures seen: 96", "epoch 1 (step 3)", "training: {epochs: 2}"):
        assert part in text
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert picture in hub.head(REPO).files
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    assert len(code.split("\n\n")) == 2
    assert len(code.replace("\n\n", "\n").splitlines()) == 4
    assert f'from_pretrained("{REPO}")' in code


@pytest.mark.usefixtures("quick")
def test_pushed_weights_come_back_bit_equal_and_the_pasted_code_runs(
    hub: LoopbackHub, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from PIL import Image

    from inpaint import Generator
    from inpaint.models.generator import GeneratorConfig

    generator = Generator(GeneratorConfig(width=2)).eval()
    generator.save_pretrained(run_dir / "generator")
    queue = PushQueue(run_dir)
    queue.add("final", REPO, False, run_dir / "generator")
    drain(queue)
    there = Generator.from_pretrained(REPO, revision="final").state_dict()
    assert all(torch.equal(tensor, there[name]) for name, tensor in generator.state_dict().items())

    monkeypatch.chdir(run_dir)
    Image.new("RGB", (20, 12), "green").save("photo.jpg")
    mask = Image.new("L", (20, 12))
    mask.paste(255, (4, 4, 9, 9))
    mask.save("mask.png")
    card = hub.head(REPO).files["README.md"].content.decode()
    exec(re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0], {})
    assert Image.open("filled.png").size == (20, 12)


@pytest.mark.usefixtures("quick")
def test_a_card_without_figures_claims_none(hub: LoopbackHub, run_dir: Path) -> None:
    for name in ("evaluation.json", "metrics.jsonl", "environment.json", "samples/epoch_0001.png"):
        (run_dir / name).unlink()
    drain(submit(run_dir, "epoch-0001", b"x"))
    text = hub.head(REPO).files["README.md"].content.decode()
    assert "Not measured yet" in text
    assert ModelCard(text).data.eval_results is None
    assert "![" not in text
