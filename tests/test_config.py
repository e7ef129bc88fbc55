"""What is set: defaults < preset or file < flags, one validation, and every fault told in words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from inpaint import hints
from inpaint.arguments import SWITCHES, VALUES, information, parse_arguments, usage
from inpaint.config import Config, EvaluationConfig, settings
from inpaint.errors import UsageError
from inpaint.hints import hint
from inpaint.resolve import load_config, preset_names

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


BOMB = "training: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{', '.join([f'*{chr(97 + level)}'] * 9)}]" for level in range(9)
)


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
    assert base == Config(evaluation=EvaluationConfig(best_by="hole_psnr"))
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


def test_a_file_may_take_a_preset_as_its_base(file: Any) -> None:
    path = file("preset: quickstart\ntraining: {epochs: 7}\nmodel: {width: 8}\nema:")
    expected = load_config("quickstart", {"training.epochs": 7, "model.width": 8, "training.seed": 2})
    assert config("--config", path, "--training.seed", "2") == expected
    assert parse_arguments(["--config", path])[1].run_dir == Path("runs/mine")


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
        (["--data.device_cache", "on"], "data.device_cache", "on"),
        (["--data.device_cache=off"], "data.device_cache", "off"),
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
def test_yaml_is_read_as_it_is_written(section: str, text: str, value: Any, file: Any) -> None:
    seen = getattr(getattr(config("--config", file(f"{section}: {{{text}}}")), section), text.partition(":")[0])
    assert seen == value and type(seen) is type(value)


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
    for key, value, advice in (
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
        assert advice in line
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
        (["--model.mask_channel", "1"], "must be true or false"),
        (["--model.norm", "bach"], "must be 'batch', 'group' or 'none'"),
        (["--model.bottleneck", "5"], "must be less than or equal to 4"),
        (["--data.image_size", "2000"], "must be less than or equal to 1024"),
        (["--model.generator", "dillated"], "there is no dillated; did you mean dilated? Allowed: dilated"),
        (["--data.path", ""], "data.path = ''"),
        (["--data.hole_max_px", "29"], "the hole (up to 29 px) is larger than its local window (28 px)"),
        (["--data.hole_min_px", "26"], "the smallest hole (26 px) is larger than the largest (25 px)"),
        (["--data.window_px", "65"], "the local window (65 px) is larger than the image (64 px)"),
        (["--training.phases", "0.5", "0.5"], "[0.5, 0.5] (--training.phases): must be three numbers, separated by sp"),
        (["--training.phases", "0.5,0.2,0.3"], "'0.5,0.2,0.3' (--training.phases): must be three numbers, separated"),
        (["--training.phases", "0.5,", "0.2", "0.3"], "must be three numbers, separated by spaces"),
        (["--lr", "1"], "did you mean --optimizer.generator_learning_rate and --optimizer.discriminator_lea"),
        (["--batch-size", "8"], "did you mean --training.global_batch_size?"),
        (["--train_batch_size=8"], "did you mean --training.global_batch_size?"),
        (["--output_dir", "x"], "--output-dir: no such flag; did you mean --run-dir?"),
        (["--outdir", "x"], "did you mean --run-dir?"),
        (["--resume"], "--resume: no such flag; the same command resumes by itself"),
        (["--gpus", "8"], "it is the launcher's: accelerate launch --num_processes N train.py ..."),
        (["--resolution", "128"], "did you mean --data.image_size?"),
        (["--optimizer.lr", "1"], "did you mean optimizer.generator_learning_rate and optimizer.disc"),
        (["--data.width", "8"], "did you mean model.width?"),
        (["--data.path", "x", "--qqqq"], "--qqqq: no such flag; --help lists all"),
        (["--run-dir", "x", "y" * 3000], "y"),
        (["--" + "y" * 3000], "yyy... (3000 characters): no such flag"),
        (["y" * 3000], "... (3002 characters) stands alone"),
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
        ("training: {epochs: !!timestamp 2001-99-99}", "not valid YAML"),
        ("training: {epochs: 2001-99-99}", "training.epochs = '2001-99-99' (in mine.yaml): must be a valid integer"),
        (
            'training: {epochs: "10"}',
            "epochs = '10' (in mine.yaml): must be a valid integer, and this is text",
        ),
        ("model: {mask_channel: on}", "model.mask_channel = 'on' (in mine.yaml): must be true or false"),
        (
            "training.epochs: 5",
            "training.epochs = 5 (in mine.yaml): no such setting; in a file sections are nested: "
            "training: {epochs: ...}",
        ),
        ("training.lr: 5", "did you mean optimizer.generator_learning_rate and optimizer.disc"),
        ("lr: 5", "did you mean optimizer.generator_learning_rate and optimizer.disc"),
        (
            "training: {batch_size: 5}",
            "batch_size = 5 (in mine.yaml): no such setting; did you mean training.gl",
        ),
        ("training: {phases: [0.5]}", "must be three numbers, separated by spaces (in YAML: [0.2, 0.5, 0.3])"),
        (
            "preset: paper/fnial",
            "preset = 'paper/fnial': no such preset (a file must end in .yaml); did you mean paper/final?",
        ),
        ("preset: [1]", "preset = [1]: no such preset (a file must end in .yaml); there are paper/batch-256"),
        ("preset: quickstart\ntraining: {epochs: 0}", "training.epochs = 0 (in mine.yaml): must be greater"),
        ("preset: quickstart\ntraining: 3", "training = 3 (in mine.yaml): must be an object"),
        (BOMB, "not valid YAML (more than 1000 values or 20 levels"),
        ("{" * 5000, "not valid YAML"),
        ("\n".join(f"key_{number}: 1" for number in range(2000)), "not valid YAML (more than 1000 values"),
        ("\n".join(f"key_{number}: 1" for number in range(22_000)), "is larger than a config can be (256 KiB)"),
        ("\n".join(f"key_{number}: 1" for number in range(900)), "and 880 more"),
        ("#" * (1 << 18) + "\n", "is larger than a config can be (256 KiB)"),
        (f"training: {{epochs: {'x' * 5000}}}", "x... (5002 characters) (in mine.yaml): must be a valid integer"),
        (f"? {'x' * 5000}\n: 1", "x... (5000 characters) = 1 ("),
        ("? !!set {a}\n: 1", "a list or mapping cannot be a name"),
        ("training: &loop {epochs: *loop}", "not valid YAML"),
        ("training: 5", "training = 5"),
        ("\x00", "not valid YAML"),
        ("1: {[2]: 3}", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_config(text: str, words: str, file: Any) -> None:
    assert words in "\n".join(faults("--config", file(text)))


@pytest.mark.parametrize("name", ["folder.yaml", "/dev/zero.yaml", "pipe.yaml"])
def test_what_is_no_file_is_not_waited_for(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    path = tmp_path / name.removeprefix("/dev/")
    if name.startswith("/dev/"):
        path.symlink_to("/dev/zero")
    assert "is not a regular file" in faults("--config", str(path))[0]


def test_a_command_line_of_wrong_flags_is_told_shortly() -> None:
    told = faults(
        *(f"--section.key_{number}" for number in range(20_000)), *(f"--{number}" for number in range(20_000))
    )
    assert told[20:22] == ["and 19980 more", "the configuration has 20000 fault(s):"]
    assert told[42:] == ["and 19980 more"]


def test_help_names_every_preset_and_setting() -> None:
    text = usage()
    assert all(name in text for name in [*preset_names(), *(f"--{name} (" for name, _ in settings())])
    assert "--model.norm (batch) batch|group|none  Norm" in text and "--data.flip (false) true|false  Mir" in text
    assert "--training.phases (0.33, 0.33, 0.34)  Shares" in text


def test_the_printed_defaults_are_a_config_file_of_the_defaults_each_explained(file: Any) -> None:
    text = information(["--print-defaults"])
    assert text is not None
    path = file(text)
    assert config("--config", path) == Config()
    lines = text.splitlines()
    for name, setting in settings():
        section, _, key = name.partition(".")
        assert setting.description, f"{name} has no docstring"
        (at,) = [at for at, line in enumerate(lines) if line.startswith(f"  {key}: ")]
        assert lines[at - 1].startswith(f"  # {setting.description}")
        assert section == next(line for line in reversed(lines[:at]) if not line.startswith(" "))[:-1]
    assert (
        "  # Normalisation after each convolution; `group` treats each image separately. (batch | group | none)"
        in lines
    )


@pytest.mark.parametrize("name", preset_names())
def test_a_presets_values_are_printed_and_read_again(name: str, file: Any) -> None:
    argv = ["--config", name, "--data.path", "{a}: #1", "--data.cache-dir", "true", "--optimizer.beta1", "1e-5"]
    assert config("--config", file(information([*argv, "--print-defaults"]))) == config(*argv)


def test_what_cannot_be_set_is_not_printed() -> None:
    with pytest.raises(UsageError, match=r"did you mean training\.epochs"):
        information(["--print-defaults", "--training.epoch", "3"])


def test_presets_are_listed_with_what_they_are() -> None:
    assert (text := information(["--list-presets", "--config", "paper/final"])) is not None
    assert [line.split()[0] for line in text.splitlines()] == preset_names()
    assert "paper/original                The base network of Table 1 (the defaults)." in text
    assert all(len(line) > 50 and "#" not in line for line in text.splitlines())


def test_every_other_name_points_to_one_that_there_is() -> None:
    names = [*SWITCHES, *VALUES, *(name for name, _ in settings())]
    for elsewhere, meant in hints._MEANT.items():
        assert {*meant.split()} <= {*names}, elsewhere
        assert elsewhere.replace("_", "-") not in names and elsewhere not in hints._NOTES
        assert hint(f"{elsewhere.replace('_', '-')}", names) in (
            f"did you mean {' and '.join(meant.split())}?",
            *(f"did you mean {name}?" for name in names),
        )


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
