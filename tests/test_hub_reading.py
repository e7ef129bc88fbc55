"""What is on the Hub after a push: a card that says what the files say, and weights and checkpoints to go on with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hub_server import LoopbackHub
from huggingface_hub import ModelCard, snapshot_download
from publishing import FIGURES, REPO, drain, submit

from inpaint.errors import InpaintError
from inpaint.hub.push import retried
from inpaint.hub.queue import PushQueue


@pytest.mark.usefixtures("quick")
def test_a_pushed_checkpoint_can_be_fetched_to_resume_elsewhere(hub: LoopbackHub, run_dir: Path) -> None:
    drain(submit(run_dir, "epoch-0001", b"x", checkpoint=run_dir / "checkpoints" / "step_00000003"))
    hub.fault("/resolve/", method="GET", status=503)  # the client itself gives up at once here
    there = retried(lambda: Path(snapshot_download(REPO, revision="epoch-0001")), "it could not be fetched")
    assert {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()} >= {
        "checkpoints/step_00000003/manifest.json",
        "config.yaml",
        "metrics.jsonl",
        "samples/epoch_0001.png",
    }
    with pytest.raises(InpaintError, match=r"it could not be fetched: .*404"):
        retried(lambda: snapshot_download(REPO, revision="epoch-9999"), "it could not be fetched")


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
    assert measured["hole PSNR (dB)", "test"] == FIGURES["hole_psnr"]
    assert len(measured) == 5, "a figure nobody could measure is left out"
    assert "| generator | 21.34 |" in text or "| generator | 21.35 |" in text
    assert "| Telea | 18.00 |" in text
    for part in ("2 CPU cores", "Hours: 0.03", "Images seen: 96", "epoch 1 (step 3)", "training: {epochs: 2}"):
        assert part in text
    for image in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert image in hub.head(REPO).files
    assert "inpaint" in card.data.tags
    assert "pip install" in text and "@techreport{kovacs2020landscape," in text
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
    queue.add("final", REPO, False)
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
    assert "Not measured: no final evaluation" in text
    assert ModelCard(text).data.eval_results is None
    assert "![" not in text


def test_damaged_files_of_a_run_cost_their_part_of_the_card_and_nothing_else(run_dir: Path) -> None:
    from inpaint.hub.card import write_card

    lines = (run_dir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_bytes(
        b"".join([lines[0], b"\xff\xfe}\n", b"{}\n", b"null\n", lines[2], b'{"step": 4'])
    )
    (run_dir / "evaluation.json").write_bytes(b'{"rows": {"gener')
    (run_dir / "environment.json").write_bytes(b"")
    (run_dir / "config.yaml").write_bytes(b"data: {path\xff: [")
    write_card(run_dir, REPO)
    text = (run_dir / "README.md").read_text()
    assert "epoch 1 (step 3)" in text and "Images seen: 96" in text
    assert "Not measured: no final evaluation" in text


@pytest.mark.parametrize(
    ("path", "shown", "datasets"),
    [
        ("/home/alice/secret/photos/", "photos", None),
        ("../secret/photos", "photos", None),
        ("secret/photos.zip", "photos.zip", None),
        ("alice/photos:large@v1", "alice/photos:large@v1", ["alice/photos"]),
    ],
)
def test_no_folder_of_this_machine_is_published(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, path: str, shown: str, datasets: list[str] | None
) -> None:
    from inpaint.hub.card import write_card, write_generator_card

    monkeypatch.chdir(run_dir)
    (run_dir / "secret").mkdir()
    settings = {"data": {"path": path, "cache_dir": "secret/cache", "image_size": 64}, "training": {"epochs": 2}}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(settings))
    write_generator_card(run_dir, run_dir / "generator")
    assert yaml.safe_load((run_dir / "config.yaml").read_text()) == settings
    write_card(run_dir, REPO)
    published = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert published == {**settings, "data": {"path": shown, "cache_dir": "cache", "image_size": 64}}
    for text in [(folder / "README.md").read_text() for folder in (run_dir, run_dir / "generator")]:
        assert f"{shown}\n- Images seen" in text
        assert yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0]) == published
        assert "secret" not in text and "home" not in text
        assert ModelCard(text).data.datasets == datasets


def test_the_card_beside_a_generator_says_the_same_and_points_to_no_image(run_dir: Path) -> None:
    from inpaint import Generator
    from inpaint.hub.card import write_generator_card
    from inpaint.models.generator import GeneratorConfig

    write_generator_card(run_dir, run_dir / "generator")
    Generator(GeneratorConfig(width=2)).save_pretrained(run_dir / "generator")
    text = (run_dir / "generator" / "README.md").read_text()
    assert text.startswith("---\n") and "\n# run\n" in text
    assert "| Telea | 18.00 |" in text and "epoch 1 (step 3)" in text
    assert "![" not in text
    measured = {r.metric_name: r.metric_value for r in ModelCard(text).data.eval_results}
    assert measured["hole PSNR (dB)"] == FIGURES["hole_psnr"]


def test_a_generator_saved_by_itself_has_a_card_that_claims_nothing_of_a_run(tmp_path: Path) -> None:
    from inpaint import Generator
    from inpaint.models.generator import GeneratorConfig

    Generator(GeneratorConfig(width=2)).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    data = ModelCard(text).data
    assert "inpaint" in data.tags and data.license == "apache-2.0"
    assert "@techreport{kovacs2020landscape," in text and "pip install" in text
    for stub in ("PyTorchModelHubMixin", "More Information Needed", "## Training", "None", "step"):
        assert stub not in text


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.usefixtures("quick")
def test_a_server_that_closes_the_connection_is_told_in_one_line(hub: LoopbackHub, run_dir: Path, method: str) -> None:
    from inpaint import Generator

    drain(submit(run_dir, "final", b"x"))
    cut = hub.fault("/resolve/", method=method, cut="response", times=99)
    with pytest.raises(InpaintError, match=f"^{REPO} ") as caught:
        Generator.from_pretrained(REPO)
    assert cut.num_hit > 0
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a" * 300, "a/" + "b" * 300, "a" * 5000 + "/b", "a/b\0c", "a/../b"])
def test_a_name_that_cannot_be_is_told_in_one_short_line(name: str) -> None:
    from inpaint import Generator

    with pytest.raises(InpaintError) as caught:
        Generator.from_pretrained(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_run_that_is_not_there_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's client would try for half a minute where there is no network."""
    from inpaint import Generator

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/nothing", "runs/nothing/", str(tmp_path / "runs" / "nothing")):
        with pytest.raises(InpaintError, match=r"does not exist, though the folder .*runs does"):
            Generator.from_pretrained(name)
