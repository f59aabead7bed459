"""Building blocks that are safe where a step first predicts and then learns.

A prediction sees no batch: neither its statistics nor a dropout drawn for it. A block that keeps
statistics takes a batch in after it was learnt (`absorb`). Shapes: task tasks, n examples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from model.layers import uniform


class BatchNorm(nn.Module):
    """[task, n, width] to mean 0 and variance 1, then scaled and shifted (Ioffe, Szegedy 2015), by
    the statistics of the batches learnt before, in learning as in predicting.

    They are of the past until `memory` examples, then weighted exponentially with that memory. A
    value is clipped to +-`clip`: one that hardly ever moved before can't be told as thousands.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    count: torch.Tensor

    def __init__(
        self, tasks: int, width: int, memory: float = 10_000.0, eps: float = 1e-3, clip: float = 5.0
    ):
        super().__init__()
        self.memory, self.eps, self.clip = memory, eps, clip
        self.scale = nn.Parameter(torch.ones(tasks, 1, width))
        self.shift = nn.Parameter(torch.zeros(tasks, 1, width))
        self.register_buffer("mean", torch.zeros(tasks, 1, width))
        self.register_buffer("variance", torch.ones(tasks, 1, width))
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting():
            self._last = x.detach()
        standard = (x - self.mean) * (self.variance + self.eps).rsqrt()
        return standard.clamp(-self.clip, self.clip) * self.scale + self.shift

    def absorb(self, n: int) -> None:
        """Takes in the first n examples of what it read last; the others are padding."""
        if n == 0:
            return
        x = self._last[:, :n]
        here, delta = x.mean(1, keepdim=True), x.mean(1, keepdim=True) - self.mean
        past = self.count.clamp(max=self.memory)
        share = n / (past + n)
        # Chan et al. 1979, as in model/layers.py; the first batch has no past.
        spread = x.var(1, keepdim=True, correction=0) + delta.square() * (1 - share)
        self.variance += (spread - self.variance) * share
        self.mean += (here - self.mean) * share
        self.count += n


class Dropout(nn.Module):
    """Leaves out a `share` of numbers, and scales the others up (Srivastava et al. 2014): only
    within `dropping`, so only in learning."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share
        self.generator: torch.Generator | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.generator is None:
            return x
        kept = torch.rand(x.shape, generator=self.generator) >= self.share
        return x * (kept.to(x.device) / (1 - self.share))


@contextmanager
def dropping(network: nn.Module, seed: int, step: int) -> Iterator[None]:
    """Within it the network's dropouts leave out what (seed, step) decides."""
    state = np.random.SeedSequence((seed & (2**64 - 1), step)).generate_state(1)
    generator = torch.Generator().manual_seed(int(state[0]))
    dropouts = [m for m in network.modules() if isinstance(m, Dropout)]
    for dropout in dropouts:
        dropout.generator = generator
    try:
        yield
    finally:
        for dropout in dropouts:
            dropout.generator = None


def absorb(network: nn.Module, n: int, parts: Collection[str]) -> None:
    """Has each block of the network's `parts` that keeps statistics take in the n examples that
    were learnt last."""
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, BatchNorm) and not set(name.split(".")).isdisjoint(parts):
                module.absorb(n)


class Residual(nn.Module):
    """[task, n, width]: x + W2 relu(W1 x + b1) + b2, all tasks in one batched matmul (He et al.
    2016). W2 and b2 start at 0, so x passes as it is."""

    def __init__(self, tasks: int, width: int, generator: torch.Generator):
        super().__init__()
        self.inner = uniform((tasks, width, width), width, generator)
        self.inner_bias = nn.Parameter(torch.zeros(tasks, 1, width))
        self.outer = nn.Parameter(torch.zeros(tasks, width, width))
        self.outer_bias = nn.Parameter(torch.zeros(tasks, 1, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.baddbmm(self.inner_bias, x, self.inner).relu()
        return x + torch.baddbmm(self.outer_bias, inner, self.outer)


class DepthwiseSeparable(nn.Module):
    """A convolution of each channel alone, then one across channels at each place (Chollet, CVPR
    2017): [n, channels, length] -> [n, outputs, length], or an image's [n, channels, h, w]."""

    def __init__(
        self, channels: int, outputs: int, kernel: int, dims: int, generator: torch.Generator
    ):
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"DepthwiseSeparable.kernel is {kernel}: expected an odd number")
        self.channels, self.padding = channels, kernel // 2
        self.depthwise = uniform((channels, 1, *[kernel] * dims), kernel**dims, generator)
        self.pointwise = uniform((outputs, channels, *[1] * dims), channels, generator)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.convolve = F.conv1d if dims == 1 else F.conv2d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        alone = self.convolve(x, self.depthwise, padding=self.padding, groups=self.channels)
        return self.convolve(alone, self.pointwise, self.bias)
