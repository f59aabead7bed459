"""Series and images to a few numbers each, by convolutions that all tasks share.

Shapes: n examples; places the length of a series, or the height and width of an image.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from model.blocks import BatchNorm, DepthwiseSeparable, Dropout
from model.layers import uniform

CHANNELS, KERNEL, BLOCKS = 16, 5, 2


class Convolution(nn.Module):
    """[n, numbers] of a `shape` (channels, *places) -> [n, outputs].

    A convolution across all channels, then residual blocks of depthwise separable ones (as in
    Xception: Chollet, CVPR 2017), with places halved between where there are two and more; their
    mean and maximum over places, normalised by the past (model/blocks.py), dropped out by the share
    `dropout`, and one linear layer. Numbers come standardised, each place by itself. The last
    convolution of a block starts at 0, so that what it reads passes as it is.
    """

    def __init__(
        self, shape: tuple[int, ...], outputs: int, dropout: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.shape, dims = shape, len(shape) - 1
        self.convolve = F.conv1d if dims == 1 else F.conv2d
        self.halve = F.max_pool1d if dims == 1 else F.max_pool2d
        kernel = [KERNEL] * dims
        self.stem = uniform((CHANNELS, shape[0], *kernel), shape[0] * math.prod(kernel), generator)
        self.stem_bias = nn.Parameter(torch.zeros(CHANNELS))
        self.blocks = nn.ModuleList(
            DepthwiseSeparable(CHANNELS, CHANNELS, KERNEL, dims, generator) for _ in range(BLOCKS)
        )
        for block in self.blocks:
            nn.init.zeros_(block.pointwise)  # type: ignore[arg-type]
        self.norm = BatchNorm(1, 2 * CHANNELS)
        self.dropout = Dropout(dropout)
        self.out = uniform((2 * CHANNELS, outputs), 6 * 2 * CHANNELS, generator)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        x = numbers.reshape(-1, *self.shape)
        x = self.convolve(x, self.stem, self.stem_bias, padding=KERNEL // 2).relu()
        for block in self.blocks:
            if min(x.shape[2:]) > 1:
                x = self.halve(x, 2)
            x = x + block(x.relu())
        places = x.flatten(2)
        pooled = torch.cat([places.mean(2), places.amax(2)], 1)
        return torch.addmm(self.bias, self.dropout(self.norm(pooled[None]))[0], self.out)
