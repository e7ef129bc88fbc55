"""`inpaint evaluate`: its figures against formulas of their own, on one process and two, and what it refuses."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from running import ROOT, start

from inpaint.cli import main
from inpaint.data.decoded import SyntheticSpec, open_images
from inpaint.data.synthetic.landscapes import render
from inpaint.errors import InpaintError
from inpaint.evaluation import features
from inpaint.evaluation.measure import Measured, Measuring
from inpaint.evaluation.metrics import all_metrics
from inpaint.evaluation.subject import Subject, by_name, subject_of
from inpaint.evaluation.summary import RESAMPLES, SEED, summarise
from inpaint.holes.spec import HoleSpec
from inpaint.models.generator import Generator, GeneratorConfig

needs_features = pytest.mark.skipif(
    find_spec(features.PACKAGE) is None, reason="the feature network, the extra inpaint[features], is not installed"
)
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


@pytest.fixture
def features_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network of the right shapes and random weights, in the place of the one whose hash is known."""
    return stand_in(tmp_path / "standin.pth", monkeypatch)


def stand_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    random = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}

    def add(layer: str, norm: str, *shape: int) -> None:
        tensors[f"{layer}.weight"] = torch.randn(shape, generator=random) / math.sqrt(math.prod(shape[1:]))
        for name, value in (("weight", 1), ("bias", 0.5), ("running_mean", 0), ("running_var", 1)):
            tensors[f"{norm}.{name}"] = torch.full((shape[0],), float(value))

    add("_conv_stem", "_bn0", 32, 3, 3, 3)
    width, block = 32, 0
    for (num, kernel, _), out in zip(features.STAGES, (16, 24, 40, 80, 112), strict=True):
        for _ in range(num):
            name, inner = f"_blocks.{block}", width if block == 0 else 6 * width
            if block:
                add(f"{name}._expand_conv", f"{name}._bn0", inner, width, 1, 1)
            add(f"{name}._depthwise_conv", f"{name}._bn1", inner, 1, kernel, kernel)
            add(f"{name}._project_conv", f"{name}._bn2", out, inner, 1, 1)
            width, block = out, block + 1
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    monkeypatch.setattr(features, "SHA256", features.hashlib.sha256(path.read_bytes()).hexdigest())
    return path


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
        ended = job.wait(120).ok()
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


def test_bootstrap_intervals_are_those_of_a_loop_and_pairs_share_their_resamples() -> None:
    random = np.random.default_rng(5)
    metrics, num = {"sharpness": all_metrics()["sharpness"]}, 30
    rows = torch.from_numpy(random.random((num, 2)))
    worse = rows.clone()
    worse[:, 0] += 1
    nothing = torch.empty(num, 0)
    subject = Subject(np.zeros((num, 16, 16, 3), np.uint8), [""] * num, ["a"] * num, np.ones((num, 32), np.uint8))
    measured = {"one": Measured(rows, nothing), "two": Measured(worse, nothing)}
    summary = summarise(subject, metrics, measured, nothing, ["one", "two"])
    generator = np.random.default_rng(SEED)
    figures = []
    for _ in range(RESAMPLES):
        drawn = rows[torch.from_numpy(generator.integers(0, num, num))]
        figures.append((drawn[:, 0].sum() / drawn[:, 1].sum()).item())
    interval = summary.methods["one"]["intervals"]["sharpness"]
    assert interval == pytest.approx(np.percentile(figures, (2.5, 97.5)).tolist())
    (difference,) = summary.differences
    assert difference["figures"]["sharpness"] == pytest.approx(-num / rows[:, 1].sum().item())
    low, high = difference["intervals"]["sharpness"]
    assert low < difference["figures"]["sharpness"] < high
    assert summary.methods["one"]["groups"]["class a"]["intervals"]["sharpness"] == interval


# --- features


def test_the_window_lies_round_the_hole_and_inside_the_image() -> None:
    images = torch.arange(3 * 64).reshape(3, 1, 8, 8)
    hole = torch.zeros(3, 1, 8, 8)
    hole[0, 0, 2:5, 3:6] = 1
    hole[1, 0, 7, 0] = 1
    found = features.windows(images, hole)
    assert found[:, 0, 0, 0].tolist() == [images[0, 0, 1, 2], images[1, 0, 4, 0], images[2, 0, 2, 2]]
    assert found.shape == (3, 1, 4, 4)


def test_the_distance_is_the_one_between_two_normal_distributions() -> None:
    random = torch.Generator().manual_seed(1)
    first = torch.randn(400, 5, generator=random, dtype=torch.float64) @ torch.randn(5, 5, generator=random).double()
    second = torch.randn(300, 5, generator=random, dtype=torch.float64) + 2

    def root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        values, vectors = np.linalg.eigh(matrix)
        return vectors @ np.diag(np.sqrt(values.clip(min=0))) @ vectors.T

    one, two = (np.cov(rows.numpy().T) for rows in (first, second))
    mixed = root(root(one) @ two @ root(one))
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum().item() + np.trace(one + two - 2 * mixed)
    assert features.frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)
    assert features.frechet_distance(first, first) == pytest.approx(0, abs=1e-5)
    assert math.isnan(features.frechet_distance(first[:1], second))


def test_discriminative_scores() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn, of the extra inpaint[features], is not installed")
    random = torch.Generator().manual_seed(2)
    truth = torch.randn(2000, 3, generator=random)
    same = features.inception_discriminative_scores(truth, truth + 0.3 * torch.randn(2000, 3, generator=random))
    assert same is not None and same[0] > 0.3 and same[1] > 0.4
    far = features.inception_discriminative_scores(truth, truth + 100)
    assert far == (0, 0)
    assert features.inception_discriminative_scores(truth[:2], truth[:2]) is None


def test_the_network_folds_its_batch_norm_and_gives_a_vector_an_image(features_file: Path) -> None:
    network = features.load_feature_network(features_file)
    assert network is not None and not list(network.parameters())
    image = torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    found = network(image)
    assert found.shape == (3, features.NUM_FEATURES) and found.isfinite().all()
    assert torch.allclose(network(image[1:2])[0], found[1], atol=1e-4)
    assert (found[0] - found[1]).abs().max() > 1e-3
    weights = torch.load(features_file, weights_only=True)
    seen = torch.nn.functional.interpolate(image, (128, 128), mode="bilinear")
    stem = torch.nn.functional.conv2d(
        torch.nn.functional.pad((seen - 0.498) / 0.502, (0, 1, 0, 1)), weights["_conv_stem.weight"], stride=2
    )
    stem = stem / math.sqrt(1.001) + 0.5
    assert torch.allclose(network._convolve("_conv_stem", (seen - 0.498) / 0.502, 2), stem, atol=1e-4)


@needs_features
def test_its_file_is_read_as_torch_reads_it() -> None:
    spec = find_spec(features.PACKAGE)
    assert spec is not None and spec.origin is not None
    file = Path(spec.origin).parent / features.FILE
    expected = torch.load(file, weights_only=True)
    found = features.read_tensors(file.read_bytes())
    assert found.keys() == expected.keys() and len(found) == 296
    assert all(value.dtype == found[name].dtype and torch.equal(value, found[name]) for name, value in expected.items())


@needs_features
def test_blur_is_farther_than_a_little_noise_with_the_real_network() -> None:
    network = features.load_feature_network()
    assert network is not None
    image = torch.from_numpy(render(0, np.arange(48), SIZE)).permute(0, 3, 1, 2) / 255
    blurred = torch.nn.functional.avg_pool2d(image, 7, 1, 3, count_include_pad=False)
    slight = (image + 0.01 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    truth = network(image)
    assert features.frechet_distance(truth, network(blurred)) > 3 * features.frechet_distance(truth, network(slight))


# --- bad input


def refusal(capsys: pytest.CaptureFixture[str], code: int, *arguments: str | Path) -> str:
    assert main(["evaluate", "--device", "cpu", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith("inpaint evaluate: error: ") and "Traceback" not in captured.err
    assert not captured.out
    return line


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

    monkeypatch.setattr("inpaint.commands.evaluate.NUM_SYNTHETIC", 32)
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
    if find_spec(features.PACKAGE) is None:
        assert "distance, P-IDS, U-IDS: not available without a feature network; pip install" in out


class Share:
    """One of two processes; what it would add to the other's is seen."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size, self.is_main = rank, world_size, False

    def reduce_sum(self, value: torch.Tensor) -> torch.Tensor:
        return value


def test_each_process_fills_its_own_images_and_the_sum_is_the_whole_to_the_last_bit() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)
    packed = random.integers(0, 256, (70, 32), dtype=np.uint8)
    subject = Subject(pixels, [""] * 70, [""] * 70, packed)
    network = torch.nn.Conv2d(3, 3, 3, padding=1)
    seen: list[int] = []

    def method(chosen: NDArray[np.int64]) -> Any:
        seen.extend(chosen.tolist())
        return lambda masked_image, mask: network(masked_image).sigmoid()

    def rows(rank: int, world_size: int, num_threads: int) -> torch.Tensor:
        share: Any = Share(rank, world_size)
        measuring = Measuring(subject, all_metrics(), None, share, torch.device("cpu"), num_threads)
        return measuring.measure("a network", method).rows

    whole = rows(0, 1, 3)
    assert sorted(seen) == list(range(70))
    seen.clear()
    parts = [rows(rank, 2, 1) for rank in (0, 1)]
    assert sorted(seen) == list(range(70))
    assert torch.equal(parts[0] + parts[1], whole)
    assert not (parts[0].any(1) & parts[1].any(1)).any()


def test_a_file_name_that_two_images_share_names_neither(tmp_path: Path) -> None:
    sources, labels = ["test/coast/1.png", "test/forest/1.png", "2"], ["coast", "forest", ""]
    for name in ("1.png", "2.webp"):
        (tmp_path / name).touch()
    with pytest.raises(InpaintError, match=r"2 of 3 images have no fill there: test/coast/1, test/forest/1"):
        by_name(tmp_path, sources, labels, "fill")
    for name in ("coast/1.png", "test/forest/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    found = by_name(tmp_path, sources, labels, "fill")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["coast/1.png", "test/forest/1.jpg", "2.webp"]
