"""One process of a job under test: a few steps of several configs, and every tensor they end with.

`engines_worker.py FOLDER SCENARIOS`: SCENARIOS is a file with a JSON list of {name, preset, flags, phases, engine},
where engine is a DeepSpeed JSON or null. FOLDER/name.pt holds the tensors by file and name of a checkpoint.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState

from inpaint.data import draws
from inpaint.data.batches import BatchLoader
from inpaint.data.decoded import DecodedSplit
from inpaint.distributed.runtime import Runtime
from inpaint.resolve import load_config
from inpaint.training.task import InpaintingTask


def train(folder: Path, scenario: dict[str, Any]) -> None:
    AcceleratorState._reset_state(reset_partial_state=False)
    os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = scenario["engine"] or ""
    config = load_config(scenario["preset"], scenario["flags"])
    runtime, spec, batch_size = Runtime.of(config), config.data.hole_spec, config.training.global_batch_size
    task = InpaintingTask(config, runtime)

    keys = np.arange(4 * batch_size, dtype=np.uint64)
    pixels = np.random.default_rng(0).integers(0, 256, (len(keys), spec.image_size, spec.image_size, 3), dtype=np.uint8)
    images = DecodedSplit(pixels, *draws.stored_holes(keys, spec), [""] * len(keys))
    feed = BatchLoader(
        images, config.data, 0, batch_size, runtime.rank, runtime.world_size, runtime.device, runtime.dtype
    )
    batches = feed.batches(1, 0)
    for number, phase in enumerate(scenario["phases"], start=1):
        task.step(phase, next(batches).split(runtime.micro_batch_size), number, number * batch_size)
    batches.close()

    files = task.state()
    for network in runtime.networks:
        network.release()
    if runtime.is_main:
        torch.save(files, folder / f"{scenario['name']}.pt")
    runtime.networks.clear()
    del task
    gc.collect()
    runtime.barrier()


if __name__ == "__main__":
    for scenario in json.loads(Path(sys.argv[2]).read_text()):
        train(Path(sys.argv[1]), scenario)
    sys.stdout.flush()
    os._exit(0)
