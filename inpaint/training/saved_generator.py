"""Owns which generator a run directory gives, to be used or to begin a run from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from inpaint.config import Config
from inpaint.errors import InpaintError
from inpaint.fidelity import ONE_END
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.training.checkpoint import Checkpoint, CheckpointStore, DamagedCheckpointError, read_checkpoint

# Of a checkpoint, what a generator is made from; the last is its state when phase 1 of the run ended.
GENERATOR, AVERAGE, RECONSTRUCTION = "generator", "generator_ema", "generator_reconstruction"


def load_generator(source: str | Path, revision: str | None = None, fidelity: float | None = None) -> Generator:
    """The generator of a run, interrupted or still going on, or one that `Generator.from_pretrained` finds.

    Which one of a run it is, if not its `generator/`, is said on stderr; InpaintError if none can be read.

    Args:
        source: a run directory, a directory written by `save_pretrained`, or `ORG/NAME` on the Hub.
        revision: branch, tag or commit on the Hub.
        fidelity: where between its two ends, see `Generator.at_fidelity`; None: as it is.
    """
    generator = _load(source, revision)
    if fidelity is None:
        return generator
    if generator.reconstruction is None:
        raise InpaintError(f"{source}: {ONE_END}")
    return generator.at_fidelity(fidelity)


def _load(source: str | Path, revision: str | None) -> Generator:
    folder = Path(source)
    if not (folder / "checkpoints").is_dir() and not (folder / "generator").is_dir():
        return Generator.from_pretrained(source, revision=revision)
    lacks = f"{folder} has no generator/ yet"
    if (folder / "generator").is_dir():
        try:
            return Generator.from_pretrained(folder / "generator")
        except InpaintError as error:
            lacks = str(error)
    store = CheckpointStore(folder / "checkpoints")
    found = store.newest(
        lambda path: (*_of_checkpoint(read_checkpoint(path), folder), path),
        damaged=lambda path, error: print(f"{path} is damaged: {error}", file=sys.stderr),
    )
    if found is not None:
        generator, which, path = found
        print(f"{lacks}: taking {which} of {path}", file=sys.stderr)
        return generator
    raise InpaintError(f"{lacks}, and not one sound checkpoint; train on with the same command, or give another model")


def init_generator(generator: Generator, source: str) -> None:
    """Take the weights of a saved generator, or of a run's, into a new run; InpaintError if it has another shape."""
    loaded = load_generator(source)
    if loaded.config != generator.config:
        raise InpaintError(f"--init-from {source} is {loaded.config}, this run's generator is {generator.config}")
    generator.load_state_dict(loaded.state_dict())


def _of_checkpoint(checkpoint: Checkpoint, run_dir: Path) -> tuple[Generator, str]:
    try:
        # Checkpoints of before they held their own settings leave the run's.
        settings = checkpoint.state.get("config") or yaml.safe_load((run_dir / "config.yaml").read_bytes())
        config = Config.model_validate_json(json.dumps({name: settings[name] for name in ("model", "data")}))
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise DamagedCheckpointError(f"its settings cannot be read ({str(error).splitlines()[0]})") from error
    name = AVERAGE if AVERAGE in checkpoint.tensors else GENERATOR
    tensors = checkpoint.tensors
    generator = Generator.of(GeneratorConfig.for_run(config), tensors[name], tensors.get(RECONSTRUCTION))
    return generator, "the averaged generator" if name == AVERAGE else "the generator"
