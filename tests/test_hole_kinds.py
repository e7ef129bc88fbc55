"""A kind of hole is one file and one line: drawn by counter, mixed by weight, rasterised on the device, mirrored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from running import metrics, tiny_config

from inpaint.arguments import parse_arguments
from inpaint.config import Config, DataConfig
from inpaint.data import draws
from inpaint.data.batches import BatchLoader
from inpaint.data.decoded import DecodedSplit
from inpaint.errors import UsageError
from inpaint.evaluation.subject import subject_of
from inpaint.holes.kinds import MIXED as MIXTURE
from inpaint.holes.kinds import HoleMixture
from inpaint.holes.spec import HoleSpec
from inpaint.resolve import load_config
from inpaint.tables import HOLES
from inpaint.training.identity import differences

SIZE, NUM = 32, 400
SPEC = HoleSpec.scaled(SIZE)
MIXED = {"rectangle": 1.0, "strokes": 3.0}


def split_of(num: int = NUM) -> DecodedSplit:
    pixels = np.random.default_rng(0).integers(0, 256, (num, SIZE, SIZE, 3), dtype=np.uint8)
    return DecodedSplit(pixels, *draws.stored_holes(np.arange(num, dtype=np.uint64), SPEC), [""] * num)


def config(**changes: Any) -> DataConfig:
    return DataConfig(image_size=SIZE, holes="resampled", **changes)


def test_kinds_are_mixed_by_weight_and_no_stream_shifts_anothers_numbers() -> None:
    alone, windows = draws.resampled_holes(NUM, HoleMixture({"rectangle": 7.0}, SPEC), 3, 2)
    mixed, mixed_windows = draws.resampled_holes(NUM, HoleMixture(MIXED, SPEC), 3, 2)
    turned, _ = draws.resampled_holes(NUM, HoleMixture(dict(reversed(MIXED.items())), SPEC), 3, 2)
    assert np.array_equal(mixed, turned)
    is_rectangle = mixed[:, 0] == 0
    assert 0.2 < is_rectangle.mean() < 0.3
    assert np.array_equal(mixed[is_rectangle, :5], alone[is_rectangle])
    assert np.array_equal(mixed_windows[is_rectangle], windows[is_rectangle])
    assert {*mixed[is_rectangle, 3]} == {*alone[:, 3]}, "kinds are drawn from the numbers of the holes"
    assert not mixed[is_rectangle, 5:].any() and mixed.shape == (NUM, 1 + 43)
    only = draws.resampled_holes(NUM, HoleMixture({"strokes": 1.0}, SPEC), 3, 2)[0]
    assert np.array_equal(mixed[~is_rectangle, 1:], only[~is_rectangle, 1:])


def test_each_hole_is_its_kinds_mask_alone_or_in_a_batch() -> None:
    mixture = HoleMixture(MIXED, SPEC)
    holes, windows = draws.resampled_holes(NUM, mixture, 0, 1)
    masks = mixture.rasterise(torch.from_numpy(holes), SIZE)
    assert masks.shape == (NUM, 1, SIZE, SIZE)
    assert torch.equal(masks, mixture._each_all(torch.from_numpy(holes), SIZE)), "a GPU would see other holes"
    inside = torch.zeros(NUM)
    for index, (hole, (x, y)) in enumerate(zip(holes, windows.tolist(), strict=True)):
        kind, num = mixture.kinds[int(hole[0])], (4, 43)[int(hole[0])]
        assert torch.equal(kind.rasterise(torch.from_numpy(hole[None, 1 : 1 + num]), SIZE)[0], masks[index])
        assert 0 <= x <= SIZE - SPEC.window_px and 0 <= y <= SIZE - SPEC.window_px
        there = masks[index, 0, y : y + SPEC.window_px, x : x + SPEC.window_px].sum()
        inside[index] = there / masks[index].sum()
    is_rectangle = torch.from_numpy(holes[:, 0] == 0)
    assert (inside[is_rectangle] == 1).all() and 0.5 < inside[~is_rectangle].mean() < 1
    x, y, width, height = holes[holes[:, 0] == 0][0, 1:5].astype(int)
    assert masks[int(np.argmin(holes[:, 0]))].sum() == width * height


@pytest.mark.parametrize("device_cache", ["off", "on"])
def test_a_mixture_is_mirrored_with_its_images_and_shared_by_processes(device_cache: str) -> None:
    split, settings = split_of(), config(hole_kinds=MIXED, flip=True, device_cache=device_cache)
    chosen, whole = BatchLoader(split, settings, 5, 100).global_batch(1, 0)
    _, plain = BatchLoader(split, config(hole_kinds=MIXED), 5, 100).global_batch(1, 0)
    is_flipped = torch.from_numpy(draws.flips(NUM, 5, 1)[chosen])[:, None, None, None]
    assert torch.equal(whole.mask, torch.where(is_flipped, plain.mask.flip(-1), plain.mask))
    assert torch.equal(whole.image, torch.where(is_flipped, plain.image.flip(-1), plain.image))
    shares = []
    for rank in range(2):
        batches = BatchLoader(split, settings, 5, 100, rank, 2).batches(1, 0)
        shares.append(next(batches))
        batches.close()
    for name, tensor in vars(whole).items():
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), tensor), name


def test_one_kind_is_bit_for_bit_what_it_was_under_any_weight() -> None:
    split = split_of(50)
    _, batch = BatchLoader(split, config(), 0, 50).global_batch(1, 0)
    _, other = BatchLoader(split, config(hole_kinds={"rectangle": 0.1}), 0, 50).global_batch(1, 0)
    assert all(torch.equal(tensor, getattr(other, name)) for name, tensor in vars(batch).items())


# --- the setting


def test_the_flag_is_a_mapping_and_goes_whole_into_the_place_of_the_default() -> None:
    flags = ["--data.holes", "resampled", "--data.hole_kinds", "{strokes: 2}"]
    assert parse_arguments(flags)[0].data.hole_kinds == {"strokes": 2.0}
    assert Config().data.hole_kinds == {"rectangle": 1.0}


@pytest.mark.parametrize(
    ("value", "holes", "words"),
    [
        (
            "{rectangel: 1}",
            "resampled",
            "data.hole_kinds: there is no rectangel; did you mean rectangle? Allowed:",
        ),
        ("{xyz: 1}", "resampled", "there is no xyz; allowed: rectangle, "),
        ("{}", "resampled", "data.hole_kinds = {}"),
        ("{rectangle: 0}", "resampled", "data.hole_kinds.rectangle = 0"),
        ("strokes", "resampled", "data.hole_kinds = 'strokes' (--data.hole_kinds): must be"),
        (
            "{rectangle: 1, strokes: 1}",
            "stored",
            "data.holes = stored is each image's own rectangle; for data.hole_kinds = ",
        ),
    ],
)
def test_a_wrong_kind_is_one_line(value: str, holes: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        load_config("paper/original", {"data.hole_kinds": value, "data.holes": holes})
    assert words in str(error.value) and str(error.value).count("\n") == 1


def test_other_kinds_are_another_run_and_a_run_from_before_had_rectangles() -> None:
    flags = {"data.holes": "resampled", "data.hole_kinds": str(MIXED)}
    mixed, before = load_config("paper/original", flags), load_config("paper/original", {"data.holes": "resampled"})
    old = before.model_dump(mode="json")
    told = "data.hole_kinds.strokes: 0.0 -> 3.0"
    assert differences(old, mixed) == ([told], [])
    del old["data"]["hole_kinds"]
    assert differences(old, mixed) == ([told], [])
    assert differences(old, before) == ([], [])


def test_a_run_trains_on_strokes(tmp_path: Path) -> None:
    from inpaint.training.launch import main

    sections = {"data": {"holes": "resampled", "hole_kinds": MIXED}, "training": {"epochs": 1, "max_steps": 2}}
    assert main(["--config", str(tiny_config(tmp_path, **sections)), "--run-dir", str(tmp_path / "run")]) == 0
    assert metrics(tmp_path / "run")
    report = (tmp_path / "run" / "report.md").read_text()
    assert "one rectangular hole each" in report and "inpaint evaluate --model RUN --holes strokes:7" in report
    assert "Raise training.max_steps (now 2)" in report and "training.epochs" not in report
    assert "each with one rectangular hole" in (tmp_path / "run" / "generator" / "README.md").read_text()


def test_a_dry_run_tells_what_the_holes_are_like(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from inpaint.training.launch import main

    arguments = ["--config", str(tiny_config(tmp_path)), "--dry-run", "--data.image_size", "128"]
    assert main([*arguments, "--data.holes", "stored"]) == 0
    assert "holes" not in yaml.safe_load(capsys.readouterr().out)
    arguments += ["--data.holes", "resampled", "--data.hole_kinds", "{rectangle: .35, strokes: .4, blobs: .25}"]
    assert main([*arguments, "--data.hole_area", "[0.1, 0.2]"]) == 0
    told = yaml.safe_load(capsys.readouterr().out)["holes"]
    assert {kind: its["share"] for kind, its in told.items()} == pytest.approx(
        {"blobs": 0.25, "rectangle": 0.35, "strokes": 0.4}, abs=0.06
    )
    for kind in ("blobs", "strokes"):
        assert told[kind]["area"] == pytest.approx(0.15, abs=0.01)
        assert told[kind]["area_5_to_95_percent"] == pytest.approx([0.105, 0.195], abs=0.01)
    box = told["rectangle"]
    assert (box["extent_px_5_to_95_percent"], box["extent_px"]) == ([40, 50], [pytest.approx(45, abs=1)] * 2)
    assert box["area"] == pytest.approx(45**2 / 128**2, abs=0.005)
    assert told["strokes"]["extent_px"][0] > told["blobs"]["extent_px"][0] > 45


def evaluated(holes: str, keep: slice = slice(None)) -> NDArray[np.uint8]:
    split, sources = split_of(), [f"lake/{number}.jpg" for number in range(NUM)]
    its = DecodedSplit(split.pixels[keep], split.holes[keep], split.windows[keep], sources[keep])
    return subject_of(its, {}, holes, SPEC, None).packed


def test_evaluation_draws_any_kind_and_mixtures_by_seed() -> None:
    alone = {kind: evaluated(f"{kind}:7") for kind in HOLES}
    assert len({masks.tobytes() for masks in alone.values()}) == len(HOLES)
    mixed = evaluated("mixed:7")
    assert np.array_equal(mixed, evaluated("{blobs: 2.5, strokes: 4, rectangle: 3.5}:7"))
    assert np.array_equal(mixed[5:50], evaluated("mixed:7", slice(5, 50)))
    assert (evaluated("mixed:8") != mixed).any(axis=1).mean() > 0.9
    shares = {kind: (alone[kind] == mixed).all(axis=1).mean() for kind in MIXTURE}
    assert shares == pytest.approx(MIXTURE, abs=0.07) and sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("holes", "words"),
    [
        ("stroks:7", "--holes stroks:7: there is no stroks; did you mean strokes? Allowed: rectangle, "),
        ("{strokes: 0}:7", "greater than 0"),
        ("{}:7", "at least 1"),
        ("{strokes: [}:7", "it is no mapping. Before :SEED may stand a kind, `mixed`, or"),
        ("mixed", "'mixed' is no folder; give `stored`, KIND:SEED such as rectangle:7 or mixed:7"),
    ],
)
def test_wrong_holes_to_evaluate_on_are_one_line(holes: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        evaluated(holes)
    assert words in str(error.value) and "\n" not in str(error.value)
