"""A saved generator comes back bit-equal, or is refused in words before anything large is allocated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inpaint.config import Config, DataConfig
from inpaint.errors import InpaintError
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.training.task import build_networks


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved generator whose BatchNorm statistics have moved."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    network = Generator(GeneratorConfig(width=4, bottleneck=3, mask_channel=True))
    network(torch.rand(2, 3, 16, 16), torch.zeros(2, 1, 16, 16))
    network.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    return tmp_path


def refusal(folder: Path) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(InpaintError) as caught:
        Generator.from_pretrained(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    assert str(folder) in text or "the generator's config is wrong" in text
    return text


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("mask_channel", [False, True])
def test_what_is_saved_comes_back_bit_equal(norm: Any, mask_channel: bool, tmp_path: Path) -> None:
    network = Generator(GeneratorConfig(width=4, bottleneck=2, mask_channel=mask_channel, norm=norm))
    image, mask = torch.rand(2, 3, 16, 20), torch.ones(2, 1, 16, 20)
    network(image, mask)
    network.save_pretrained(tmp_path)
    loaded = Generator.from_pretrained(str(tmp_path))
    assert loaded.config == network.config
    assert not loaded.training
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert torch.equal(loaded(image, mask), network.eval()(image, mask))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert not list(tmp_path.glob("*.bin"))


def test_what_it_was_trained_on_is_saved_and_is_no_part_of_the_shape(tmp_path: Path) -> None:
    network = Generator(GeneratorConfig(width=2, image_size=64, hole_max_px=25))
    network.save_pretrained(tmp_path)
    loaded = Generator.from_pretrained(tmp_path).config
    assert (loaded.image_size, loaded.hole_max_px) == (64, 25)
    assert loaded == GeneratorConfig(width=2, image_size=256, hole_max_px=100), "weights go into a run of another size"
    assert "landscapes at 64 x 64 pixels" in (tmp_path / "README.md").read_text()
    built, _ = build_networks(Config(data=DataConfig(image_size=128)))
    assert (built.config.image_size, built.config.hole_max_px) == (128, 50)


def test_a_generator_saved_before_that_was_recorded_still_loads(copy: Path) -> None:
    shape = {"width": 4, "bottleneck": 3, "mask_channel": True, "norm": "batch"}
    (copy / "config.json").write_text(json.dumps(shape))
    assert Generator.from_pretrained(copy).config.hole_max_px is None
    for wrong in (0, True, 2.5, "64"):
        (copy / "config.json").write_text(json.dumps({**shape, "hole_max_px": wrong}))
        assert f"hole_max_px is {wrong!r}; allowed: 1 or more, or null" in refusal(copy)


def test_half_precision_weights_are_widened(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    save_file({n: t.bfloat16() if t.is_floating_point() else t for n, t in tensors.items()}, copy / "model.safetensors")
    for name, tensor in Generator.from_pretrained(copy).state_dict().items():
        assert tensor.dtype == tensors[name].dtype
        torch.testing.assert_close(tensor, tensors[name], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "config.json is not JSON"),
        (b"{", "config.json is not JSON"),
        (b"\xff\xfe\xfd", "config.json is not JSON"),
        (b"[" * 100_000, "config.json is not JSON"),
        (b'{"width": ' + b"9" * 5000 + b"}", "config.json is not JSON"),
        (b"[1, 2]", "a list, not keys and values"),
        (b"null", "a NoneType, not keys and values"),
        (b'{"width": 4, "depth": 3, "activation": "elu"}', "['activation', 'depth'] unknown; allowed keys: ['arch"),
        (b'{"width": "4"}', "width is '4'; allowed: even, 2 to 512"),
        (b'{"width": 4.0}', "width is 4.0"),
        (b'{"width": true}', "width is True"),
        (b'{"width": 3}', "width is 3"),
        (b'{"width": 0}', "width is 0"),
        (b'{"width": 1000000000}', "width is 1000000000"),
        (b'{"bottleneck": 5}', "bottleneck is 5; allowed: 1, 2, 3 or 4"),
        (b'{"mask_channel": 1}', "mask_channel is 1; allowed: true or false"),
        (b'{"norm": ["batch"]}', "norm is ['batch']; allowed: batch, group or none"),
        (b'{"norm": null, "width": -2}', "width is -2; allowed: even, 2 to 512; norm is None"),
        (b'{"norm": "' + b"x" * 100_000 + b'"}', "norm is 'xxx"),
        (json.dumps(dict.fromkeys(map(str, range(5000)))).encode(), "unknown"),
    ],
)  # fmt: skip
def test_a_hostile_config_is_refused_in_one_line(content: bytes, words: str, copy: Path) -> None:
    (copy / "config.json").write_bytes(content)
    assert words in refusal(copy)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation within made in memory, in bytes."""

    num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                self.num_bytes = max(self.num_bytes, tensor.nbytes)
        return result


def test_nothing_large_is_allocated_before_the_weights_are_known_to_fit(copy: Path) -> None:
    (copy / "config.json").write_text('{"width": 512, "bottleneck": 3, "mask_channel": true}')
    with Largest() as largest:
        assert "layers.0.0.weight is float [4, 4, 5, 5], not float [512, 4, 5, 5]" in refusal(copy)
    assert largest.num_bytes < 1e6


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("layers.3.1.bias"), "layers.3.1.bias is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "'extra' is unknown"),
        (lambda t: t.update({"x" * 9999: torch.zeros(1)}), "is unknown"),
        (lambda t: t.update({"layers.0.1.bias": torch.zeros(5)}), "layers.0.1.bias is float [5], not float [4]"),
        (lambda t: t.update({"layers.0.1.bias": torch.zeros(4, dtype=torch.int32)}), "is I32 [4], not float [4]"),
        (lambda t: t.update({"layers.0.1.num_batches_tracked": torch.tensor(1.0)}), "is float [], not I64 []"),
        (lambda t: t.clear() or t.update(a=torch.zeros(1)), "more"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: Callable[[dict[str, Tensor]], None], words: str, copy: Path) -> None:
    rewrite(copy, change)
    text = refusal(copy)
    assert "model.safetensors does not fit its config" in text
    assert words in text


def broken_files(whole: bytes) -> Iterator[bytes]:
    yield b""
    yield b"\x80\x04}."  # what a pickle looks like
    yield whole[:-1]
    yield whole[: len(whole) // 2]
    yield whole[:4]
    yield b"\xff" * 8 + whole[8:]  # a header of 2**64 bytes
    yield whole[:8] + b"\0" * (len(whole) - 8)
    header = json.dumps(
        {"layers.0.0.weight": {"dtype": "F32", "shape": [1 << 30, 1 << 30], "data_offsets": [0, 1 << 62]}}
    )
    yield len(header).to_bytes(8, "little") + header.encode()


@pytest.mark.parametrize("which", range(8))
def test_a_broken_file_of_weights_is_refused(which: int, copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes([*broken_files(path.read_bytes())][which])
    with Largest() as largest:
        assert "model.safetensors is damaged or no safetensors file" in refusal(copy)
    assert largest.num_bytes < 1e6


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(name: str, copy: Path) -> None:
    (copy / name).unlink()
    assert f"holds no {name}" in refusal(copy)
