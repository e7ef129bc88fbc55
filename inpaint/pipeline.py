"""Owns the way from a user's picture and mask to the filled picture: any size and kind in, the same out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from inpaint.data.pixels import TURNS, orientation
from inpaint.errors import InpaintError, UsageError
from inpaint.evaluation.metrics import to_u8
from inpaint.models.generator import Generator

PictureLike = Image.Image | NDArray[np.generic] | str | Path

# The kinds of picture that are filled as they are; others become the nearest of these that loses nothing visible.
# Premultiplied by their transparency.
_PLAIN = {"La": "LA", "RGBa": "RGBA"}
_KINDS = ("L", "LA", "RGB", "RGBA", "I;16")
_MULTIPLE_PX = 4
# Pictures of one size go through the generator together as long as they are no more pixels than this.
_BATCH_PIXELS = 2**20


class InpaintingPipeline:
    """Fill the white part of a mask in a picture.

        pipe = InpaintingPipeline.from_pretrained("runs/quickstart/generator")
        pipe("photo.jpg", "mask.png").save("filled.png")

    Args:
        generator: called as `Generator` is; it is moved to `device` and put in evaluation mode.
        device: as torch names it; None or "auto" is CUDA if there is one, else MPS, else the CPU.

    Raises:
        UsageError: there is no such device.
    """

    def __init__(self, generator: nn.Module, device: torch.device | str | None = None) -> None:
        self.device = _device(device)
        self.generator = generator.to(self.device).eval()

    @classmethod
    def from_pretrained(
        cls,
        id_or_dir: str | Path,
        revision: str | None = None,
        device: torch.device | str | None = None,
        *,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> InpaintingPipeline:
        """A pipeline with the generator saved in a directory or on the Hub; see `Generator.from_pretrained`.

        Raises:
            InpaintError: not found, no access, or not the files of such a generator.
            UsageError: there is no such device.
        """
        device = _device(device)
        generator = Generator.from_pretrained(
            id_or_dir, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        return cls(generator, device)

    @overload
    def __call__(self, image: PictureLike, mask: PictureLike, *, resize_mask: bool = False) -> Image.Image: ...

    @overload
    def __call__(self, image: list[Any], mask: list[Any], *, resize_mask: bool = False) -> list[Image.Image]: ...

    def __call__(
        self,
        image: PictureLike | list[Any],
        mask: PictureLike | list[Any],
        *,
        resize_mask: bool = False,
    ) -> Image.Image | list[Image.Image]:
        """The picture with the hole filled and every other pixel exactly as it was.

        Grey, 16-bit grey, RGB and transparent pictures stay what they are; filled pixels are opaque. Palette pictures
        become RGB (RGBA if transparent), 1-bit ones grey, CMYK and other colour spaces RGB. A rotation noted in EXIF is
        carried out. An empty (black) mask gives the picture back.

        Args:
            image: an open picture, a file's path, or an array: uint8 [H, W] or [H, W, 3 or 4], or uint16 [H, W]; or a
                list of such.
            mask: the same, white (128 of 255 or more) where to fill and transparent parts black; also an array of
                booleans, or of floats in [0, 1]. As long a list as `image`, if that is one.
            resize_mask: scale a mask of another size to the picture's instead of refusing it.

        Raises:
            InpaintError: an unreadable picture, a mask of another size, or a generator that gives no numbers.
            UsageError: lists of different lengths, or a list and a single one.
        """
        images = image if isinstance(image, list) else [image]
        masks = mask if isinstance(mask, list) else [mask]
        if isinstance(image, list) != isinstance(mask, list) or len(images) != len(masks):
            raise UsageError(f"every picture needs its own mask; got {_count(image)} and {_count(mask)}")
        filled = self._fill([_Job.of(*pair, resize_mask) for pair in zip(images, masks, strict=True)])
        return filled if isinstance(image, list) else filled[0]

    def _fill(self, jobs: list[_Job]) -> list[Image.Image]:
        filled = [job.picture for job in jobs]
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, job in enumerate(jobs):
            if job.hole.any():
                by_size[job.hole.shape].append(index)
        for (height, width), indices in by_size.items():
            batch_size = max(1, _BATCH_PIXELS // (height * width))
            for start in range(0, len(indices), batch_size):
                batch = indices[start : start + batch_size]
                for index, output in zip(batch, self._outputs([jobs[index] for index in batch]), strict=True):
                    filled[index] = jobs[index].composite(output)
        return filled

    @torch.inference_mode()
    def _outputs(self, jobs: list[_Job]) -> NDArray[np.uint8]:
        """The generator's pictures for jobs of one size: [B, H, W, 3]."""
        height, width = jobs[0].hole.shape
        # Reflected, not filled with a colour: the generator has never seen a frame around a picture. NumPy reflects
        # as often as it must, and repeats the only row or column of a picture that has no more.
        margin = ((0, 0), (0, -height % _MULTIPLE_PX), (0, -width % _MULTIPLE_PX))
        rgb = np.pad(np.stack([job.rgb() for job in jobs]), (*margin, (0, 0)), mode="reflect")
        hole = np.pad(np.stack([job.hole for job in jobs]), margin, mode="reflect")
        image = torch.from_numpy(rgb).to(self.device).permute(0, 3, 1, 2).float() / 255
        mask = torch.from_numpy(hole).to(self.device)[:, None].float()
        output: Tensor = self.generator(image * (1 - mask), mask)
        if not output.isfinite().all():
            raise InpaintError("the generator's output holds values that are no numbers: its weights are broken")
        return to_u8(output)[:, :, :height, :width].permute(0, 2, 3, 1).cpu().numpy()


@dataclass(frozen=True)
class _Job:
    """One picture, of one of `_KINDS`, and where to fill it ([H, W], true = hole)."""

    picture: Image.Image
    hole: NDArray[np.bool_]

    @classmethod
    def of(cls, image: PictureLike, mask: PictureLike, resize_mask: bool) -> _Job:
        picture, drawn = _to_kind(_opened(image, "picture")), _to_grey(_opened(mask, "mask"))
        if drawn.size != picture.size:
            if not resize_mask:
                raise InpaintError(
                    f"the mask is {_size(drawn)} pixels and the picture {_size(picture)}; they must be of one size "
                    "(or have the mask scaled: resize_mask=True, --resize-mask)"
                )
            drawn = drawn.resize(picture.size, Image.Resampling.BILINEAR)
        return cls(picture, np.asarray(drawn) >= 128)

    def rgb(self) -> NDArray[np.uint8]:
        """What the generator is to see of the picture: [H, W, 3]."""
        if self.picture.mode == "I;16":
            grey = np.rint(np.asarray(self.picture) / 257).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        return np.asarray(self.picture.convert("RGB"))

    def composite(self, output: NDArray[np.uint8]) -> Image.Image:
        """The picture with the hole from `output` [H, W, 3]: of the picture's kind, and its pixels where known."""
        fill = Image.fromarray(output)
        if self.picture.mode == "I;16":
            fills = np.asarray(fill.convert("L")).astype(np.uint16) * 257
        else:
            fills = np.asarray(fill.convert(self.picture.mode))
        known = np.asarray(self.picture)
        hole = self.hole if known.ndim == 2 else self.hole[:, :, None]
        filled = Image.fromarray(np.where(hole, fills, known))
        filled.info = self.picture.info
        return filled


def _opened(source: PictureLike, what: str) -> Image.Image:
    """The picture decoded and upright; `what` it is, for messages."""
    if isinstance(source, np.ndarray):
        return _from_array(source, what)
    try:
        if isinstance(source, Image.Image):
            return _upright(source)
        if not (isinstance(source, str | PathLike) or hasattr(source, "read")):
            raise TypeError(
                f"it is a {type(source).__name__}; allowed: an open picture, a file's path, or a NumPy array"
            )
        with Image.open(source) as image:
            return _upright(image)
    except FileNotFoundError as error:
        raise InpaintError(f"there is no {what} {source}") from error
    except Exception as error:  # Pillow's readers raise whatever the broken bytes lead them to
        name = f" {source}" if isinstance(source, str | PathLike) else ""
        raise InpaintError(f"the {what}{name} cannot be read: {' '.join(str(error).split())}") from error


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # first, since some formats keep the orientation behind the pixels
    turn = TURNS.get(orientation(image))
    upright = image if turn is None else image.transpose(turn)
    return upright.convert(_PLAIN[upright.mode]) if upright.mode in _PLAIN else upright


def _from_array(array: NDArray[np.generic], what: str) -> Image.Image:
    pixels: NDArray[Any] = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    grey, colour = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if what == "mask" and grey and pixels.size:
        if pixels.dtype == np.bool_:
            pixels = pixels.astype(np.uint8) * 255
        elif pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1:
            pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.size and ((grey and pixels.dtype == np.uint16) or ((grey or colour) and pixels.dtype == np.uint8)):
        return Image.fromarray(pixels)
    allowed = "uint8 [H, W] or [H, W, 3 or 4], uint16 [H, W]"
    allowed += "; for a mask also bool [H, W] or floats in [0, 1]" if what == "mask" else ""
    raise InpaintError(f"the {what} is an array {array.dtype} {list(array.shape)}; allowed: {allowed}")


def _to_kind(image: Image.Image) -> Image.Image:
    """The picture as one of `_KINDS`, of its metadata only the colour profile where it still holds."""
    if image.mode.startswith("I"):
        kind = "I;16"
    elif image.has_transparency_data:
        kind = "LA" if image.mode in ("L", "LA") else "RGBA"
    elif image.mode == "F":
        raise InpaintError("a picture of floats has no known white; save it with 8 or 16 bits")
    else:
        kind = image.mode if image.mode in _KINDS else {"1": "L"}.get(image.mode, "RGB")
    picture = _sixteen_bits(image) if kind == "I;16" else image.convert(kind)
    keeps_profile = image.mode in (kind, "P") and "icc_profile" in image.info
    picture.info = {"icc_profile": image.info["icc_profile"]} if keeps_profile else {}
    return picture


def _sixteen_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65_535:
        raise InpaintError(
            f"the picture's values go from {values.min()} to {values.max()}; save it with 8 or 16 bits (0 to 65535)"
        )
    return Image.fromarray(values.astype(np.uint16))


def _to_grey(mask: Image.Image) -> Image.Image:
    """The mask as 8-bit grey, transparent parts black."""
    if mask.has_transparency_data:
        layer = mask.convert("RGBA")
        mask = Image.new("RGB", layer.size)
        mask.paste(layer, mask=layer.getchannel("A"))
    elif mask.mode.startswith("I"):
        mask = Image.fromarray(np.rint(np.asarray(_sixteen_bits(mask)) / 257).astype(np.uint8))
    grey = mask.convert("L")
    if grey.getextrema()[1] == 1:
        raise InpaintError("the mask's largest value is 1, and white is 255: multiply it by 255, or give booleans")
    return grey


def _count(value: object) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else "a single one"


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"


def _device(name: torch.device | str | None) -> torch.device:
    if name is None or name == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else mps)
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"device {str(name)!r} cannot be used ({reason}); use auto, cuda, mps or cpu") from error
