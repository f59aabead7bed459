"""How tasks share what they read: one bottom for all, or experts behind a gate a task.

Shapes: x [n, inputs] -> [task, n, width], what each task's tower reads.
"""

from __future__ import annotations

import torch
from torch import nn

from model.layers import uniform


class SharedBottom(nn.Module):
    """One hidden layer that all tasks read (Caruana 1997)."""

    def __init__(self, inputs: int, tasks: int, width: int, generator: torch.Generator):
        super().__init__()
        self.tasks = tasks
        self.weight = uniform((inputs, width), inputs, generator)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x, self.weight).relu().expand(self.tasks, -1, -1)


class MMoE(nn.Module):
    """Multi-gate mixture of experts (Ma et al., KDD 2018): each task weighs the experts by a
    softmax of x. Experts and gates read x in one matmul; gates start equal."""

    def __init__(
        self, inputs: int, tasks: int, width: int, experts: int, generator: torch.Generator
    ):
        super().__init__()
        self.tasks, self.width, self.experts = tasks, width, experts
        self.weight = uniform((inputs, experts * (width + tasks)), inputs, generator)
        self.bias = nn.Parameter(torch.zeros(experts * (width + tasks)))
        with torch.no_grad():
            self.weight[:, experts * width :] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.addmm(self.bias, x, self.weight)
        split = self.experts * self.width
        experts = both[:, :split].relu().view(-1, self.experts, self.width)
        gates = both[:, split:].view(-1, self.tasks, self.experts).softmax(2)
        return torch.bmm(gates, experts).transpose(0, 1)
