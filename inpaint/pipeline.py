"""Owns inference: an image and a mask of any size and kind to the filled image of the same size and kind."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import torch
from PIL import Image
from torch import Tensor, nn

from inpaint.errors import InpaintError, InpaintWarning, UsageError
from inpaint.fidelity import ONE_END, require_fidelity
from inpaint.hub.errors import CLIENT_ERRORS, describe
from inpaint.images.given import ImageLike
from inpaint.images.job import Filled, FillJob, require_pillow
from inpaint.included import INCLUDED
from inpaint.models.generator import Generator
from inpaint.photographs.crops import fill_crops
from inpaint.photographs.how import How, Strategy
from inpaint.photographs.network import Network
from inpaint.photographs.whole import fill_whole
from inpaint.precision import PreciseNetwork, require_precision

# Warn of holes larger than this many times the largest side in training. A generator of `quickstart` (holes of up to
# 25 px at 64) is 0.6 dB better than Telea at 1.5 times that, 37 px, and 0.8 dB worse at 44 px.
_TOO_LARGE = 1.5


class Options(TypedDict, total=False):
    """What a call takes beside image and mask."""

    strategy: Strategy
    detail: bool
    fidelity: float | None
    grow_mask_px: int
    resize_mask: bool
    invert_mask: bool


class InpaintingPipeline:
    """Fill the white part of a mask in an image.

        pipe = InpaintingPipeline.from_pretrained("runs/quickstart/generator")
        pipe("photo.jpg", "mask.png").save("filled.png")

    Args:
        generator: called as `Generator` is, with heights and widths divisible by its `multiple_px`, if it has one; it
            is moved to `device` and put in evaluation mode. None: the one that comes with the package.
        device: as torch names it; None or "auto" takes CUDA if available, else MPS, else the CPU.
        precision: of the generator's convolutions: float32, in which an image is filled with the same bytes alone and
            among others, bf16 (for GPUs, and for CPUs with AMX) or fp16.
        is_compiled: let `torch.compile` make code for this machine while the first image is filled.

    Raises:
        UsageError: there is no such device or precision.
    """

    def __init__(
        self,
        generator: nn.Module | None = None,
        device: torch.device | str | None = None,
        *,
        precision: str = "float32",
        is_compiled: bool = False,
    ) -> None:
        self.device, self.precision, self.is_compiled = find_device(device), require_precision(precision), is_compiled
        self.generator = (generator or Generator.from_pretrained(INCLUDED)).to(self.device).eval()
        self._between: tuple[nn.Module, float, nn.Module] | None = None

    @classmethod
    def from_pretrained(
        cls,
        id_or_dir: str | Path = INCLUDED,
        revision: str | None = None,
        device: torch.device | str | None = None,
        *,
        precision: str = "float32",
        is_compiled: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> InpaintingPipeline:
        """A pipeline with the generator saved in a directory or on the Hub; see `Generator.from_pretrained`.

        Without a name it is the one that comes with the package: of 64 px, trained on synthetic landscapes alone.

        Raises:
            InpaintError: not found, no access, or not the files of such a generator.
            UsageError: there is no such device or precision.
        """
        device, precision = find_device(device), require_precision(precision)
        generator = Generator.from_pretrained(
            id_or_dir, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        return cls(generator, device, precision=precision, is_compiled=is_compiled)

    def to(self, device: torch.device | str) -> InpaintingPipeline:
        """Move the generator, as a module's `to` does; returns the pipeline itself.

        Raises:
            UsageError: there is no such device.
        """
        self.device = find_device(device)
        self.generator.to(self.device)
        self._between = None
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the generator and its card into a folder, for `from_pretrained`."""
        self._saveable().save_pretrained(folder)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Push the generator and its card to `ORG/NAME`; the commit's address.

        Args:
            options: `private`, `token`, `branch`, `commit_message`, as `huggingface_hub`'s mixin takes them.

        Raises:
            InpaintError: the Hub refuses it or cannot be reached.
        """
        try:
            return str(self._saveable().push_to_hub(repo_id, **options))
        except CLIENT_ERRORS as error:
            raise InpaintError(f"could not push to {repo_id}: {describe(error).reason}") from error

    def __repr__(self) -> str:
        millions = sum(parameter.numel() for parameter in self.generator.parameters()) / 1e6
        of = self.generator.config if isinstance(self.generator, Generator) else ""
        return (
            f"InpaintingPipeline({type(self.generator).__name__}({of}), {millions:.2f} M parameters, on {self.device})"
        )

    def _saveable(self) -> Generator:
        if not isinstance(self.generator, Generator):
            raise UsageError(
                f"the generator is a {type(self.generator).__name__}; only an inpaint.Generator can be saved"
            )
        return self.generator

    @overload
    def __call__(self, image: ImageLike, mask_image: ImageLike, **options: Unpack[Options]) -> Image.Image: ...

    @overload
    def __call__(
        self, image: list[Any], mask_image: list[Any] | ImageLike, **options: Unpack[Options]
    ) -> list[Image.Image]: ...

    def __call__(
        self,
        image: ImageLike | list[Any],
        mask_image: ImageLike | list[Any],
        *,
        strategy: Strategy = "auto",
        detail: bool = True,
        fidelity: float | None = None,
        grow_mask_px: int = 0,
        resize_mask: bool = False,
        invert_mask: bool = False,
    ) -> Image.Image | list[Image.Image]:
        """The image with the hole filled and all other pixels unchanged.

        Grey, 16-bit grey, RGB and transparent images stay what they are; filled pixels are opaque. Palette images
        become RGB (RGBA if transparent), 1-bit ones grey, CMYK and other colour spaces RGB. EXIF rotation is applied. A
        fill is grey where all that is known of the image is. A black mask returns the image unchanged. Pillow cannot
        hold 16-bit colour: use `fill` for it.

        Args:
            image: an open image, a file's path, an array [H, W] or [H, W, 3 or 4], or a tensor [C, H, W], of uint8,
                uint16 or floats in [0, 1] (rounded to 8 bits); or a list of such, or a tensor [B, C, H, W].
            mask_image: the same, or booleans: white (128 of 255 or more) where to fill; transparent parts count as
                black. One for each image, or one for all.
            strategy: `crop` shows the generator each hole in a square around it, scaled down to the size of its
                training images, and suits photographs and holes of any size; `whole` shows it the image at its own
                size, in which it can fill holes of about the size it was trained on; `auto` is `crop` where the image
                is larger than those it was trained on.
            detail: copy into what `crop` filled at a smaller scale the detail of the photograph around it; without it,
                such a fill is smooth.
            fidelity: where between its two ends a generator is used that was trained by reconstruction first and with
                an adversary afterwards: from 0 (sharp), which None means, to 1 (closest to the truth on average, and
                blurred). The weights for the last value stay in memory beside the generator's own.
            grow_mask_px: make the hole larger by so many pixels all around, up to 1,000. By default no pixel outside
                the mask changes; 2 to 10 help where a rim of what is to go is left, for masks are often drawn tight.
            resize_mask: scale a mask of another size to the image's instead of refusing it.
            invert_mask: fill where the mask is black.

        Raises:
            InpaintError: an unreadable image, a mask of another size or without white, too little memory, a generator
                whose output is not finite, `fidelity` for one without a second end, or `crop` for one that does not
                say how large its training images were.
            UsageError: lists of different lengths, one image with several masks, or an option that is not allowed.

        Warns:
            InpaintWarning: a hole to be filled at its own size is much larger than those of the training, the mask
                covers more than 90% of the image, or the file has more frames or pages than the first, which is filled.
        """
        how, network = How(strategy, detail, grow_mask_px), self._at(fidelity)
        several, masks = _several(image), _several(mask_image)
        images = [image] if several is None else several
        if masks is not None and (several is None or len(images) != len(masks)):
            given = "a single one" if several is None else f"a list of {len(images)}"
            raise UsageError(f"give one mask for each image, or one for all; got {given} and a list of {len(masks)}")
        masks = [mask_image] * len(images) if masks is None else masks
        jobs = [
            FillJob.of(*pair, resize_mask, invert_mask).grown(grow_mask_px) for pair in zip(images, masks, strict=True)
        ]
        for job in jobs:
            require_pillow(job.pixels)
        filled = self._fill(jobs, network, how)
        _warn(filled)
        filled_images = [each.to_image() for each in filled]
        return filled_images[0] if several is None else filled_images

    def fill(
        self,
        image: ImageLike,
        mask_image: ImageLike,
        *,
        strategy: Strategy = "auto",
        detail: bool = True,
        fidelity: float | None = None,
        grow_mask_px: int = 0,
        resize_mask: bool = False,
        invert_mask: bool = False,
    ) -> Filled:
        """Like a call with one image, but also for 16-bit colour: known pixels keep 16 bits, the fill has 8 scaled up.

        What it returns has the file's EXIF and resolution, too.

        Raises, warns: as a call does.
        """
        how, network = How(strategy, detail, grow_mask_px), self._at(fidelity)
        job = FillJob.of(image, mask_image, resize_mask, invert_mask).grown(grow_mask_px)
        (filled,) = self._fill([job], network, how)
        _warn([filled])
        return filled

    def fill_jobs(self, jobs: Sequence[FillJob], how: How) -> list[Filled]:
        """Fill what was read and grown already, those of one size together; warnings are in what is returned.

        Raises: as a call does.
        """
        return self._fill(jobs, self._at(None), how)

    def _at(self, fidelity: float | None) -> Network:
        """The generator to fill with."""
        require_fidelity(fidelity)
        if fidelity is None:
            return PreciseNetwork(self.generator, self.device, self.precision, self.is_compiled)
        if not isinstance(self.generator, Generator):
            raise InpaintError(ONE_END)
        if self._between is None or self._between[0] is not self.generator or self._between[1] != fidelity:
            self._between = None  # before another takes its memory
            self._between = self.generator, fidelity, self.generator.at_fidelity(fidelity)
        return PreciseNetwork(self._between[2], self.device, self.precision, self.is_compiled)

    def _fill(self, jobs: Sequence[FillJob], network: Network, how: How) -> list[Filled]:
        in_crops = [how.crops(job.hole.shape, network.size_px) for job in jobs]
        whole = [job for job, is_cropped in zip(jobs, in_crops, strict=True) if not is_cropped]
        of_whole = iter(fill_whole(whole, network))
        return [
            Filled(
                fill_crops(job, network, how.detail) if is_cropped else next(of_whole),
                job.about.icc_profile,
                int(job.hole.sum()),
                "; ".join(text for text in (job.warning, None if is_cropped else self._warning(job)) if text) or None,
                job.about.exif,
                job.about.dpi,
            )
            for job, is_cropped in zip(jobs, in_crops, strict=True)
        ]

    def _warning(self, job: FillJob) -> str | None:
        """What to say of an image that is filled at its own size, if its hole is too large for that."""
        learnt_px = self.generator.config.hole_max_px if isinstance(self.generator, Generator) else None
        largest_px = job.largest_square_px() if learnt_px else 0
        if not learnt_px or largest_px <= _TOO_LARGE * learnt_px:
            return None
        return (
            f"a hole is up to {largest_px} px wide and high, but this generator was trained on holes of up to "
            f"{learnt_px} px: the middle will be wrong; fill it hole by hole (strategy crop), or scale the image "
            f"down by {largest_px / learnt_px:.1f} first"
        )


def _warn(filled: Sequence[Filled]) -> None:
    """Each warning once, as from the line that called the pipeline."""
    for warning in dict.fromkeys(each.warning for each in filled if each.warning):
        warnings.warn(warning, InpaintWarning, stacklevel=3)


def _several(value: ImageLike | list[Any]) -> list[Any] | None:
    """The images of a list or of a tensor [B, C, H, W]; None of a single one."""
    return list(value) if isinstance(value, list) or (isinstance(value, Tensor) and value.ndim == 4) else None


def find_device(name: torch.device | str | None) -> torch.device:
    """A device by its name; of `auto` or None the fastest kind that there is.

    Raises:
        UsageError: it cannot be used.
    """
    if name is None or name == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else mps)
    try:
        device = torch.zeros(1, device=name)
        device.cpu()  # the device "meta" holds no numbers
        return device.device
    except (RuntimeError, AssertionError) as error:  # NotImplementedError is a RuntimeError
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"device {str(name)!r} cannot be used ({reason}); use auto, cuda, mps or cpu") from error
