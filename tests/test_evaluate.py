"""`inpaint evaluate`: its figures against formulas of their own, on one process and two, and what it refuses."""

from __future__ import annotations

import json
import math
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from running import ROOT, refused, start

from inpaint.cli import main
from inpaint.data.decoded import SyntheticSpec, open_images
from inpaint.data.synthetic.landscapes import render
from inpaint.evaluation.subject import subject_of
from inpaint.holes.spec import HoleSpec
from inpaint.models import feature_network
from inpaint.models.generator import Generator, GeneratorConfig

SIZE, NUM = 32, 40
CLASSES = ("coast", "forest")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits of landscapes in two classes; NUM in the test split."""
    folder = tmp_path_factory.mktemp("photos")
    pixels = render(3, np.arange(NUM + 4), SIZE)
    for index, image in enumerate(pixels):
        split = "test" if index < NUM else ("train", "validation")[index % 2]
        path = folder / split / CLASSES[index % 2] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    Generator(GeneratorConfig(width=4, norm="none", image_size=SIZE)).save_pretrained(folder)
    return folder


def evaluate(out: Path, *arguments: str | Path) -> dict[str, Any]:
    assert main(["evaluate", "--out", str(out), "--device", "cpu", *map(str, arguments)]) == 0
    return json.loads((out / "evaluation.json").read_text())


def test_figures_are_those_of_formulas_written_down_anew(
    photos: Path, model: Path, tmp_path: Path, features_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One mask and one fill an image, in folders: what is read of them is known here."""
    files = sorted((photos / "test").rglob("*.png"))
    random = np.random.default_rng(0)
    truth, fills, holes = [], [], []
    for path in files:
        image = Image.open(path)
        fill = image.filter(ImageFilter.GaussianBlur(2))
        hole = np.zeros((SIZE, SIZE), bool)
        x, y, width, height = random.integers(2, 14, 4)
        hole[y : y + height, x : x + width] = True
        for folder, pixels in (("fills", fill), ("masks", Image.fromarray(hole))):
            to = tmp_path / folder / path.relative_to(photos)
            to.parent.mkdir(parents=True, exist_ok=True)
            pixels.save(to.with_suffix(".png" if folder == "masks" else ".bmp"))
        truth.append(np.asarray(image) / 255)
        fills.append(np.where(hole[..., None], np.asarray(fill), np.asarray(image)) / 255)
        holes.append(hole)
    data = ["--data", photos, "--holes", tmp_path / "masks", "--features", features_file]
    result = evaluate(tmp_path / "out", "--fills", tmp_path / "fills", "--model", model, "--baselines", *data)
    assert list(result["methods"]) == [str(model), str(tmp_path / "fills"), "mean fill", "Telea", "Navier-Stokes"]
    its = result["methods"][str(tmp_path / "fills")]

    def psnr(chosen: list[int]) -> float:
        errors = [((truth[i] - fills[i])[holes[i]] ** 2).mean() for i in chosen]
        return float(np.mean([-10 * math.log10(error) for error in errors]))

    def energy(images: list[NDArray[np.float64]]) -> float:
        total = 0.0
        for image, hole in zip(images, holes, strict=True):
            for axis in (0, 1):
                both = np.take(hole, range(1, SIZE), axis) & np.take(hole, range(SIZE - 1), axis)
                total += (np.diff(image, axis=axis) ** 2)[both].sum()
        return total

    everyone = list(range(NUM))
    assert its["figures"]["hole_psnr"] == pytest.approx(psnr(everyone), rel=1e-5)
    assert its["figures"]["sharpness"] == pytest.approx(energy(fills) / energy(truth), rel=1e-5)
    of_coast = [index for index, path in enumerate(files) if path.parent.name == "coast"]
    coast = its["groups"]["class coast"]
    assert coast["num_images"] == len(of_coast) == NUM // 2
    assert coast["figures"]["hole_psnr"] == pytest.approx(psnr(of_coast), rel=1e-5)
    shares = np.array([hole.mean() for hole in holes])
    for low, high in ((0.0, 0.05), (0.05, 0.1), (0.1, 0.15)):
        chosen = np.flatnonzero((shares > low) & (shares <= high)).tolist()
        group = its["groups"][f"hole {low:.0%} to {high:.0%}"]
        assert group["num_images"] == len(chosen)
        assert group["figures"]["hole_psnr"] == pytest.approx(psnr(chosen), rel=1e-5)
    # The raw output is the blurred image everywhere, whose known pixels are blurred too.
    assert its["figures"]["output_psnr"] < its["figures"]["psnr"]
    telea = result["methods"]["Telea"]["figures"]
    assert telea["output_psnr"] == pytest.approx(telea["psnr"])
    low, high = its["intervals"]["hole_psnr"]
    assert low < its["figures"]["hole_psnr"] < high
    pair = next(pair for pair in result["differences"] if pair["methods"] == [str(tmp_path / "fills"), "Telea"])
    assert pair["figures"]["hole_psnr"] == pytest.approx(psnr(everyone) - telea["hole_psnr"], rel=1e-5)
    out = capsys.readouterr().out
    assert f"| {tmp_path / 'fills'} " in out and f"{psnr(everyone):.2f}" in out
    assert "P-IDS, U-IDS: not available" in out
    for text in (out, (tmp_path / "out" / "evaluation.md").read_text()):
        assert "bootstrap resamples of the images; without: distance, which only a whole set has:" in text
    for name in ("comparison.png", "evaluation.md"):
        assert (tmp_path / "out" / name).is_file()
    assert len(list((tmp_path / "out").glob("grid-*.png"))) == 2


def test_twice_and_on_two_processes_every_figure_is_the_same(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", model, "--baselines", "--data", photos, "--holes", "rectangle:7", "--limit", NUM - 3]
    once = evaluate(tmp_path / "once", *arguments)
    assert evaluate(tmp_path / "twice", *arguments) == once
    out = capsys.readouterr().out.partition("\nwritten")[0]
    flags = ["evaluate", "--device", "cpu", "--out", tmp_path / "two", *arguments]
    with start(*flags, processes=2, script=ROOT / "inpaint" / "__main__.py") as job:
        ended = job.wait().ok()
    assert json.loads((tmp_path / "two" / "evaluation.json").read_text()) == once
    assert ended.stdout.partition("\nwritten")[0] == out
    assert once["data"]["num_images"] == NUM - 3
    assert ended.stderr.count("Telea: 100%") <= 2  # the bar of one process, drawn anew at its end


def test_an_image_keeps_its_seeded_hole_whatever_is_beside_it(photos: Path, cache: Path) -> None:
    spec = HoleSpec.scaled(SIZE)
    split = open_images(
        str(photos),
        spec,
        cache_dir=None,
        max_bad_fraction=0,
        synthetic=SyntheticSpec(1, 1, 1, 0),
        show_progress=False,
    )["test"]
    labels = {source: source.split("/")[-2] for source in map(str, split.sources)}
    everyone = subject_of(split, labels, "rectangle:7", spec, None)
    some = np.arange(5, 15)
    part = type(split)(split.pixels[some], split.holes[some], split.windows[some], [split.sources[i] for i in some])
    assert np.array_equal(subject_of(part, labels, "rectangle:7", spec, None).packed, everyone.packed[some])
    another = subject_of(split, labels, "rectangle:8", spec, None)
    assert (another.packed != everyone.packed).any(axis=1).mean() > 0.9
    assert another.digests()["holes"] != everyone.digests()["holes"]
    sides = everyone.masks(np.arange(NUM)).sum(2).amax((1, 2))
    assert spec.min_px <= sides.min() and sides.max() <= spec.max_px


# --- bad input


refusal = partial(refused, ["evaluate", "--device", "cpu"])


def test_what_makes_no_sense_is_refused_in_a_line(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "give --model, --fills or --baselines" in refusal(capsys, 2)
    of_model = ["--model", model, "--data", photos]
    assert "--image-size: 64 px" in refusal(capsys, 2, *of_model, "--image-size", "64")
    other = tmp_path / "other"
    Generator(GeneratorConfig(width=2, image_size=64)).save_pretrained(other)
    assert "of different sizes" in refusal(capsys, 2, *of_model, "--model", other)
    assert "there is no rectangel; did you mean rectangle?" in refusal(capsys, 2, *of_model, "--holes", "rectangel:3")
    assert "is no folder; give `stored`" in refusal(capsys, 2, *of_model, "--holes", "nowhere")
    assert "--limit is 0" in refusal(capsys, 2, *of_model, "--limit", "0")
    assert "given twice" in refusal(capsys, 2, *of_model, "--model", model)
    assert "no file" in refusal(capsys, 2, *of_model, "--features", tmp_path / "none.pth")
    (tmp_path / "other.pth").write_bytes(b"another network")
    assert "is another network" in refusal(capsys, 1, *of_model, "--features", tmp_path / "other.pth")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(capsys, 1, *of_model, "--out", tmp_path / "file" / "out")


def test_an_empty_split_says_which(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(2):
        Image.fromarray(np.full((SIZE, SIZE, 3), 90 * index, np.uint8)).save(tmp_path / f"{index}.png")
    line = refusal(capsys, 1, "--model", model, "--data", tmp_path, "--out", tmp_path / "out")
    assert "split of" in line and "is empty" in line


def test_fills_and_masks_that_do_not_fit_are_told_together(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fills = tmp_path / "fills"
    fills.mkdir()
    arguments = ["--fills", fills, "--data", photos, "--image-size", SIZE, "--out", tmp_path / "out"]
    line = refusal(capsys, 1, *arguments)
    assert f"{NUM} of {NUM} images have no fill there" in line and "and 37 more" in line
    files = sorted((photos / "test").rglob("*.png"))
    for path in files:
        size = SIZE if path.stem not in ("003", "007") else 16
        Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(fills / path.name)
    line = refusal(capsys, 1, *arguments)
    assert "2 of 40 files cannot be used" in line and "003.png" in line and "16x16" in line and "32x32" in line
    Image.fromarray(np.zeros((SIZE, SIZE, 3), np.uint8)).save(fills / "003.bmp")
    line = refusal(capsys, 1, *arguments)
    assert "1 of 40 images have more than one fill" in line and "003.bmp" in line
    masks = [*arguments, "--baselines", "--holes", fills]
    assert "more than one mask" in refusal(capsys, 1, *masks)


def test_a_run_is_evaluated_into_itself_as_its_own_report_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from running import tiny_config

    from inpaint.training.launch import main as train

    monkeypatch.setattr("inpaint.commands.judged.NUM_SYNTHETIC", 32)
    run = tmp_path / "run"
    config = tiny_config(tmp_path, training={"epochs": 1, "max_steps": 5})
    assert train(["--config", str(config), "--run-dir", str(run)]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--model", str(run), "--baselines", "--device", "cpu"]) == 0
    report = json.loads((run / "evaluation.json").read_text())
    ours = json.loads((run / "evaluation" / "evaluation.json").read_text())
    for name, method in (("Telea", "Telea"), ("generator", str(run))):
        for metric, value in report["rows"][name].items():
            assert ours["methods"][method]["figures"][metric] == pytest.approx(value, rel=1e-4), (name, metric)
    out = capsys.readouterr().out
    if find_spec(feature_network.PACKAGE) is None:
        assert "distance, P-IDS, U-IDS: not available without a feature network; pip install" in out
        assert "bootstrap resamples of the images:" in out
