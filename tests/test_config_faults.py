"""Every fault of a command line and of a config file is told in words, all of one try together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from configuring import faults
from hypothesis import example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from inpaint.arguments import parse_arguments
from inpaint.config import Config, settings
from inpaint.errors import UsageError
from inpaint.resolve import load_config, preset_names

BOMB = "training: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{', '.join([f'*{chr(97 + level)}'] * 9)}]" for level in range(9)
)


def test_all_faults_of_one_try_are_told_together(config_file: Callable[[str], str]) -> None:
    path = config_file("training: {epochs: many, sede: 3}\nmodle: {width: 8}")
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
        (["--config", "nowhere"], "there are glcic/places-256"),
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
        ("preset: [1]", "preset = [1]: no such preset (a file must end in .yaml); there are glcic/places-256"),
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
def test_a_file_that_is_no_config(text: str, words: str, config_file: Callable[[str], str]) -> None:
    assert words in "\n".join(faults("--config", config_file(text)))


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
