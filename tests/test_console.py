"""What a person sees while training: the figures that the last steps have, and no others."""

from __future__ import annotations

import pytest

from inpaint.training.console import Console

GENERATOR = {"loss/generator/reconstruction": 0.03125, "gradient_norm/generator": 2.0}
DISCRIMINATOR = {"score/real": 0.75, "score/fake": 0.25, "loss/discriminator/real": 0.5}


@pytest.mark.parametrize(
    ("phase", "means", "shown"),
    [
        (1, GENERATOR, "mse=0.0312"),
        (2, DISCRIMINATOR, "D(real)=0.7500, D(fake)=0.2500"),
        (
            3,
            {
                **GENERATOR,
                **DISCRIMINATOR,
                "loss/generator/adversarial": 0.5,
                "data/wait_s": 2e-3,
                "memory/peak_gib": 1.26,
            },
            "mse=0.0312, adv=0.5000, D(real)=0.7500, D(fake)=0.2500, wait=0.002s, peak=1.3GiB",
        ),
    ],
)
def test_the_bar_shows_what_the_phase_has(
    phase: int, means: dict[str, float], shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    console = Console(is_shown=True)
    console.begin(0, 64)
    console.show(GENERATOR)
    console.advance(16, f"epoch 1/2 phase {phase}")
    console.show(means)
    console.end()
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"phase {phase}" in last
    assert last.endswith(f", {shown}]")
