"""Any size and kind of image in, the same out, with every known pixel as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import LoopbackHub
from hypothesis import given, settings
from hypothesis import strategies as st
from painting import FILL, FILL_GREY, Paint, half, noise
from PIL import Image

import inpaint
from inpaint.errors import InpaintError, UsageError
from inpaint.models.generator import GeneratorConfig
from inpaint.pipeline import InpaintingPipeline


@pytest.fixture
def paint() -> Paint:
    return Paint()


@pytest.fixture
def pipe(paint: Paint) -> InpaintingPipeline:
    return InpaintingPipeline(paint, device="cpu")


# --- sizes and kinds


@given(
    mode=st.sampled_from(["L", "LA", "RGB", "RGBA", "I;16"]),
    width=st.integers(1, 21),
    height=st.integers(1, 21),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_any_size_and_kind_keeps_its_known_pixels(mode: str, width: int, height: int, seed: int) -> None:
    image = noise(mode, width, height, seed)
    hole = np.random.default_rng(seed).random((height, width)) < 0.4
    filled = InpaintingPipeline(Paint(), "cpu")(image, hole)
    assert (filled.size, filled.mode) == (image.size, mode)
    assert np.array_equal(np.asarray(filled)[~hole], np.asarray(image)[~hole])
    expected = {
        "L": FILL_GREY,
        "LA": (FILL_GREY, 255),
        "RGB": FILL,
        "RGBA": (*FILL, 255),
        "I;16": FILL_GREY * 257,
    }[mode]
    assert (np.asarray(filled)[hole] == expected).all()


def test_the_generator_sees_a_black_hole_and_reflected_edges(pipe: InpaintingPipeline, paint: Paint) -> None:
    image, hole = noise("RGB", 5, 6), np.zeros((6, 5), dtype=np.bool_)
    hole[1, 3] = True
    pipe(image, hole)
    (masked_image, mask), pixels = paint.seen[0], np.array(image)
    assert masked_image.shape == (1, 3, 8, 8)
    # Column 5 mirrors column 3, row 6 mirrors row 4: the hole is seen twice, and is black.
    assert mask[0, 0].nonzero().tolist() == [[1, 3], [1, 5]]
    assert masked_image[0, :, 1, [3, 5]].unique().tolist() == [0]
    assert torch.equal(masked_image[0, :, 6, 5], torch.from_numpy(pixels[4, 3]) / 255)
    assert torch.equal(masked_image[0, :, :6, 4], torch.from_numpy(pixels[:, 4]).T / 255)


def test_the_fill_lands_where_the_generator_put_it(paint: Paint) -> None:
    ramp = torch.arange(64).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    paint.register_forward_hook(lambda *_: ramp / 255)
    filled = InpaintingPipeline(paint, "cpu")(noise("RGB", 5, 6), np.ones((6, 5), dtype=np.bool_))
    assert np.array_equal(np.asarray(filled)[:, :, 0], ramp[0, 0, :6, :5])


def test_an_empty_mask_gives_the_image_back_without_the_generator(pipe: InpaintingPipeline, paint: Paint) -> None:
    image = noise("RGB", 9, 7)
    assert np.array_equal(np.asarray(pipe(image, Image.new("L", image.size))), np.asarray(image))
    assert not paint.seen


def test_sixteen_bits_reach_the_generator_scaled_and_not_clipped(pipe: InpaintingPipeline, paint: Paint) -> None:
    pipe(np.full((4, 4), 128 * 257, np.uint16), half(4, 4))
    assert paint.seen[0][0][0, :, 0, 3].tolist() == pytest.approx([128 / 255] * 3)


@pytest.mark.parametrize(("mode", "becomes"), [("P", "RGB"), ("1", "L"), ("CMYK", "RGB"), ("YCbCr", "RGB")])
def test_other_kinds_become_what_shows_the_same(pipe: InpaintingPipeline, mode: str, becomes: str) -> None:
    image = noise("RGB", 6, 5).convert(mode)
    filled, hole = pipe(image, half(6, 5)), half(6, 5)
    assert filled.mode == becomes
    assert np.array_equal(np.asarray(filled)[~hole], np.asarray(image.convert(becomes))[~hole])


def test_a_transparent_palette_keeps_its_transparency(pipe: InpaintingPipeline, tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((3, 3), 0)
    image.save(tmp_path / "p.png", transparency=0)
    filled = pipe(tmp_path / "p.png", half(4, 4))
    assert [filled.getpixel(at) for at in ((3, 3), (3, 0), (0, 0))] == [(0, 0, 0, 0), (255, 0, 0, 255), (*FILL, 255)]


def test_a_photograph_on_its_side_is_turned_before_the_mask_is_laid_on(
    pipe: InpaintingPipeline, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = noise("RGB", 6, 4)
    image.save(tmp_path / "turned.png", exif=exif)
    upright, hole = np.rot90(np.asarray(image), -1), half(4, 6)
    filled = pipe(tmp_path / "turned.png", hole)
    assert filled.size == (4, 6)
    assert np.array_equal(np.asarray(filled)[~hole], upright[~hole])
    assert 0x0112 not in filled.getexif()


def test_the_colour_profile_stays_only_where_it_still_holds(pipe: InpaintingPipeline) -> None:
    rgb, cmyk = noise("RGB", 4, 4), noise("RGB", 4, 4).convert("CMYK")
    rgb.info = cmyk.info = {"icc_profile": b"profile", "exif": b"where I live"}
    assert pipe(rgb, half(4, 4)).info == {"icc_profile": b"profile"}
    assert pipe(cmyk, half(4, 4)).info == {}


# --- masks


MASKS = {
    "grey": lambda hole: Image.fromarray(np.where(hole, 128, 127).astype(np.uint8)),
    "black and white": lambda hole: Image.fromarray(hole.astype(np.uint8) * 255).convert("1"),
    "palette": lambda hole: Image.fromarray(hole.astype(np.uint8) * 255).convert("P"),
    "colours": lambda hole: Image.fromarray(hole.astype(np.uint8) * 255).convert("RGB"),
    "white on transparent white": lambda hole: Image.merge(
        "RGBA", [Image.new("L", hole.shape[::-1], 255)] * 3 + [Image.fromarray(hole.astype(np.uint8) * 255)]
    ),
    "16 bits": lambda hole: np.where(hole, 32_896, 32_639).astype(np.uint16),
    "8 bits in 16": lambda hole: np.where(hole, 255, 0).astype(np.uint16),
    "8 bits in 32": lambda hole: Image.fromarray(np.where(hole, 128, 127).astype(np.int32)),
    "booleans": lambda hole: hole,
    "floats": lambda hole: hole.astype(np.float32),
    "one channel": lambda hole: hole.astype(np.uint8)[:, :, None] * 255,
}


@pytest.mark.parametrize("kind", MASKS)
def test_white_is_filled_in_a_mask_of_any_kind(pipe: InpaintingPipeline, kind: str) -> None:
    image, hole = noise("RGB", 6, 5), half(6, 5)
    filled = np.asarray(pipe(image, MASKS[kind](hole)))
    assert (filled[hole] == FILL).all()
    assert np.array_equal(filled[~hole], np.asarray(image)[~hole])


def test_a_mask_of_ones_is_an_error_and_not_an_empty_mask(pipe: InpaintingPipeline) -> None:
    with pytest.raises(InpaintError, match="largest value is 1"):
        pipe(noise("RGB", 6, 5), half(6, 5).astype(np.uint8))


@pytest.mark.parametrize("brightest", [2, 76, 127])
def test_a_mask_without_white_is_an_error_that_says_how_bright_it_is(pipe: InpaintingPipeline, brightest: int) -> None:
    with pytest.raises(InpaintError, match=f"no white: its largest value, as grey, is {brightest} of 255"):
        pipe(noise("RGB", 6, 5), half(6, 5).astype(np.uint8) * np.uint8(brightest))


def test_a_red_hole_is_no_white_and_a_white_hair_may_vanish(pipe: InpaintingPipeline) -> None:
    red = Image.new("RGB", (6, 5))
    red.paste("red", (0, 0, 3, 5))
    with pytest.raises(InpaintError, match="is 76 of 255"):
        pipe(noise("RGB", 6, 5), red)
    hair = np.zeros((80, 80), np.bool_)
    hair[:, 41] = True
    with pytest.raises(InpaintError, match="none of it is left at 10x10"):
        pipe(noise("RGB", 10, 10), hair, resize_mask=True)


def test_a_mask_of_another_size_is_refused_or_scaled(pipe: InpaintingPipeline) -> None:
    image, mask = noise("RGB", 12, 8), half(6, 4)
    with pytest.raises(InpaintError, match=r"6x4 pixels and the image 12x8"):
        pipe(image, mask)
    filled = np.asarray(pipe(image, mask, resize_mask=True))
    assert np.array_equal((filled == FILL).all(2), half(12, 8))


# --- lists, errors, loading


def test_lists_keep_their_order_whatever_is_batched(pipe: InpaintingPipeline, paint: Paint) -> None:
    sizes = [(8, 8), (5, 3), (8, 8), (1, 1), (8, 8)]
    images = [noise("RGB", *size, seed) for seed, size in enumerate(sizes)]
    masks = [half(*size) for size in sizes]
    masks[2][:] = False
    filled = pipe(images, masks)
    assert sorted(len(masked_image) for masked_image, _ in paint.seen) == [1, 1, 2]
    for image, mask, result in zip(images, masks, filled, strict=True):
        assert np.array_equal(np.asarray(result), np.asarray(pipe(image, mask)))
    assert pipe([], []) == []


@pytest.mark.parametrize(
    ("images", "masks"),
    [([noise("RGB", 4, 4)] * 2, [half(4, 4)]), (noise("RGB", 4, 4), [half(4, 4)]), ([], [half(4, 4)])],
)
def test_every_image_needs_its_mask(pipe: InpaintingPipeline, images: Any, masks: Any) -> None:
    with pytest.raises(UsageError, match=r"one mask for each image, or one for all; got a (list|single)"):
        pipe(images, masks)


def test_one_mask_serves_a_whole_list(pipe: InpaintingPipeline) -> None:
    images = [noise("RGB", 6, 5, seed) for seed in range(3)]
    filled = pipe(images, mask_image=half(6, 5))
    for image, result in zip(images, filled, strict=True):
        assert np.array_equal(np.asarray(result), np.asarray(pipe(image, half(6, 5))))


def test_tensors_and_arrays_are_what_the_same_image_is(pipe: InpaintingPipeline) -> None:
    image, hole = np.asarray(noise("RGB", 6, 5)), half(6, 5)
    expected = np.asarray(pipe(Image.fromarray(image), hole))
    channels_first = torch.from_numpy(image.copy()).permute(2, 0, 1)
    for source in (image, image / 255, channels_first, channels_first / 255, (channels_first / 255).double()):
        assert np.array_equal(np.asarray(pipe(source, hole)), expected)
    for mask in (torch.from_numpy(hole), torch.from_numpy(hole)[None], torch.from_numpy(hole)[None].bfloat16()):
        assert np.array_equal(np.asarray(pipe(image, mask)), expected)
    batch = torch.stack([channels_first, channels_first.flip(2)]) / 255
    for masks in (torch.from_numpy(hole), torch.from_numpy(hole).expand(2, 1, 5, 6)):
        filled = pipe(batch, masks)
        assert [np.asarray(one).shape for one in filled] == [(5, 6, 3)] * 2
        assert np.array_equal(np.asarray(filled[0]), expected)


@pytest.mark.parametrize("fault", ["missing", "text", "truncated", "floats", "shape"])
def test_what_cannot_be_read_is_named_in_one_line(pipe: InpaintingPipeline, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "photo.png"
    if fault == "text":
        path.write_text("no image")
    elif fault == "truncated":
        noise("RGB", 64, 64).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    image = {"floats": np.full((4, 4, 3), -1.0), "shape": np.zeros((2, 4, 4, 3), np.uint8)}.get(fault, path)
    with pytest.raises(
        InpaintError, match=r"photo\.png" if image is path else r"float64.* from -1 to -1;|\[2, 4, 4, 3\]"
    ) as error:
        pipe(image, half(4, 4))
    assert "\n" not in str(error.value)


def test_what_is_no_image_is_told_in_one_short_line(pipe: InpaintingPipeline, tmp_path: Path) -> None:
    Image.effect_noise((40, 40), 50).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-300])
    mask = Image.new("L", (40, 40), 255)
    for wrong in (Image.open(tmp_path / "cut.jpg"), None, (1, 2), {"image": 1}):
        with pytest.raises(InpaintError, match="the image cannot be read: ") as caught:
            pipe(wrong, mask)  # type: ignore[call-overload]
        assert len(str(caught.value)) < 150
    premultiplied = Image.new("LA", (40, 40), (90, 200)).convert("La")
    assert pipe(premultiplied, mask).mode == "LA"


def test_a_broken_generator_is_not_painted_into_the_image(paint: Paint) -> None:
    pipe = InpaintingPipeline(paint, "cpu")
    paint.register_forward_hook(lambda *_: torch.full((1, 3, 4, 4), torch.nan))
    with pytest.raises(InpaintError, match="output is not finite"):
        pipe(noise("RGB", 4, 4), half(4, 4))


def test_a_saved_generator_fills_as_it_did_before(tmp_path: Path) -> None:
    generator = inpaint.Generator(GeneratorConfig(width=2))
    generator.save_pretrained(tmp_path)
    pipe = inpaint.InpaintingPipeline.from_pretrained(tmp_path, device="cpu")
    image, hole = noise("RGB", 13, 6), half(13, 6)
    expected = InpaintingPipeline(generator, "cpu")(image, hole)
    assert np.array_equal(np.asarray(pipe(image, hole)), np.asarray(expected))
    assert not pipe.generator.training
    with pytest.raises(InpaintError, match=r"config\.json"):
        InpaintingPipeline.from_pretrained(tmp_path / "..")
    for device in ("gpu9", "meta"):
        with pytest.raises(UsageError, match=f"'{device}' cannot be used") as caught:
            InpaintingPipeline.from_pretrained(tmp_path, device=device)
        assert "\n" not in str(caught.value)


def test_a_pipeline_says_what_it_is_moves_and_is_saved(tmp_path: Path, paint: Paint) -> None:
    pipe = InpaintingPipeline(inpaint.Generator(GeneratorConfig(width=2, image_size=64, hole_max_px=25)), "cpu")
    for part in ("width=2", "image_size=64", "hole_max_px=25", "0.01 M parameters", "on cpu"):
        assert part in repr(pipe)
    assert pipe.to("cpu") is pipe and pipe.device == torch.device("cpu")
    with pytest.raises(UsageError, match="'gpu9' cannot be used"):
        pipe.to("gpu9")
    pipe.save_pretrained(tmp_path / "saved")
    image, hole = noise("RGB", 13, 6), half(13, 6)
    again = InpaintingPipeline.from_pretrained(tmp_path / "saved", device="cpu")
    assert np.array_equal(np.asarray(again(image, hole)), np.asarray(pipe(image, hole)))
    assert "Paint" in repr(InpaintingPipeline(paint, "cpu"))
    with pytest.raises(UsageError, match="is a Paint; only"):
        InpaintingPipeline(paint, "cpu").save_pretrained(tmp_path / "other")


def test_a_pipeline_is_pushed_and_comes_back(hub: LoopbackHub, tmp_path: Path) -> None:
    pipe = InpaintingPipeline(inpaint.Generator(GeneratorConfig(width=2)), "cpu")
    pipe.push_to_hub("alice/painter", private=True)
    assert hub.repository("alice/painter").private
    assert b"@techreport" in hub.head("alice/painter").files["README.md"].content
    there = InpaintingPipeline.from_pretrained("alice/painter", device="cpu")
    image, hole = noise("RGB", 13, 6), half(13, 6)
    assert np.array_equal(np.asarray(there(image, hole)), np.asarray(pipe(image, hole)))
    with pytest.raises(InpaintError, match=r"could not push to bob/painter: .*no right"):
        pipe.push_to_hub("bob/painter")
