"""The person filter: boxes in the image's own coordinates, on tiny networks whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from darknet import CFG, write_darknet
from hub_server import LoopbackHub
from onnx_files import write_yolox

from inpaint.errors import InpaintError, UsageError
from inpaint.prepare.detectors import DarknetDetector, build_detector, check_detector, letterbox
from inpaint.prepare.people import LOWEST_SCORE, Box, PeopleFilter


def test_darknet_boxes_lie_where_the_person_is_whatever_the_shape(tmp_path: Path) -> None:
    people = write_darknet(tmp_path)
    wide = np.zeros((48, 96, 3), np.uint8)
    wide[8:40, 64:96, 0] = 255  # fills the last cell of the middle row, once there are 24 px above and below
    (box,) = build_detector(people).detect([wide])[0]
    assert (box.x + box.width / 2, box.y + box.height / 2) == pytest.approx((80 / 96, 24 / 48), abs=1e-4)
    assert (box.width, box.height) == pytest.approx((48 / 96, 24 / 48), abs=1e-4)
    assert box.score == pytest.approx((1 / (1 + np.exp(-4.0))) ** 2, abs=1e-3)

    blue = wide[..., ::-1].copy()
    assert build_detector(people).detect([blue]) == [[]]


def test_darknet_suppresses_the_weaker_of_two_boxes_that_overlap(tmp_path: Path) -> None:
    people = write_darknet(tmp_path)
    image = np.zeros((96, 96, 3), np.uint8)
    image[32:64, 0:32, 0] = 255
    image[32:64, 64:96, 0] = 255
    assert len(build_detector(people).detect([image])[0]) == 2
    people.cfg.write_text(CFG.replace("anchors=48,24", "anchors=300,24"))  # type: ignore[union-attr]
    assert len(build_detector(people).detect([image])[0]) == 1


@pytest.mark.parametrize("is_decoded", [False, True])
def test_onnx_boxes_lie_where_the_person_is_whatever_the_shape(tmp_path: Path, is_decoded: bool) -> None:
    people = PeopleFilter("onnx", onnx=write_yolox(tmp_path / "tiny.onnx", 64, is_decoded), input_px=64)
    detector = build_detector(replace(people, names=write_names(tmp_path)))
    wide = np.zeros((96, 128, 3), np.uint8)
    wide[32:48, 48:64, 0] = 255  # the fourth cell of the third row, at half the size
    (box,) = detector.detect([wide])[0]
    assert (box.x + box.width / 2, box.y + box.height / 2) == pytest.approx((56 / 128, 40 / 96), abs=1e-4)
    assert (box.width, box.height, box.score) == pytest.approx((32 / 128, 32 / 96, 1), abs=1e-4)
    assert detector.detect([wide[..., ::-1].copy()]) == [[]]


def write_names(folder: Path) -> Path:
    (folder / "names.txt").write_text("dog\nperson\n")
    return folder / "names.txt"


def test_an_onnx_file_that_is_none_or_gives_something_else_is_named(tmp_path: Path) -> None:
    sound = write_yolox(tmp_path / "tiny.onnx", 64)
    (tmp_path / "page.onnx").write_bytes(b"<html>not found</html>" * 10)
    with pytest.raises(InpaintError, match=r"can't run .*page\.onnx on images of 64 px"):
        check_detector(PeopleFilter("onnx", onnx=tmp_path / "page.onnx", input_px=64))
    with pytest.raises(InpaintError, match=r"tiny\.onnx.*(--detector-size|a YOLOX network gives 3549 rows)"):
        check_detector(PeopleFilter("onnx", onnx=sound))
    (tmp_path / "coco.names").write_text("a\nb\nc\n")
    with pytest.raises(InpaintError, match=r"gives 84x7 numbers for 64 px; .* more than 2 of them"):
        check_detector(PeopleFilter("onnx", onnx=sound, input_px=64, class_name="c"))


def test_a_checkpoint_that_cannot_be_fetched_is_told_after_one_request(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = PeopleFilter("transformers", model="alice/detector")
    with pytest.raises(InpaintError, match=r"checkpoint alice/detector can't be fetched from the Hub \(.*404"):
        check_detector(people)
    assert len(hub.requests("alice/detector")) == 1
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{filename}"
    )
    with pytest.raises(InpaintError, match=r"can't be fetched .*give --detector a folder .*darknet or onnx"):
        check_detector(people)
    cached = Path(huggingface_hub.constants.HF_HUB_CACHE) / "models--alice--detector"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    (cached / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (cached / "snapshots" / ("a" * 40) / "config.json").write_text("{}")
    check_detector(people)


@pytest.mark.parametrize("threshold", [30, 1.5, 0, -1, float("nan")])
def test_a_threshold_that_nothing_or_everything_reaches_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match=r"--person-threshold is .*; it is a score, from 0.01 to 1"):
        PeopleFilter(threshold=threshold)


def test_letterbox_keeps_the_shape_and_pads_with_grey() -> None:
    tall = np.full((200, 50, 3), 255, np.uint8)
    canvas, scale, left, top = letterbox(tall, 100)
    assert (canvas.shape, scale, left, top) == ((100, 100, 3), 0.5, 37, 0)
    assert (canvas[:, 37:62] == 255).all() and (canvas[:, :37] == 128).all() and (canvas[:, 62:] == 128).all()


def test_score_is_the_highest_of_the_boxes_that_are_large_enough() -> None:
    boxes = [Box(0.9, 0, 0, 0.1, 0.1), Box(0.4, 0, 0, 0.5, 0.5)]
    assert PeopleFilter().score(boxes) == 0.9
    assert PeopleFilter(min_area=0.02).score(boxes) == 0.4
    assert PeopleFilter(min_area=0.5).score(boxes) == 0.0


def test_identity_changes_with_the_weights_and_not_with_the_threshold_or_the_place(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, moved = write_darknet(tmp_path / "a"), write_darknet(tmp_path / "b")
    looser = PeopleFilter("darknet", threshold=0.9, cfg=first.cfg, weights=first.weights)
    assert first.identity() == moved.identity() == looser.identity()
    moved.weights.write_bytes(b"other")  # type: ignore[union-attr]
    assert first.identity() != moved.identity()


@pytest.mark.parametrize("damage", ["cut", "longer", "page"])
def test_wrong_weights_are_named(tmp_path: Path, damage: str) -> None:
    people = write_darknet(tmp_path, extra_bytes=400 if damage == "longer" else 0)
    assert people.weights is not None
    if damage == "cut":
        people.weights.write_bytes(people.weights.read_bytes()[:60])
    if damage == "page":
        people.weights.write_bytes(b"<html>not found</html>" * 10)
    with pytest.raises(InpaintError, match=r"tiny\.weights.*belong together"):
        DarknetDetector(people)


def test_settings_that_cannot_be_right_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use one of none, darknet, onnx, transformers"):
        PeopleFilter("yolo")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs a file for --darknet-weights; got None"):
        PeopleFilter("darknet", cfg=write_darknet(tmp_path).cfg)
    people = write_darknet(tmp_path)
    with pytest.raises(UsageError, match=r"no class 'cat'; it has dog, person"):
        build_detector(PeopleFilter("darknet", cfg=people.cfg, weights=people.weights, class_name="cat"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised detector of the Hub's kind, a few hundred kilobytes, saved as the Hub would hold it."""
    transformers = pytest.importorskip(
        "transformers", reason="the detector of people is of transformers, an extra: pip install it"
    )
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("detector")
    config = transformers.YolosConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[64, 64],
        patch_size=16,
        num_detection_tokens=5,
        num_labels=2,
        id2label={0: "dog", 1: "Person"},
    )
    transformers.YolosForObjectDetection(config).save_pretrained(folder)
    transformers.YolosImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_transformers_boxes_do_not_depend_on_the_batch(checkpoint: Path) -> None:
    people = PeopleFilter("transformers", model=str(checkpoint))
    detector = build_detector(people)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40 + 8 * i, 64, 3), dtype=np.uint8) for i in range(3)]
    together = detector.detect(images)
    alone = [detector.detect([image])[0] for image in images]
    scores = [people.score(boxes) for boxes in together]
    assert all(score > LOWEST_SCORE for score in scores)
    assert scores == pytest.approx([people.score(boxes) for boxes in alone], abs=1e-4)
    assert all(0 < box.width * box.height <= 1 for boxes in together for box in boxes)


def test_a_checkpoint_that_is_none_or_lacks_the_class_is_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InpaintError, match="no object-detection checkpoint could be loaded"):
        build_detector(PeopleFilter("transformers", model=str(tmp_path)))
    with pytest.raises(UsageError, match="no class 'cat'; it has dog, person"):
        build_detector(PeopleFilter("transformers", model=str(checkpoint), class_name="cat"))


def test_a_list_of_more_classes_than_the_network_has_is_one_line(tmp_path: Path) -> None:
    people = write_darknet(tmp_path)
    (tmp_path / "coco.names").write_text("dog\ncat\nhorse\nperson\n")
    with pytest.raises(
        UsageError, match=r"has 'person' in line 4, but .*tiny.cfg knows 2 classes; give --detector-names"
    ):
        build_detector(people)
