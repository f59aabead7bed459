"""Running standardisation of inputs and targets; how a network's parameters begin, and lie."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from model.kernel import kernel

OUTLIER = 16.0
SETTLED = 1_000.0


class Standardiser:
    """Columns to mean 0 and variance 1, by what was seen before; float64 within.

    Mean and variance are Welford's, over the past until `memory` rows, then exponentially
    weighted with that memory. A column never seen gives 0. Values are clipped to +-`clip`; one
    that is not finite gives NaN, so that the step that holds it is refused. Once a column has
    `SETTLED` values, one further than `OUTLIER` deviations from its mean counts as that far, so
    that no single value can ruin the scale; `exact` columns, such as base rates, take all as is.
    """

    def __init__(
        self,
        columns: int,
        memory: float = 100_000.0,
        clip: float = 5.0,
        exact: np.ndarray | None = None,
    ):
        self.memory, self.clip = memory, clip
        self.exact = np.zeros(columns, np.bool_) if exact is None else exact
        self.count = np.zeros(columns)
        self.mean = np.zeros(columns)
        self.variance = np.zeros(columns)

    def transform(self, values: np.ndarray) -> np.ndarray:
        """float32 [n, columns] -> standardised float32 [n, columns]. Changes nothing."""
        out = np.empty(values.shape, np.float32)
        _standardise(values, self.count, self.mean, self.variance, self.clip, out)
        return out

    @property
    def scale(self) -> np.ndarray:
        """The standard deviation of each column, 1 where it is not known: float64 [columns]."""
        return np.where(self.variance > 0, np.sqrt(self.variance), 1.0)

    def update(self, values: np.ndarray, mask: np.ndarray) -> None:
        """Takes in the rows of values [n, columns] whose mask [n, columns] is set."""
        _absorb(values, mask, self.count, self.mean, self.variance, self.memory, self.exact)

    def state(self) -> dict[str, np.ndarray]:
        return {
            "count": self.count.copy(),
            "mean": self.mean.copy(),
            "variance": self.variance.copy(),
        }

    def load(self, state: dict[str, np.ndarray]) -> None:
        self.count = state["count"].copy()
        self.mean = state["mean"].copy()
        self.variance = state["variance"].copy()


@kernel
def _standardise(values, count, mean, variance, clip, out) -> None:  # type: ignore[no-untyped-def]
    for c in range(values.shape[1]):
        scale = 1.0 / math.sqrt(variance[c]) if variance[c] > 1e-12 else 1.0
        for i in range(values.shape[0]):
            z = (values[i, c] - mean[c]) * scale if count[c] > 0 else 0.0
            if not math.isfinite(values[i, c]):
                z = math.nan
            elif z > clip:
                z = clip
            elif z < -clip:
                z = -clip
            out[i, c] = z


@kernel
def _absorb(values, mask, count, mean, variance, memory, exact) -> None:  # type: ignore[no-untyped-def]
    for c in range(values.shape[1]):
        low, high = -math.inf, math.inf
        if count[c] >= SETTLED and variance[c] > 1e-12 and not exact[c]:
            reach = OUTLIER * math.sqrt(variance[c])
            low, high = mean[c] - reach, mean[c] + reach
        n, total = 0, 0.0
        for i in range(values.shape[0]):
            if mask[i, c]:
                n += 1
                total += min(max(values[i, c], low), high)
        if n == 0:
            continue
        here = total / n
        spread = 0.0
        for i in range(values.shape[0]):
            if mask[i, c]:
                spread += (min(max(values[i, c], low), high) - here) ** 2
        # Chan et al. 1979: two parts' means and sums of squares make the whole's.
        past = min(count[c], memory)
        delta = here - mean[c]
        whole = past + n
        mean[c] += delta * n / whole
        variance[c] = (variance[c] * past + spread + delta * delta * past * n / whole) / whole
        count[c] += n


def uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    """He et al. 2015, for ReLU: uniform within +-sqrt(6 / fan_in)."""
    bound = math.sqrt(6.0 / max(fan_in, 1))
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))


def flat_sizes(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Where each parameter begins in what `flatten` makes, and how much it takes there."""
    sizes, start = {}, 0
    for name, parameter in module.named_parameters():
        size = -(-parameter.numel() // 16) * 16
        sizes[name] = (start, size)
        start += size
    return sizes


def flatten(module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Puts all parameters, and their gradients, into one flat tensor each.

    The module keeps its parameters, as views at multiples of 64 bytes (the kernels' alignment, so
    that last bits do not depend on what stands before). An optimiser of the flat tensor is one
    kernel, and one norm says whether all gradients are finite.
    """
    parameters = list(module.parameters())
    numbers = [p.numel() for p in parameters]
    sizes = [size for _, size in flat_sizes(module).values()]
    flat = torch.zeros(sum(sizes), device=parameters[0].device)
    flat.grad = flat_grad = torch.zeros_like(flat)
    parts = zip(parameters, numbers, flat.split(sizes), flat_grad.split(sizes), strict=True)
    for parameter, n, weights, grads in parts:
        weights[:n].copy_(parameter.detach().reshape(-1))
        parameter.data = weights[:n].view(parameter.shape)
        parameter.grad = grads[:n].view(parameter.shape)
    return flat, flat_grad
