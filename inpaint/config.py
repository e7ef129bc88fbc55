"""Owns what can be set: every setting with its type, its range and its default, which is the paper's base network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from inpaint.holes.spec import HoleSpec

Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A group of settings: immutable, strict about types, and without room for a key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class DataConfig(Section):
    path: Text | None = None
    """A folder, tar or zip of pictures, a folder of parquet shards or a Hub dataset; null: landscapes made up."""
    image_size: Annotated[int, Field(ge=16, le=1024, multiple_of=4)] = 64
    """Side in pixels to which pictures are cropped and area-downsampled."""
    holes: Literal["stored", "resampled"] = "stored"
    """`stored`: each picture keeps the hole written down for it; `resampled`: a new one each epoch."""
    local_real: Literal["random", "hole"] = "random"
    """Which window of a real picture the local discriminator sees: a random one (paper) or the hole's."""
    hole_min_px: Count | None = None
    """Smallest side of a hole; null: 20 at 64, scaled with image_size."""
    hole_max_px: Count | None = None
    """Largest side of a hole; null: 25 at 64, scaled."""
    window_px: Count | None = None
    """Side of the local window around the hole; null: 28 at 64, scaled."""
    flip: bool = False
    """Mirror half of the training pictures left to right, anew each epoch."""
    max_bad_fraction: Fraction = 0.05
    """Stop if more than this share of the pictures cannot be read."""
    cache_dir: Text | None = None
    """Where decoded pictures are kept; null: $INPAINT_CACHE, else $XDG_CACHE_HOME/inpaint, else ~/.cache/inpaint."""
    device_cache: Literal["auto", "on", "off"] = "auto"
    """Keep the whole training split in the GPU's memory; `auto`: if it takes no more than a quarter of what is free."""
    streaming: bool = False
    """Read parquet shards while training instead of decoding them into the cache first: for data beyond the disk."""
    stream_window: Count = 8192
    """With `streaming`: how many pictures all processes together hold in memory, as files; most of them are mixed."""
    synthetic_train: Count = 16384
    """How many pictures are made up for training where there is no path."""
    synthetic_held_out: Count = 1024
    """How many are made up for validation, and for the test, each."""

    @property
    def hole_spec(self) -> HoleSpec:
        """The geometry of the holes at `image_size`."""
        return HoleSpec.scaled(self.image_size, self.hole_min_px, self.hole_max_px, self.window_px)

    @model_validator(mode="after")
    def _streaming_fits(self) -> DataConfig:
        if self.streaming and self.path is None:
            raise ValueError("data.streaming needs data.path: made-up landscapes are not streamed")
        if self.streaming and self.device_cache == "on":
            raise ValueError("data.streaming and data.device_cache = on exclude one another; use auto")
        return self

    @model_validator(mode="after")
    def _holes_fit(self) -> DataConfig:
        if faults := self.hole_spec.faults():
            raise ValueError("; ".join(faults))
        return self


class ModelConfig(Section):
    width: Annotated[int, Field(ge=2, le=512, multiple_of=2)] = 64
    """Channels of both networks' first layers; the others are multiples of it."""
    bottleneck: Annotated[int, Field(ge=1, le=4)] = 4
    """Dilated convolutions in the middle of the generator."""
    global_average_pooling: bool = False
    """Discriminator heads of global average pooling and one layer instead of flattening and one layer."""
    mask_channel: bool = False
    """Give the generator the mask as a fourth input."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation after each convolution; `group` does not look across pictures."""
    discriminator_input: Literal["output", "composite"] = "output"
    """What the discriminators see of a generated picture: all of it (paper), or the hole set into the real one."""


class LossConfig(Section):
    reconstruction_weight: Weight = 1.0
    """w1 of equation (3)."""
    adversarial_weight: Weight = 1.0
    """w2 of equation (3)."""
    reconstruction_region: Literal["image", "hole"] = "image"
    """Where the mean squared error is taken: M_c all ones (paper), or the hole only."""


class OptimizerConfig(Section):
    generator_learning_rate: Positive = 2e-4
    discriminator_learning_rate: Positive = 2e-4
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rates fall to zero until the last picture of the run."""
    warmup_kimg: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Thousands of pictures over which the rates rise from zero."""
    gradient_clip: Positive | None = None
    """Largest norm of each network's gradient; null: not clipped."""


class TrainingConfig(Section):
    epochs: Count = 10
    max_steps: Count | None = None
    """Stop after so many steps, even in the middle of an epoch."""
    phases: tuple[Fraction, Fraction, Fraction] = (0.33, 0.33, 0.34)
    """Shares of each epoch: generator alone, discriminators alone, both."""
    global_batch_size: Count = 128
    """Pictures in one optimizer step over all processes."""
    micro_batch_size: Count | None = None
    """Pictures a process handles at once; null: global / processes. Smaller ones are accumulated."""
    precision: Literal["auto", "float32", "bf16", "fp16", "float64"] = "auto"
    """`auto`: the run's; for a new one the launcher's, else float32, which on NVIDIA GPUs means TF32 convolutions."""
    num_threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads of each process; null: what the run began with; for a new one the machine's cores / processes."""
    seed: Seed = 0
    log_every: Count = 20
    """Steps between two lines of metrics.jsonl."""
    compile: bool = False
    """Compile both networks with torch.compile, which takes about a minute; without a compiler they run as they are."""
    timeout_s: Annotated[float, Field(ge=5, le=86_400)] = 300.0
    """How long a process waits for the others before it gives them up."""
    max_rollbacks: Annotated[int, Field(ge=0)] = 3
    """How often a run may go back to a checkpoint because of a loss that is not finite."""
    tracker: Literal["none", "tensorboard"] = "none"
    """Where the metrics go besides metrics.jsonl."""

    @field_validator("phases")
    @classmethod
    def _phases_sum_to_one(cls, phases: tuple[float, float, float]) -> tuple[float, float, float]:
        if abs(sum(phases) - 1) > 1e-6:
            raise ValueError(f"must sum to 1; got {' + '.join(map(str, phases))} = {sum(phases):.6g}")
        return phases


class EmaConfig(Section):
    half_life_kimg: Positive | None = 10.0
    """Thousands of pictures after which a weight's share in the average has halved; null: no average."""
    ramp_up: Fraction = 0.05
    """The half-life is at most this share of the pictures seen, so that the start is forgotten; 0: no average."""


class CheckpointingConfig(Section):
    every_steps: Count | None = None
    """Steps between checkpoints; one is written at the end in any case."""
    every_minutes: Positive | None = 10.0
    """Minutes between checkpoints."""
    keep: Count = 2
    """How many of the newest stay, beside the best."""


class EvaluationConfig(Section):
    every_epochs: Count = 1
    num_pictures: Count = 512
    """Held-out pictures measured after an epoch; the final table takes all of the test split."""
    num_samples: Annotated[int, Field(ge=1, le=120)] = 30
    """Validation pictures in the grid after each epoch (paper: 30)."""


class HubConfig(Section):
    repo_id: Text | None = None
    """ORG/NAME to push to while training; null: nothing is pushed."""
    private: bool = False
    push_every: Literal["epoch", "best", "end"] = "end"
    """After each epoch, after each that is the best so far, or once; the end is pushed in any case."""
    push_checkpoint: bool = False
    """Take the newest full checkpoint along, so that the run can be resumed elsewhere."""
    wait_minutes: Positive = 15.0
    """How long the end of the run waits for what is still to be pushed; the rest stays queued for `inpaint push`."""


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

    def fingerprint(self) -> str:
        """A short hash of every value: equal on all processes, or they do not run the same thing."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]


def settings() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting's dotted name with its type, default and description."""
    for section, field in Config.model_fields.items():
        assert isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for name, setting in field.annotation.model_fields.items():
            yield f"{section}.{name}", setting


@cache
def is_text(key: str) -> bool:
    """Whether a setting is free text, which stays as it is written; False for a name that there is not."""
    setting = dict(settings()).get(key)
    return setting is not None and Text in get_args(setting.annotation)
