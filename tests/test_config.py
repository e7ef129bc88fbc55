"""What is set: defaults < preset or file < flags, one validation, and every fault told in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from configuring import config, faults

from inpaint.arguments import parse_arguments
from inpaint.config import Config, DataConfig, EvaluationConfig
from inpaint.errors import UsageError
from inpaint.resolve import flat, load_config, preset_names
from inpaint.training.schedule import Phases

TABLE_1 = {
    "paper/phases-20-50-30": {"training.phases": [0.2, 0.5, 0.3]},
    "paper/phases-20-30-50": {"training.phases": [0.2, 0.3, 0.5]},
    "paper/mse-adv-10": {"loss.reconstruction_weight": 10.0},
    "paper/mse-adv-100": {"loss.reconstruction_weight": 100.0},
    "paper/batch-256": {"training.global_batch_size": 256},
    "paper/global-average-pooling": {"model.global_average_pooling": True},
    "paper/bottleneck-3": {"model.bottleneck": 3},
}
FINAL = {"training.epochs": 220, "training.phases": [0.2, 0.5, 0.3], "loss.reconstruction_weight": 10.0}


# --- presets


def test_the_defaults_are_the_papers_base_network() -> None:
    base = config("--config", "paper/original")
    assert base == Config(evaluation=EvaluationConfig(best_by="hole_psnr"))
    assert base.training.phases == (0.33, 0.33, 0.34)
    assert base.training.global_batch_size == 128
    assert (base.loss.reconstruction_weight, base.loss.adversarial_weight) == (1, 1)
    assert (base.model.bottleneck, base.model.global_average_pooling, base.model.mask_channel) == (4, False, False)
    spec = base.data.hole_spec
    assert (spec.image_size, spec.min_px, spec.max_px, spec.window_px) == (64, 20, 25, 28)


@pytest.mark.parametrize(("name", "changes"), [*TABLE_1.items(), ("paper/final", FINAL)])
def test_a_paper_preset_differs_from_the_base_in_what_it_says(name: str, changes: dict[str, Any]) -> None:
    base, other = (flat(load_config(each).model_dump(mode="json")) for each in ("paper/original", name))
    assert {key: other[key] for key in base if base[key] != other[key]} == changes


def test_there_is_no_other_preset_of_the_paper() -> None:
    papers = {name for name in preset_names() if name.startswith("paper/")}
    assert papers == {"paper/original", "paper/final", *TABLE_1}


@pytest.mark.parametrize("steps_per_epoch", [170, 84_000])
def test_glcics_published_schedule(steps_per_epoch: int) -> None:
    """Of 500,000 steps, whatever the number of images."""
    config = load_config("glcic/places-256")
    phases = Phases(config.training, steps_per_epoch, 500_000 * 96)
    assert phases.steps == (90_000, 10_000, 400_000)
    assert steps_per_epoch * config.training.epochs > config.training.max_steps == 500_000
    spec = config.data.hole_spec
    assert (spec.image_size, spec.min_px, spec.max_px, spec.window_px) == (256, 96, 128, 128)
    assert config.loss.weights == {"reconstruction": 1, "adversarial": 4e-4, "real": 1, "fake": 1}


@pytest.mark.parametrize("name", preset_names())
def test_a_saved_config_is_the_same_config(name: str, config_file: Callable[[str], str]) -> None:
    awkward = ["--data.path", "2020", "--data.cache_dir", "1e-4", "--optimizer.generator_learning_rate", "1e-7"]
    saved = config("--config", name, *awkward)
    assert (saved.data.path, saved.data.cache_dir) == ("2020", "1e-4")
    assert config("--config", config_file(saved.to_yaml())) == saved


def test_the_fingerprint_tells_every_change(config_file: Callable[[str], str]) -> None:
    assert config().fingerprint() == config("--config", "quickstart").fingerprint()
    assert config().fingerprint() != config("--training.seed", "1").fingerprint()


def test_the_largest_square_of_a_mixture() -> None:
    """In a disc of a quarter of 64 x 64 px, one of 2 r^2 = 2 * 1024 / pi square pixels."""
    kinds = {"strokes": 1.0, "rectangle": 1.0}
    assert DataConfig().largest_square_px == 25
    assert DataConfig(holes="resampled", hole_kinds=kinds, hole_area=(0.05, 0.25)).largest_square_px == 26
    assert DataConfig(holes="resampled", hole_kinds=kinds, hole_area=(0.05, 0.06)).largest_square_px == 25
    assert DataConfig(holes="resampled", hole_kinds={"blobs": 1}, hole_area=(0.01, 0.04)).largest_square_px == 10


# --- precedence


def test_defaults_then_file_then_flags(config_file: Callable[[str], str]) -> None:
    path = config_file("training: {epochs: 7, seed: 3}\nmodel: {width: 8}")
    seen = config("--config", path, "--training.epochs", "9")
    assert (seen.training.epochs, seen.training.seed, seen.model.width) == (9, 3, 8)
    assert seen.training.global_batch_size == Config().training.global_batch_size


def test_a_key_that_stands_twice_is_no_choice(config_file: Callable[[str], str]) -> None:
    with pytest.raises(UsageError, match="epochs stands twice"):
        load_config(config_file("training:\n  epochs: 2\n  epochs: 3\n"))


@pytest.mark.parametrize("flag", ["hub.repo_id", "training.max_steps", "data.path"])
def test_an_empty_value_is_not_null(flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        load_config(None, {flag: ""})


def test_the_later_of_two_flags_counts() -> None:
    assert config("--training.epochs", "3", "--training.epochs=5").training.epochs == 5


def test_a_file_may_take_a_preset_as_its_base(config_file: Callable[[str], str]) -> None:
    path = config_file("preset: quickstart\ntraining: {epochs: 7}\nmodel: {width: 8}\nema:")
    expected = load_config("quickstart", {"training.epochs": 7, "model.width": 8, "training.seed": 2})
    assert config("--config", path, "--training.seed", "2") == expected
    assert parse_arguments(["--config", path])[1].run_dir == Path("runs/mine")


def test_merged_first_and_validated_once(config_file: Callable[[str], str]) -> None:
    """A file's hole that fits only with the flag's window is no fault."""
    path = config_file("data: {hole_max_px: 30}")
    assert config("--config", path, "--data.window_px", "32").data.hole_spec.max_px == 30
    assert "larger than its local window" in faults("--config", path)[1]


@pytest.mark.parametrize(
    ("argv", "run_dir"),
    [
        ([], "runs/quickstart"),
        (["--config", "paper/final"], "runs/paper/final"),
        (["--config", "FILE"], "runs/mine"),
        (["--config", "FILE", "--run-dir", "here/it.is"], "here/it.is"),
    ],
)
def test_the_run_directory(argv: list[str], run_dir: str, config_file: Callable[[str], str]) -> None:
    path = config_file("{}")
    assert parse_arguments([path if word == "FILE" else word for word in argv])[1].run_dir == Path(run_dir)


def test_switches() -> None:
    options = parse_arguments(["--no-resume", "--overwrite=true", "--dry_run", "--debug", "false"])[1]
    assert (options.resume, options.overwrite, options.dry_run) == (False, True, True)
    assert parse_arguments([])[1].resume
    assert "--no-resume" in faults("--overwrite")[0]


# --- types


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--optimizer.generator_learning_rate", "1e-4"], "optimizer.generator_learning_rate", 1e-4),
        (["--optimizer.generator_learning_rate=1e-4"], "optimizer.generator_learning_rate", 1e-4),
        (["--optimizer.generator-learning-rate", "2"], "optimizer.generator_learning_rate", 2.0),
        (["--training.global-batch-size", "64"], "training.global_batch_size", 64),
        (["--training.phases", "0.2", "0.5", "0.3"], "training.phases", [0.2, 0.5, 0.3]),
        (["--training.phases", "1e-1", "0.5", "4e-1"], "training.phases", [0.1, 0.5, 0.4]),
        (["--training.phases", "[0.2, 0.5, 0.3]"], "training.phases", [0.2, 0.5, 0.3]),
        (["--model.mask_channel"], "model.mask_channel", True),
        (["--model.mask-channel", "--training.seed", "4"], "model.mask_channel", True),
        (["--model.mask_channel", "true"], "model.mask_channel", True),
        (["--model.mask_channel", "false"], "model.mask_channel", False),
        (["--model.mask_channel=False"], "model.mask_channel", False),
        (["--data.device_cache", "on"], "data.device_cache", "on"),
        (["--data.device_cache=off"], "data.device_cache", "off"),
        (["--ema.half_life_kimg", "null"], "ema.half_life_kimg", None),
        (["--data.path", "photos/2020-05"], "data.path", "photos/2020-05"),
        (["--data.path", "true"], "data.path", "true"),
        (["--data.path", "007"], "data.path", "007"),
    ],
)
def test_a_flags_value_has_its_settings_type(argv: list[str], key: str, value: Any) -> None:
    seen = flat(config(*argv).model_dump(mode="json"))[key]
    assert seen == value
    assert type(seen) is type(value)


def test_a_files_text_stays_text_and_its_numbers_are_numbers(config_file: Callable[[str], str]) -> None:
    seen = config("--config", config_file("data: {path: '1e5'}\noptimizer: {generator_learning_rate: 1e-4}\nmodel:\n"))
    assert seen.data.path == "1e5"
    assert seen.optimizer.generator_learning_rate == 1e-4


@pytest.mark.parametrize(
    ("section", "text", "value"),
    [
        ("data", "path: 2020", "2020"),
        ("data", "path: 2020-05-01", "2020-05-01"),
        ("data", "path: on", "on"),
        ("data", "path: ~", None),
        ("data", "path: 007", "007"),
        ("data", "device_cache: on", "on"),
        ("data", "device_cache: off", "off"),
        ("data", "flip: TRUE", True),
        ("training", "seed: 0x10", 16),
        ("training", "seed: 16_384", 16384),
        ("training", "timeout_s: 1e2", 100.0),
        ("training", "timeout_s: 99.", 99.0),
        ("loss", "adversarial_weight: .5", 0.5),
        ("loss", "adversarial_weight: 0", 0.0),
    ],
)
def test_yaml_is_read_as_it_is_written(section: str, text: str, value: Any, config_file: Callable[[str], str]) -> None:
    seen = getattr(getattr(config("--config", config_file(f"{section}: {{{text}}}")), section), text.partition(":")[0])
    assert seen == value and type(seen) is type(value)


def test_a_config_is_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config().training.epochs = 3  # type: ignore[misc]
