"""Writes ONNX files with a few bytes of protobuf, so that no test needs the package `onnx`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FLOAT, INT64, INTS, INT = 1, 7, 7, 2


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _node(kind: str, inputs: list[str], output: str, **attributes: int | list[int]) -> bytes:
    parts = [_field(1, name) for name in inputs] + [_field(2, output), _field(4, kind)]
    for name, value in attributes.items():
        numbers = [_field(8, number) for number in value] if isinstance(value, list) else [_field(3, value)]
        kind_of_value = INTS if isinstance(value, list) else INT
        parts.append(_field(5, _field(1, name) + b"".join(numbers) + _field(20, kind_of_value)))
    return _field(1, b"".join(parts))


def _constant(name: str, values: np.ndarray) -> bytes:
    dims = b"".join(_field(1, size) for size in values.shape)
    kind = INT64 if values.dtype == np.int64 else FLOAT
    return _field(5, dims + _field(2, kind) + _field(8, name) + _field(9, values.tobytes()))


def _place(number: int, name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(number, _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, dims))))


def write_yolox(path: Path, size: int, is_decoded: bool = False) -> Path:
    """A network of YOLOX's form that sees a person (its second class) of 16 px in every cell of 8 px that is red.

    Its boxes are in cells and logarithms, or decoded to pixels.
    """
    parts, rows, added = [], [], []
    for stride in (8, 16, 32):
        weights = np.zeros((7, 3, 1, 1), "<f4")
        weights[4, 2] = (stride == 8) / (255 - 114)  # objectness; the third channel is red, for they come as BGR
        cells = np.indices((size // stride,) * 2)[::-1].reshape(2, -1)
        constant = np.zeros((7, cells.shape[1]), "<f4")
        constant[:2] = (cells + 0.5) * stride if is_decoded else 0.5
        constant[2:4] = 16 if is_decoded else np.log(16 / stride)
        constant[4] = -(stride == 8) * 114 / (255 - 114)  # the grey beside the image is nobody
        constant[6] = 1
        added.append(constant)
        parts += [
            _constant(f"weights{stride}", weights),
            _node("MaxPool", ["images"], f"pooled{stride}", kernel_shape=[stride] * 2, strides=[stride] * 2),
            _node("Conv", [f"pooled{stride}", f"weights{stride}"], f"seen{stride}", kernel_shape=[1, 1]),
            _node("Reshape", [f"seen{stride}", "rows"], f"rows{stride}"),
        ]
        rows.append(f"rows{stride}")
    whole = np.concatenate(added, axis=1)[None]
    parts += [
        _constant("rows", np.array([1, 7, -1], "<i8")),
        _constant("added", np.ascontiguousarray(whole)),
        _node("Concat", rows, "joined", axis=2),
        _node("Add", ["joined", "added"], "summed"),
        _node("Transpose", ["summed"], "output", perm=[0, 2, 1]),
        _field(2, "yolox"),
        _place(11, "images", (1, 3, size, size)),
        _place(12, "output", (1, whole.shape[2], 7)),
    ]
    path.write_bytes(_field(1, 8) + _field(7, b"".join(parts)) + _field(8, _field(2, 13)))
    return path
