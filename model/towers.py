"""A small network for each task, on what it reads: all tasks in one batched matmul."""

from __future__ import annotations

import torch
from torch import nn

from model.blocks import BatchNorm, Dropout, Residual
from model.layers import uniform


class Towers(nn.Module):
    """A hidden layer and an output layer a task, with building blocks between where asked for:
    `norm` before the hidden layer, after it `residual` blocks, then `dropout` of that share.

    [task, n, inputs] -> [task, n, widest], where widest is the most outputs of a task. All
    parameters have the task first in their shape.
    """

    def __init__(
        self, tasks: int, inputs: int, hidden: int, widest: int, generator: torch.Generator,
        norm: bool = False, residual: int = 0, dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.hidden = uniform((tasks, inputs, hidden), inputs, generator)
        self.hidden_bias = nn.Parameter(torch.zeros(tasks, 1, hidden))
        self.out = uniform((tasks, hidden, widest), 6 * hidden, generator)
        self.out_bias = nn.Parameter(torch.zeros(tasks, 1, widest))
        self.norm = BatchNorm(tasks, inputs) if norm else nn.Identity()
        blocks: list[nn.Module] = [Residual(tasks, hidden, generator) for _ in range(residual)]
        self.blocks = nn.Sequential(*blocks, *([Dropout(dropout)] if dropout else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.baddbmm(self.hidden_bias, self.norm(x), self.hidden).relu())

    def last(self, hidden: torch.Tensor) -> torch.Tensor:
        """[task, n, hidden] -> [task, n, widest]"""
        return torch.baddbmm(self.out_bias, self.blocks(hidden), self.out)
