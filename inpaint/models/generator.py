"""Owns the generator, whatever its architecture: image with a black hole in, whole image out, and its files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, get_args

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from inpaint.config import Config
from inpaint.errors import InpaintError, UsageError, shorten
from inpaint.fidelity import ONE_END, RECONSTRUCTION_FILE, require_fidelity
from inpaint.hub.errors import CLIENT_ERRORS, redact
from inpaint.models.layers import Norm
from inpaint.tables import GENERATORS, load

# What `save_pretrained` writes as README.md where none is; whoever knows the run fills in more (`inpaint.hub.card`).
MODEL_CARD = Path(__file__).parents[1] / "hub" / "model_card.md"


@dataclass(frozen=True)
class GeneratorConfig:
    """The generator's shape; a plain dataclass, since the Hub mixin writes no config.json from anything else.

    Args:
        width: channels of the first layer; the others are 2 and 4 times that (paper: 64).
        bottleneck: dilated convolutions in the middle, 1 to 4, with dilations 2, 4, 8, 16 (paper: 4; Table 1 also 3).
        mask_channel: whether the mask is a fourth input (paper: no, it sees only the image with a black region).
        norm: `batch` (GLCIC), `group` or `none`.
        architecture: of `tables.GENERATORS`; a config.json without it is of before there were others than `dilated`.
        image_size: side in pixels of the images it was trained on; None: not recorded. No part of its shape.
        hole_max_px: side in pixels of the largest square in the holes it was trained on; the same.
        has_reconstruction: whether its files hold a second end (`Generator.reconstruction`); no part of its shape.

    Raises:
        InpaintError: a value of the wrong type or out of range; configs from the Hub come through here.
    """

    width: int = 64
    bottleneck: int = 4
    mask_channel: bool = False
    norm: Norm = "batch"
    architecture: str = "dilated"
    image_size: int | None = field(default=None, compare=False)
    hole_max_px: int | None = field(default=None, compare=False)
    has_reconstruction: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        allowed = {
            "width": (type(self.width) is int and 2 <= self.width <= 512 and self.width % 2 == 0, "even, 2 to 512"),
            "bottleneck": (type(self.bottleneck) is int and 1 <= self.bottleneck <= 4, "1, 2, 3 or 4"),
            "mask_channel": (type(self.mask_channel) is bool, "true or false"),
            "has_reconstruction": (type(self.has_reconstruction) is bool, "true or false"),
            "norm": (self.norm in get_args(Norm), "batch, group or none"),
            "architecture": (self.architecture in [*GENERATORS], " or ".join(GENERATORS)),
            **{name: (_is_px(getattr(self, name)), "1 or more, or null") for name in ("image_size", "hole_max_px")},
        }
        wrong = {name: rule for name, (is_right, rule) in allowed.items() if not is_right}
        if wrong:
            faults = (f"{name} is {shortened(getattr(self, name))}; allowed: {rule}" for name, rule in wrong.items())
            raise InpaintError("the generator's config is wrong: " + "; ".join(faults))

    @classmethod
    def for_run(cls, config: Config) -> GeneratorConfig:
        """That of the generator which a run with these settings trains.

        Raises:
            UsageError: images of this size do not fit the architecture.
        """
        model, size = config.model, config.data.image_size
        if size % (px := load(GENERATORS, model.generator).multiple_px):
            raise UsageError(
                f"data.image_size = {size}: must be a multiple of {px} for model.generator = {model.generator}; use "
                f"{size - size % px} or {size - size % px + px}"
            )
        shape = (model.width, model.bottleneck, model.mask_channel, model.norm, model.generator)
        return cls(*shape, size, config.data.largest_square_px)

    @classmethod
    def from_dict(cls, values: Any) -> GeneratorConfig:
        """The config from parsed JSON; refuses keys it does not know, for they would change what the weights mean."""
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict):
            raise InpaintError(f"the generator's config is wrong: a {type(values).__name__}, not keys and values")
        if unknown := sorted(set(values) - names):
            raise InpaintError(
                f"the generator's config is wrong: {shortened(unknown)} unknown; allowed keys: {sorted(names)}"
            )
        return cls(**values)


class Generator(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="inpaint",
    pipeline_tag="image-to-image",
    license="apache-2.0",
    tags=["inpaint", "image-inpainting", "gan", "landscapes"],
    model_card_template=MODEL_CARD.read_text(encoding="utf-8"),
):
    """Fill the black hole of an image of any height and width divisible by `multiple_px`.

    Around an architecture, `layers`: a module made from a `GeneratorConfig` and called as this one is, which says what
    sizes it takes (`multiple_px`) and what memory (`inference_bytes_per_px`).

    Attributes:
        reconstruction: on the CPU, the state of when the training by reconstruction alone ended, where the adversary
            joined in afterwards; None: there is no such second end.
    """

    reconstruction: dict[str, Tensor] | None = None

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GeneratorConfig()
        self.layers = load(GENERATORS, config.architecture)(config)

    @property
    def multiple_px(self) -> int:
        """What height and width must be divisible by."""
        return self.layers.multiple_px

    def forward(self, masked_image: Tensor, mask: Tensor) -> Tensor:
        """The output image.

        Args:
            masked_image: [B, 3, H, W] in [0, 1], black (0) in the hole; H and W divisible by `multiple_px`.
            mask: [B, 1, H, W], 1 in the hole; read only with `mask_channel`.

        Returns:
            [B, 3, H, W] in [0, 1].

        Raises:
            ValueError: H or W is not divisible by `multiple_px`.
        """
        (height, width), px = masked_image.shape[-2:], self.multiple_px
        if height % px or width % px:
            raise ValueError(f"height and width must be divisible by {px}; got {height} x {width}: pad the image first")
        return self.layers(masked_image, mask)

    def inference_bytes(self, height: int, width: int) -> int:
        """About how much memory the filling of one image takes at most, in and out included and weights not."""
        return height * width * self.layers.inference_bytes_per_px

    @classmethod
    def of(
        cls,
        config: GeneratorConfig,
        weights: Mapping[str, Tensor],
        reconstruction: Mapping[str, Tensor] | None = None,
    ) -> Generator:
        """The generator of these weights, which become as wide as its own would be; nothing is drawn or copied."""
        with torch.device("meta"):
            generator = cls(config)
        kinds = {name: tensor.dtype for name, tensor in generator.state_dict().items()}
        generator.load_state_dict({name: tensor.to(kinds[name]) for name, tensor in weights.items()}, assign=True)
        if reconstruction:
            generator.reconstruction = {name: reconstruction[name].to(kind) for name, kind in kinds.items()}
        return generator.eval()

    def at_fidelity(self, fidelity: float) -> Generator:
        """A generator between the two ends, itself at 0: parameters and running statistics are interpolated linearly.

        Args:
            fidelity: 0 is the adversarial end, these weights; 1 is `reconstruction`.

        Raises:
            UsageError: `fidelity` is no number from 0 to 1.
            InpaintError: there is no second end.
        """
        require_fidelity(fidelity)
        if self.reconstruction is None:
            raise InpaintError(ONE_END)
        if not fidelity:
            return self
        weights = {}
        for name, start in self.state_dict().items():
            end = self.reconstruction[name].to(start)
            # BatchNorm's counts are no floats and change nothing.
            weights[name] = start.lerp(end, float(fidelity)) if start.is_floating_point() else end
        return Generator.of(self.config, weights)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        facts = {"image_size": self.config.image_size, "has_reconstruction": self.reconstruction is not None}
        return super().generate_model_card(*args, **{**facts, **kwargs})

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        config = replace(self.config, has_reconstruction=self.reconstruction is not None)
        (save_directory / constants.CONFIG_NAME).write_text(json.dumps(asdict(config), indent=2) + "\n")
        if self.reconstruction is None:  # one that was saved here before may have had it
            (save_directory / RECONSTRUCTION_FILE).unlink(missing_ok=True)
        else:
            save_file(self.reconstruction, save_directory / RECONSTRUCTION_FILE)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        **download: Any,
    ) -> Generator:
        """The generator saved in a directory or on the Hub, in evaluation mode.

        Reads only JSON and safetensors, and compares every tensor's name, shape and kind with the config before
        anything is allocated.

        Args:
            pretrained_model_name_or_path: a directory written by `save_pretrained`, or `ORG/NAME` on the Hub.
            revision: branch, tag or commit on the Hub.
            device: where the weights go.
            download: `token` (by default the login's), `cache_dir`, `force_download` and `local_files_only`, as
                `hf_hub_download` takes them.

        Raises:
            InpaintError: not found, no access, or not the files of such a generator.
        """
        given = str(pretrained_model_name_or_path)
        source = given if len(given) <= 200 else shorten(given)  # a path is wanted whole

        def fetch(name: str) -> Path:
            if os.path.isdir(given):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
                if not (Path(given) / name).is_file():
                    raise InpaintError(f"{source} holds no {name}; give a folder that save_pretrained wrote")
                return Path(given) / name
            if "/" not in given:
                raise InpaintError(f"there is no folder {source}, and a Hub id has two parts, such as ORG/NAME")
            if os.path.isdir(parent := os.path.dirname(given.rstrip("/"))):  # noqa: PTH112, PTH120 - as above
                raise InpaintError(f"{source} does not exist, though the folder {parent} does; so it is no Hub id")
            try:
                path = hf_hub_download(given, name, revision=revision, **download)
            except HFValidationError as error:
                raise InpaintError(f"{source!r} is neither a folder nor a Hub id such as ORG/NAME") from error
            except LocalEntryNotFoundError as error:
                raise InpaintError(
                    f"{source}: {name} is not in the cache and the Hub could not be asked; "
                    "check the name, the network and HF_HUB_OFFLINE"
                ) from error
            except EntryNotFoundError as error:
                raise InpaintError(f"{source} on the Hub holds no {name}: it is no generator of this kind") from error
            except CLIENT_ERRORS as error:
                first_line = next(iter(redact(str(error)).strip().splitlines()), type(error).__name__)
                raise InpaintError(f"{source} could not be fetched from the Hub: {first_line}") from error
            return Path(path)

        try:
            config = GeneratorConfig.from_dict(json.loads(fetch(constants.CONFIG_NAME).read_bytes()))
        except (ValueError, RecursionError) as error:
            raise InpaintError(f"{source}: {constants.CONFIG_NAME} is not JSON ({error})") from error
        with torch.device("meta"):
            generator = cls(config)
        expected = generator.state_dict()
        file = fetch(constants.SAFETENSORS_SINGLE_FILE)
        generator.load_state_dict(read_tensors(file, expected, source, device), assign=True)
        if config.has_reconstruction:
            generator.reconstruction = read_tensors(fetch(RECONSTRUCTION_FILE), expected, source, "cpu")
        return generator.eval()


def _is_px(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 1)


def read_tensors(path: Path, expected: dict[str, Tensor], source: str, device: str | torch.device) -> dict[str, Tensor]:
    """The tensors of a safetensors file, after its header was found to match `expected` name by name.

    Floats of any precision are taken, and become as wide as expected.
    """

    def kind(dtype: str) -> str:
        return "float" if dtype in ("F64", "F32", "F16", "BF16") else dtype

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {name: f"{kind(part.get_dtype())} {part.get_shape()}" for name, part in slices.items()}
            wanted = {
                name: f"{'float' if tensor.is_floating_point() else 'I64'} {list(tensor.shape)}"
                for name, tensor in expected.items()
            }
            faults = [f"{name} is missing" for name in wanted.keys() - found.keys()]
            faults += [f"{shortened(name)} is unknown" for name in found.keys() - wanted.keys()]
            both = wanted.keys() & found.keys()
            faults += [f"{name} is {found[name]}, not {wanted[name]}" for name in both if wanted[name] != found[name]]
            if faults:
                more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
                raise InpaintError(
                    f"{source}: {path.name} does not fit its config: {'; '.join(sorted(faults)[:3])}{more}"
                )
            return {name: file.get_tensor(name).to(tensor.dtype) for name, tensor in expected.items()}
    except SafetensorError as error:
        raise InpaintError(f"{source}: {path.name} is damaged or no safetensors file ({error})") from error
