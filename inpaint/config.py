"""Owns the settings: each with its type, range, default (the paper's base network) and a line of explanation."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import Annotated, Literal, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from inpaint.errors import shorten
from inpaint.hints import hint
from inpaint.holes.spec import AREA, HoleSpec
from inpaint.tables import (
    ADVERSARIAL_LOSSES,
    DISCRIMINATOR_LOSSES,
    DISCRIMINATORS,
    GENERATORS,
    HOLES,
    LOSSES,
    PENALTIES,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]


def known(name: str, table: Mapping[str, str]) -> str:
    """`name`, if `table` has it; else ValueError with what was meant."""
    if name not in table:
        nearest = f"{meant} A" if (meant := hint(name, [*table])) else "a"
        raise ValueError(f"there is no {shorten(name)}; {nearest}llowed: {', '.join(table)}")
    return name


HoleName = Annotated[str, AfterValidator(partial(known, table=HOLES))]
HoleKinds = Annotated[dict[HoleName, Positive], Field(min_length=1)]


class Section(BaseModel):
    """A group of settings: immutable, strict about types, closed to unknown keys. Every setting needs a docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class DataConfig(Section):
    path: Text | None = None
    """A folder, tar or zip of images, a folder of parquet shards or a Hub dataset; null: synthetic landscapes."""
    image_size: Annotated[int, Field(ge=16, le=1024)] = 64
    """Side in pixels; images are cropped square and area-downsampled to it."""
    holes: Literal["stored", "resampled"] = "stored"
    """`stored`: each image keeps one fixed hole; `resampled`: a new hole every epoch."""
    hole_kinds: HoleKinds = {"rectangle": 1.0}
    """Kinds of holes, each with its weight in the mixture; kinds other than rectangle need `holes: resampled`."""
    local_real: Literal["random", "hole"] = "random"
    """The window of a real image that the local discriminator sees: a random one (paper) or the one around the hole."""
    hole_min_px: Count | None = None
    """Smallest side of a hole in pixels; null: 20 at an image_size of 64, and in proportion."""
    hole_max_px: Count | None = None
    """Largest side of a hole in pixels; null: 25 at an image_size of 64, and in proportion."""
    hole_area: tuple[Fraction, Fraction] = AREA
    """Smallest and largest area of holes of kinds other than rectangle, as shares of the image; even in between."""
    window_px: Count | None = None
    """Side in pixels of the local discriminator's window; null: 28 at an image_size of 64, and in proportion."""
    flip: bool = False
    """Mirror a random half of the training images left to right, a new half every epoch."""
    max_bad_fraction: Fraction = 0.05
    """Stop if more than this share of the images cannot be read."""
    cache_dir: Text | None = None
    """Where decoded images are kept; null: $INPAINT_CACHE, else $XDG_CACHE_HOME/inpaint, else ~/.cache/inpaint."""
    device_cache: Literal["auto", "on", "off"] = "auto"
    """Keep the whole training split in GPU memory; `auto`: if it needs at most a quarter of what is free."""
    streaming: bool = False
    """Read parquet shards while training instead of decoding them into the cache first: for data beyond the disk."""
    stream_window: Count = 8192
    """With `streaming`: size of the shuffle buffer, in images, over all processes; they are held undecoded."""
    synthetic_train: Count = 16384
    """Number of synthetic training images, used without `path`."""
    synthetic_clutter: Fraction = 0.0
    """Share of the synthetic training images with rough ground and things that stand about, as in photographs."""
    synthetic_held_out: Count = 1024
    """Number of synthetic images in the validation split, and again in the test split."""

    @property
    def hole_spec(self) -> HoleSpec:
        """The geometry of the holes at `image_size`."""
        return HoleSpec.scaled(self.image_size, self.hole_min_px, self.hole_max_px, self.window_px, self.hole_area)

    @property
    def largest_square_px(self) -> int:
        """Side of the largest square in a hole, taking other kinds than rectangles as discs of their area."""
        kinds = set(self.hole_kinds)
        of_others = round((2 / math.pi * self.hole_area[1]) ** 0.5 * self.image_size) if kinds - {"rectangle"} else 1
        return max(of_others, self.hole_spec.max_px if "rectangle" in kinds else 1)

    @model_validator(mode="after")
    def _fits_together(self) -> DataConfig:
        if self.streaming and self.path is None:
            raise ValueError("data.streaming needs data.path: synthetic landscapes are not streamed")
        if self.streaming and self.device_cache == "on":
            raise ValueError("data.streaming and data.device_cache = on exclude each other; use device_cache = auto")
        if self.holes == "stored" and self.hole_kinds.keys() != {"rectangle"}:
            raise ValueError(
                f"data.holes = stored is each image's own rectangle; for data.hole_kinds = {self.hole_kinds} use "
                "data.holes = resampled, which draws new ones each epoch"
            )
        if faults := self.hole_spec.faults():
            raise ValueError("; ".join(faults))
        return self


class ModelConfig(Section):
    generator: Annotated[str, AfterValidator(partial(known, table=GENERATORS))] = "dilated"
    """The generator's architecture."""
    discriminator: Annotated[str, AfterValidator(partial(known, table=DISCRIMINATORS))] = "fused"
    """The discriminator's architecture; `fused` is the paper's pair, which looks at the image and at a window."""
    width: Annotated[int, Field(ge=2, le=512, multiple_of=2)] = 64
    """Channels of the first layer of each network; those of the other layers are multiples of it."""
    bottleneck: Annotated[int, Field(ge=1, le=4)] = 4
    """Number of dilated convolutions in the middle of the generator."""
    global_average_pooling: bool = False
    """End each discriminator in global average pooling and a linear layer, instead of flattening and a linear layer."""
    mask_channel: bool = False
    """Give the generator the mask as a fourth input channel."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation after each convolution; `group` treats each image separately."""
    discriminator_input: Literal["output", "composite"] = "output"
    """What the discriminators see as fake: the whole output (paper), or the real image with the hole filled from it."""


class LossConfig(Section):
    reconstruction_weight: Weight = 1.0
    """Weight of the mean squared error: w1 of equation (3)."""
    adversarial_weight: Weight = 1.0
    """Weight of the adversarial loss: w2 of equation (3)."""
    reconstruction_region: Literal["image", "hole"] = "image"
    """Where the mean squared error is taken: over the whole image (paper: M_c is all ones), or over the hole only."""
    objective: Literal["bce", "hinge", "relativistic"] = "bce"
    """The adversarial loss: `bce` (paper), `hinge`, or `relativistic`: how much more real one looks than the other."""
    judged_region: Literal["image", "hole"] = "image"
    """Which logits of a patch discriminator count: all, or those on patches that are at least 0.3 hole."""
    adversarial_warmup_kimg: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Rise of the weights of `adversarial` and `feature_matching` from zero, in thousands of images."""
    penalty_every: Count = 16
    """Steps between those in which the penalties `r1` and `r2` count, if `terms` weighs them; then that much more."""
    terms: dict[str, Weight] = {}
    """Weights of further losses by name, such as {charbonnier: 1.0}; `real` and `fake` weigh 1 unless named here."""

    @field_validator("terms")
    @classmethod
    def _terms_are_losses(cls, terms: dict[str, float]) -> dict[str, float]:
        for name in terms:
            known(name, LOSSES | ADVERSARIAL_LOSSES | DISCRIMINATOR_LOSSES)
            if f"{name}_weight" in cls.model_fields:
                raise ValueError(f"{name} has a setting of its own, loss.{name}_weight")
        return terms

    @property
    def penalties(self) -> list[str]:
        """Those of the discriminator's slope that weigh anything."""
        return [name for name in PENALTIES if self.terms.get(name)]

    @property
    def weights(self) -> dict[str, float]:
        """Those of all losses in the steps in which they count."""
        paper = {"reconstruction": self.reconstruction_weight, "adversarial": self.adversarial_weight}
        lazy = {name: self.penalty_every * self.terms[name] for name in self.penalties}
        return {**paper, "real": 1.0, "fake": 1.0, **self.terms, **lazy}


class OptimizerConfig(Section):
    generator_learning_rate: Positive = 2e-4
    """Adam's learning rate for the generator."""
    discriminator_learning_rate: Positive = 2e-4
    """Adam's learning rate for the discriminators."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Adam's decay rate of the mean of the gradients, for both networks."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Adam's decay rate of the mean of the squared gradients, for both networks."""
    schedule: Literal["constant", "linear", "late_linear", "cosine"] = "constant"
    """How the learning rates decay to zero at the last image of the run, or not at all; `late_linear`: from halfway."""
    warmup_kimg: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Warm-up of the learning rates from zero, in thousands of images."""
    gradient_clip: Positive | None = None
    """Clip the gradient of each network to this norm; null: no clipping."""


class TrainingConfig(Section):
    epochs: Count = 10
    """Passes over the training split."""
    max_steps: Count | None = None
    """Stop after this many optimizer steps, even in the middle of an epoch; null: no limit."""
    phases: tuple[Fraction, Fraction, Fraction] = (0.33, 0.33, 0.34)
    """Shares of generator alone, discriminators alone, and both; they sum to 1."""
    phases_per: Literal["epoch", "run"] = "epoch"
    """Whether every epoch goes through the three phases (paper), or the whole run does so once."""
    global_batch_size: Count = 128
    """Images in one optimizer step, over all processes."""
    micro_batch_size: Count | None = None
    """Images in one forward pass of a process, with gradients accumulated; null: global_batch_size / processes."""
    precision: Literal["auto", "float32", "bf16", "fp16", "float64"] = "auto"
    """`auto`: the run's own; for a new run the launcher's, else float32 (on NVIDIA GPUs with TF32 convolutions)."""
    num_threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads of each process; null: the run's own; for a new run the machine's cores / processes."""
    seed: Seed = 0
    """Seed of the initial weights, of the order of the images, and of their holes and flips."""
    log_every: Count = 20
    """Steps between lines of metrics.jsonl."""
    compile: bool = False
    """Compile both networks with torch.compile, which takes about a minute; ignored where there is no compiler."""
    timeout_s: Annotated[float, Field(ge=5, le=86_400)] = 300.0
    """Seconds that a process waits for the others before it ends the run."""
    max_rollbacks: Annotated[int, Field(ge=0)] = 3
    """How many times a run may go back to its last checkpoint after a loss that is not finite."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Where metrics and sample grids go besides the run directory; each needs the extra of its name."""

    @field_validator("phases")
    @classmethod
    def _phases_sum_to_one(cls, phases: tuple[float, float, float]) -> tuple[float, float, float]:
        if abs(sum(phases) - 1) > 1e-6:
            raise ValueError(f"must sum to 1; got {' + '.join(map(str, phases))} = {sum(phases):.6g}")
        return phases


class EmaConfig(Section):
    half_life_kimg: Positive | None = 10.0
    """Half-life of the moving average of the generator's weights, in thousands of images; null: no average."""
    ramp_up: Fraction = 0.05
    """The half-life is at most this share of the images seen so far, so that the start is forgotten; 0: no average."""


class CheckpointingConfig(Section):
    every_steps: Count | None = None
    """Steps between checkpoints; null: only by time. The end of the run always writes one."""
    every_minutes: Positive | None = 10.0
    """Minutes between checkpoints; null: only by steps."""
    keep: Count = 2
    """How many of the newest checkpoints to keep, besides the best."""


class EvaluationConfig(Section):
    every_epochs: Count = 1
    """Epochs between evaluations on the validation split."""
    num_pictures: Count = 512
    """Validation images measured in each evaluation; the final report uses the whole test split."""
    num_samples: Annotated[int, Field(ge=1, le=120)] = 30
    """Validation images in the grid of samples (paper: 30)."""
    best_by: Literal["hole_psnr", "distance", "last"] = "last"
    """Whose weights `generator/` ends with: the best epoch's on validation images, or the last."""


class HubConfig(Section):
    repo_id: Text | None = None
    """Repository ORG/NAME on the Hugging Face Hub to push to; null: nothing is pushed."""
    private: bool = False
    """Make the repository private; a public one that exists is then refused."""
    push_every: Literal["epoch", "best", "end"] = "end"
    """Push after every epoch, after every new best epoch, or once; the end of the run is always pushed."""
    push_checkpoint: bool = False
    """Push the newest full checkpoint too, so that the run can be resumed elsewhere."""
    wait_minutes: Positive = 15.0
    """How long the end of the run waits for pending pushes; the rest stay queued for `inpaint push`."""


class Config(Section):
    """All settings of one run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    ema: EmaConfig = EmaConfig()
    checkpointing: CheckpointingConfig = CheckpointingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    hub: HubConfig = HubConfig()

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, default_flow_style=None)

    def explained(self) -> str:
        """A config file of all settings, each under a comment of what it means and which values it may have."""
        lines = ["# All settings; a config file needs only those that it changes."]
        for name, setting in settings():
            section, _, key = name.partition(".")
            value = self.model_dump(mode="json")[section][key]
            lines += [] if f"{section}:" in lines else ["", f"{section}:"]
            allowed = f" ({' | '.join(choices)})" if (choices := choices_of(name, setting)) else ""
            in_braces = yaml.safe_dump({key: value}, default_flow_style=True, width=10_000, allow_unicode=True).strip()
            lines += [f"  # {setting.description}{allowed}", f"  {in_braces[1:-1]}"]
        return "\n".join(lines)

    def fingerprint(self) -> str:
        """A short hash of all values, which must be equal in all processes."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]


def settings() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting's dotted name with its type, default and description."""
    for section, field in Config.model_fields.items():
        assert isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for name, setting in field.annotation.model_fields.items():
            yield f"{section}.{name}", setting


def choices_of(name: str, setting: FieldInfo) -> list[str]:
    """The values, or the names to weigh, that a setting may have, where they are few; else nothing."""
    tables = {"model.generator": GENERATORS, "model.discriminator": DISCRIMINATORS, "data.hole_kinds": HOLES}
    tables["loss.terms"] = LOSSES | ADVERSARIAL_LOSSES | DISCRIMINATOR_LOSSES
    if name in tables:
        return [entry for entry in tables[name] if f"{entry}_weight" not in LossConfig.model_fields]
    if setting.annotation is bool:
        return ["true", "false"]
    return [*get_args(setting.annotation)] if get_origin(setting.annotation) is Literal else []


@cache
def is_text(key: str) -> bool:
    """Whether a setting is free text, which is kept as written; False for an unknown name."""
    setting = dict(settings()).get(key)
    return setting is not None and Text in get_args(setting.annotation)
