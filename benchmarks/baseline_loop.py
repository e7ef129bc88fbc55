"""The rival: a plain training loop for the same networks, as the well-known PyTorch ports of GLCIC are written.

In our own words and from public knowledge of how they work: eager, contiguous, float32 Adam, files decoded by a
DataLoader in the loop's own process, masks made one image at a time in Python, one window for the whole batch, three
separate forwards of the discriminator in phase 3 whose weights also gather gradients in the generator's turn, and a
generator that keeps its graph while only the discriminators learn. The layers are ours: no bias before BatchNorm.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, mse_loss
from torch.utils.data import DataLoader, Dataset

SIZE, WINDOW, HOLE = 64, 28, (20, 25)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def _upsampling(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def completion_network(width: int, inputs: int = 3) -> nn.Sequential:
    """The 17 layers of the generator."""
    one, two, four = width, 2 * width, 4 * width
    layers = _convolution(inputs, one, 5) + _convolution(one, two, 3, 2) + _convolution(two, two, 3)
    layers += _convolution(two, four, 3, 2) + _convolution(four, four, 3) + _convolution(four, four, 3)
    for dilation in (2, 4, 8, 16):
        layers += _convolution(four, four, 3, dilation=dilation)
    layers += _convolution(four, four, 3) + _convolution(four, four, 3)
    layers += _upsampling(four, two) + _convolution(two, two, 3) + _upsampling(two, one)
    layers += [*_convolution(one, one // 2, 3), nn.Conv2d(one // 2, 3, 3, 1, 1), nn.Sigmoid()]
    return nn.Sequential(*layers)


class ContextDiscriminator(nn.Module):
    """A global and a local branch and the layer that joins them; a probability, as the ports have it."""

    def __init__(self, width: int) -> None:
        super().__init__()

        def branch(size: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            channels = 3
            for outputs in (width, 2 * width, 4 * width, 8 * width):
                layers += _convolution(channels, outputs, 5, 2)
                channels, size = outputs, (size + 1) // 2
            return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, 32 * width), nn.ReLU())

        self.local, self.whole = branch(WINDOW), branch(SIZE)
        self.joined = nn.Linear(64 * width, 1)

    def forward(self, window: Tensor, image: Tensor) -> Tensor:
        return torch.sigmoid(self.joined(torch.cat([self.local(window), self.whole(image)], dim=1)))


class ImageFiles(Dataset):
    """Files, decoded and scaled each time they are asked for."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        image = Image.open(self.paths[index]).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class BaselineLoop:
    """Both networks and their training on a folder's files.

    Args:
        paths: of JPEGs.
        batch_size: images a step.
        width: channels of the first layers.
        weight: of the adversarial loss.
    """

    def __init__(self, paths: list[Path], batch_size: int, width: int, weight: float = 0.1) -> None:
        self.generator, self.discriminator = completion_network(width), ContextDiscriminator(width)
        self.adam = [torch.optim.Adam(net.parameters(), lr=2e-4) for net in (self.generator, self.discriminator)]
        self.batch_size, self.weight, self.paths = batch_size, weight, paths
        self.batches = self._endless()

    def _endless(self) -> Iterator[Tensor]:
        loader = DataLoader(ImageFiles(self.paths), self.batch_size, shuffle=True, drop_last=True)
        while True:
            yield from loader

    def batch(self) -> Tensor:
        return next(self.batches)

    def step(self, phase: int, image: Tensor | None = None) -> None:
        """One step on the next batch of files, or on `image` [B, 3, 64, 64]."""
        image = self.batch() if image is None else image
        corner = _random_corner()
        mask = _masks(len(image), corner)
        output = self.generator(image * (1 - mask))
        if phase != 1:
            fake = self.discriminator(_window(output.detach(), corner), output.detach())
            real = self.discriminator(_window(image, _random_corner()), image)
            loss = binary_cross_entropy(fake, torch.zeros_like(fake))
            loss = (loss + binary_cross_entropy(real, torch.ones_like(real))) / 2
            self._update(1, loss)
        if phase != 2:
            loss = mse_loss(output, image)
            if phase == 3:
                fooled = self.discriminator(_window(output, corner), output)
                loss = (loss + self.weight * binary_cross_entropy(fooled, torch.ones_like(fooled))) / 2
            self._update(0, loss)

    def _update(self, which: int, loss: Tensor) -> None:
        loss.backward()
        self.adam[which].step()
        self.adam[which].zero_grad()
        loss.item()  # for the progress bar


def _random_corner() -> tuple[int, int]:
    return random.randint(0, SIZE - WINDOW), random.randint(0, SIZE - WINDOW)


def _masks(num: int, corner: tuple[int, int]) -> Tensor:
    mask = torch.zeros(num, 1, SIZE, SIZE)
    for image in range(num):
        width, height = random.randint(*HOLE), random.randint(*HOLE)
        x = corner[0] + random.randint(0, WINDOW - width)
        y = corner[1] + random.randint(0, WINDOW - height)
        mask[image, :, y : y + height, x : x + width] = 1
    return mask


def _window(image: Tensor, corner: tuple[int, int]) -> Tensor:
    x, y = corner
    return image[:, :, y : y + WINDOW, x : x + WINDOW]
