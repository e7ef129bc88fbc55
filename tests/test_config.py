"""What is set: defaults < preset or file < flags, one validation, and every fault told in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from inpaint.arguments import parse_arguments, usage
from inpaint.config import Config
from inpaint.errors import UsageError
from inpaint.resolve import load_config, preset_names, settings

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


def config(*argv: str) -> Config:
    return parse_arguments([*argv])[0]


def flat(config: Config) -> dict[str, Any]:
    return {
        f"{section}.{key}": v for section, keys in config.model_dump(mode="json").items() for key, v in keys.items()
    }


def faults(*argv: str) -> list[str]:
    """The lines of the error that a command line gives."""
    with pytest.raises(UsageError) as caught:
        parse_arguments([*argv])
    return [line.strip() for line in str(caught.value).splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(text: str) -> str:
        (tmp_path / "mine.yaml").write_text(text)
        return str(tmp_path / "mine.yaml")

    return write


# --- presets


def test_the_defaults_are_the_papers_base_network() -> None:
    base = config("--config", "paper/original")
    assert base == Config()
    assert base.training.phases == (0.33, 0.33, 0.34)
    assert base.training.global_batch_size == 128
    assert (base.loss.reconstruction_weight, base.loss.adversarial_weight) == (1, 1)
    assert (base.model.bottleneck, base.model.global_average_pooling, base.model.mask_channel) == (4, False, False)
    spec = base.data.hole_spec
    assert (spec.image_size, spec.min_px, spec.max_px, spec.window_px) == (64, 20, 25, 28)


@pytest.mark.parametrize(("name", "changes"), [*TABLE_1.items(), ("paper/final", FINAL)])
def test_a_paper_preset_differs_from_the_base_in_what_it_says(name: str, changes: dict[str, Any]) -> None:
    base, other = flat(load_config("paper/original")), flat(load_config(name))
    assert {key: other[key] for key in base if base[key] != other[key]} == changes


def test_there_is_no_other_preset() -> None:
    assert set(preset_names()) == {"quickstart", "paper/original", "paper/final", *TABLE_1}


@pytest.mark.parametrize("name", preset_names())
def test_a_saved_config_is_the_same_config(name: str, file: Any) -> None:
    awkward = ["--data.path", "2020", "--data.cache_dir", "1e-4", "--optimizer.generator_learning_rate", "1e-7"]
    saved = config("--config", name, *awkward)
    assert (saved.data.path, saved.data.cache_dir) == ("2020", "1e-4")
    assert config("--config", file(saved.to_yaml())) == saved


def test_the_fingerprint_tells_every_change(file: Any) -> None:
    assert config().fingerprint() == config("--config", "quickstart").fingerprint()
    assert config().fingerprint() != config("--training.seed", "1").fingerprint()


# --- precedence


def test_defaults_then_file_then_flags(file: Any) -> None:
    path = file("training: {epochs: 7, seed: 3}\nmodel: {width: 8}")
    seen = config("--config", path, "--training.epochs", "9")
    assert (seen.training.epochs, seen.training.seed, seen.model.width) == (9, 3, 8)
    assert seen.training.global_batch_size == Config().training.global_batch_size


def test_a_key_that_stands_twice_is_no_choice(file: Any) -> None:
    with pytest.raises(UsageError, match="epochs stands twice"):
        load_config(file("training:\n  epochs: 2\n  epochs: 3\n"))


@pytest.mark.parametrize("flag", ["hub.repo_id", "training.max_steps", "data.path"])
def test_an_empty_value_is_not_null(flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        load_config(None, {flag: ""})


def test_the_later_of_two_flags_counts() -> None:
    assert config("--training.epochs", "3", "--training.epochs=5").training.epochs == 5


def test_merged_first_and_validated_once(file: Any) -> None:
    """A file's hole that fits only with the flag's window is no fault."""
    path = file("data: {hole_max_px: 30}")
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
def test_the_run_directory(argv: list[str], run_dir: str, file: Any) -> None:
    path = file("{}")
    assert parse_arguments([path if word == "FILE" else word for word in argv])[1].run_dir == Path(run_dir)


def test_switches() -> None:
    options = parse_arguments(["--no-resume", "--overwrite=true", "--dry_run", "--debug", "false"])[1]
    assert (options.resume, options.overwrite, options.dry_run, options.debug) == (False, True, True, False)
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
        (["--ema.half_life_kimg", "null"], "ema.half_life_kimg", None),
        (["--data.path", "photos/2020-05"], "data.path", "photos/2020-05"),
        (["--data.path", "true"], "data.path", "true"),
        (["--data.path", "007"], "data.path", "007"),
    ],
)
def test_a_flags_value_has_its_settings_type(argv: list[str], key: str, value: Any) -> None:
    seen = flat(config(*argv))[key]
    assert seen == value
    assert type(seen) is type(value)


def test_a_files_text_stays_text_and_its_numbers_are_numbers(file: Any) -> None:
    seen = config("--config", file("data: {path: '1e5'}\noptimizer: {generator_learning_rate: 1e-4}\nmodel:\n"))
    assert seen.data.path == "1e5"
    assert seen.optimizer.generator_learning_rate == 1e-4


def test_a_config_is_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config().training.epochs = 3  # type: ignore[misc]


# --- faults


def test_all_faults_of_one_try_are_told_together(file: Any) -> None:
    path = file("training: {epochs: many, sede: 3}\nmodle: {width: 8}")
    told = faults(
        "--config", path, "--model.width", "3", "--loss.advesarial_weight", "2", "--training.phases", "0.2", "0.5",
        "0.4", "--ovrwrite",
    )  # fmt: skip
    for key, value, hint in (
        ("--ovrwrite", "", "did you mean --overwrite?"),
        ("--loss.advesarial_weight", "", "did you mean loss.adversarial_weight?"),
        ("training.epochs", "'many' (in mine.yaml)", "must be a valid integer"),
        ("training.sede", "3 (in mine.yaml)", "did you mean training.seed?"),
        ("modle", "{'width': 8}", "did you mean model?"),
        ("model.width", "3 (--model.width)", "must be a multiple of 2"),
        ("training.phases", "[0.2, 0.5, 0.4] (--training.phases)", "must sum to 1; got 0.2 + 0.5 + 0.4 = 1.1"),
    ):
        (line,) = [line for line in told if line.startswith((f"{key} ", f"{key}:"))]
        assert value in line
        assert hint in line
    assert told[1] == "the configuration has 6 fault(s):"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--config", "paper/orignal"], "did you mean paper/original?"),
        (["--config", "nowhere"], "there are paper/batch-256"),
        (["--config", "../config"], "no such preset"),
        (["--config", "nowhere.yaml"], "cannot be read (No such file or directory)"),
        (["--config"], "--config takes one value"),
        (["--run-dir", ""], "--run-dir takes one value"),
        (["20"], "'20' stands alone"),
        (["--training.seed=5", "6"], "'6' stands alone"),
        (["--data.path", "\udc80"], "a value can be no setting's"),
        (["--epochs", "20"], "did you mean --training.epochs?"),
        (["--dry-run", "maybe"], "--dry-run is on or off"),
        (["--training.epochs", "0"], "must be greater than or equal to 1"),
        (["--training.epochs", "1.5"], "must be a valid integer"),
        (["--training.epochs"], "training.epochs = True"),
        (["--training.epochs", "1", "2"], "training.epochs = [1, 2]"),
        (["--model.mask_channel", "1"], "must be a valid boolean"),
        (["--model.norm", "bach"], "must be 'batch', 'group' or 'none'"),
        (["--model.bottleneck", "5"], "must be less than or equal to 4"),
        (["--data.image_size", "66"], "must be a multiple of 4"),
        (["--data.path", ""], "data.path = ''"),
        (["--data.hole_max_px", "29"], "the hole (up to 29 px) is larger than its local window (28 px)"),
        (["--data.hole_min_px", "26"], "the smallest hole (26 px) is larger than the largest (25 px)"),
        (["--data.window_px", "65"], "the local window (65 px) is larger than the picture (64 px)"),
        (["--training.phases", "0.5", "0.5"], "training.phases"),
        (["--training.phases", "1.5", "-0.5", "0"], "training.phases = 1.5"),
        (["--loss.adversarial_weight", "-1"], "must be greater than or equal to 0"),
        (["--loss.adversarial_weight", ".nan"], "must be a finite number"),
        (["--training.timeout_s", ".inf"], "training.timeout_s"),
        (["--training.epochs.x", "3"], "did you mean training.epochs?"),
    ],
)  # fmt: skip
def test_a_fault_is_told_in_words(argv: list[str], words: str) -> None:
    assert words in "\n".join(faults(*argv))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1", "holds a list"),
        ("training: {epochs: 3", "not valid YAML"),
        ("training: {epochs: 2001-99-99}", "not valid YAML"),
        ("training: &loop {epochs: *loop}", "not valid YAML"),
        ("training: 5", "training = 5"),
        ("\x00", "not valid YAML"),
        ("1: {[2]: 3}", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_config(text: str, words: str, file: Any) -> None:
    assert words in "\n".join(faults("--config", file(text)))


def test_help_names_every_preset_and_setting() -> None:
    text = usage()
    assert all(name in text for name in [*preset_names(), *(f"--{name} (" for name, _ in settings())])


WORDS = st.one_of(
    st.sampled_from(["--config", "--run-dir", "--dry-run", "--overwrite", "--no-resume", "--help", "--", "--x", "-1"]),
    st.sampled_from([f"--{name}" for name, _ in settings()]),
    st.sampled_from([*preset_names(), "true", "null", "0.5", "1e-4", "20", "[1, 2]", "{a: 1}", "2001-99-99", "0b_"]),
    # What the system can hand over: no zero bytes, but bytes that are not UTF-8.
    st.text(st.characters(exclude_characters="\0", exclude_categories=[]), max_size=12),
    st.builds("--{}.{}={}".format, st.text(max_size=4), st.text(max_size=4), st.text(max_size=8)),
)


@given(st.lists(WORDS, max_size=8))
@example(["--training.epochs", "[" * 5000])
@example(["--training.epochs", "1" * 5000])
@example(["--training.epochs", "0x" + "f" * 5000])
@example(["--data.path", "\udc80"])
@effort(max_examples=250, deadline=None)
def test_any_command_line_gives_a_config_or_a_usage_error(argv: list[str]) -> None:
    try:
        seen, _ = parse_arguments(argv)
    except UsageError:
        return
    assert Config.model_validate_json(seen.model_dump_json()) == seen
    assert yaml.safe_load(seen.to_yaml()) == seen.model_dump(mode="json")


def test_a_section_that_is_none_is_named_also_where_a_flag_would_set_in_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("training: 5\n")
    with pytest.raises(UsageError, match=r"training = 5 \(in mine.yaml\): must be an object"):
        load_config(str(file), {"training.epochs": "3"})
