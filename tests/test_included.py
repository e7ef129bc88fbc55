"""The generator that comes with the package: what is said of it is so, and it is better than none."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch

from inpaint import Generator, InpaintingPipeline
from inpaint.data.draws import stored_holes
from inpaint.data.recipes import SYNTHETIC_START
from inpaint.data.synthetic.landscapes import render
from inpaint.evaluation.baselines import telea
from inpaint.fidelity import RECONSTRUCTION_FILE
from inpaint.holes.spec import HoleSpec
from inpaint.included import INCLUDED
from inpaint.models.generator import GeneratorConfig
from inpaint.resolve import load_config


def test_it_is_small_and_what_its_card_and_its_preset_say() -> None:
    weights = [INCLUDED / "model.safetensors", INCLUDED / RECONSTRUCTION_FILE]
    assert sum(path.stat().st_size for path in weights) <= 4 << 20
    card = (INCLUDED / "README.md").read_text(encoding="utf-8")
    for path in weights:
        assert f"`{path.name}` | `{hashlib.sha256(path.read_bytes()).hexdigest()}`" in card
    assert "--config included" in card
    settings = load_config("included")
    assert settings.data.path is None, "it has seen nobody's photographs"
    config = replace(GeneratorConfig.for_run(settings), has_reconstruction=True)
    assert Generator.from_pretrained(INCLUDED).config == config
    assert InpaintingPipeline(device="cpu").generator.state_dict().keys() == Generator(config).state_dict().keys()


def test_it_fills_landscapes_better_than_a_classical_method() -> None:
    indices = SYNTHETIC_START["validation"] + np.arange(48)
    images = torch.from_numpy(render(0, indices, 64)).permute(0, 3, 1, 2) / 255
    where, _ = stored_holes(indices.astype(np.uint64), HoleSpec.scaled(64))
    masks = torch.zeros(48, 1, 64, 64)
    for mask, (x, y, width, height) in zip(masks, where, strict=True):
        mask[0, y : y + height, x : x + width] = 1
    masked = images * (1 - masks)
    with torch.inference_mode():
        fills = {"telea": telea(masked, masks), "included": Generator.from_pretrained(INCLUDED)(masked, masks)}
    errors = {name: float((((fill - images) * masks) ** 2).sum()) for name, fill in fills.items()}
    # A decibel is a factor of 1.26.
    assert errors["included"] < errors["telea"] / 1.26, errors
