"""How tasks share what they read: x [n, inputs] -> [task, n, width], what each task's tower reads.

All experts or branches of a level are one matmul. `own()` gives the parameters of single tasks,
task first in their shape: their learning rates can be moved. (Without any sharing: model/alone.py.)
"""

from __future__ import annotations

import torch
from torch import nn

from model.layers import uniform
from model.structure import NetworkConfig


class SharedBottom(nn.Module):
    """One hidden layer that all tasks read (Caruana 1997)."""

    def __init__(self, inputs: int, tasks: int, width: int, generator: torch.Generator):
        super().__init__()
        self.tasks = tasks
        self.weight = uniform((inputs, width), inputs, generator)
        self.bias = nn.Parameter(torch.zeros(width))

    def own(self) -> list[nn.Parameter]:
        return []

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

    def own(self) -> list[nn.Parameter]:
        return []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.addmm(self.bias, x, self.weight)
        sizes = (self.experts * self.width, self.experts * self.tasks)
        experts, gates = both.split(sizes, dim=1)  # one gradient to put together, not two to add
        experts = experts.relu().view(-1, self.experts, self.width)
        gates = gates.reshape(-1, self.tasks, self.experts).softmax(2)
        return torch.bmm(gates, experts).transpose(0, 1)


class PLE(nn.Module):
    """Progressive layered extraction (Tang et al., RecSys 2020): levels of `Extraction`.

    Each level passes on what each task reads, and, but for the last, what the shared experts read.
    """

    def __init__(self, inputs: int, tasks: int, config: NetworkConfig, generator: torch.Generator):
        super().__init__()
        self.levels = nn.ModuleList(
            Extraction(
                config.width if level else inputs, tasks, config, level + 1 == config.levels,
                generator,
            )
            for level in range(config.levels)
        )  # fmt: skip

    def own(self) -> list[nn.Parameter]:
        return [p for level in self.levels for p in (level.own_weight, level.own_bias)]  # type: ignore[misc]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        of_tasks, of_all = x.expand(len(self.levels[0].own_bias), -1, -1), x  # type: ignore[arg-type]
        for level in self.levels:
            of_tasks, of_all = level(of_tasks, of_all)
        return of_tasks


class Extraction(nn.Module):
    """One level: experts of each task, and of all. A task's gate, a softmax of what the task reads,
    weighs its own experts and the shared; the shared gate, of what those read, weighs all of them.

    of_tasks [task, n, inputs], of_all [n, inputs] -> the same with `width`. Gates start equal. The
    last level has no shared gate, and gives what came in for `of_all`. (A lone last level is CGC,
    section 4.1; more are PLE, 4.2.)
    """

    def __init__(
        self, inputs: int, tasks: int, config: NetworkConfig, last: bool,
        generator: torch.Generator,
    ):  # fmt: skip
        super().__init__()
        self.width, self.last = config.width, last
        self.owned, self.shared = config.own_experts * self.width, config.experts * self.width
        gate = config.own_experts + config.experts
        shared_gate = 0 if last else tasks * config.own_experts + config.experts
        self.own_weight = uniform((tasks, inputs, self.owned + gate), inputs, generator)
        self.own_bias = nn.Parameter(torch.zeros(tasks, 1, self.owned + gate))
        self.weight = uniform((inputs, self.shared + shared_gate), inputs, generator)
        self.bias = nn.Parameter(torch.zeros(self.shared + shared_gate))
        with torch.no_grad():
            self.own_weight[:, :, self.owned :] = 0
            self.weight[:, self.shared :] = 0

    def forward(
        self, of_tasks: torch.Tensor, of_all: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tasks, n = of_tasks.shape[:2]
        both = torch.baddbmm(self.own_bias, of_tasks, self.own_weight)
        owned = both[:, :, : self.owned].relu().view(tasks, n, -1, self.width)
        gates = both[:, :, self.owned :].softmax(2)
        both = torch.addmm(self.bias, of_all, self.weight)
        shared = both[:, : self.shared].relu().view(n, -1, self.width)
        split = owned.shape[2]
        read = (gates[:, :, :split].unsqueeze(3) * owned).sum(2)
        read = read + torch.bmm(gates[:, :, split:].transpose(0, 1), shared).transpose(0, 1)
        if self.last:
            return read, of_all
        every = torch.cat([owned.transpose(0, 1).flatten(1, 2), shared], 1)
        gate = both[:, self.shared :].softmax(1)
        return read, torch.bmm(gate.unsqueeze(1), every).squeeze(1)


class CrossStitch(nn.Module):
    """A branch for each task, and after each of its levels a matrix that mixes the branches
    (Misra et al., CVPR 2016, equation 1): a task reads .9 of its own at first, .1 of the others."""

    def __init__(
        self, inputs: int, tasks: int, width: int, levels: int, generator: torch.Generator
    ):
        super().__init__()
        reads = [inputs] + [width] * (levels - 1)
        self.weights = nn.ParameterList(uniform((tasks, i, width), i, generator) for i in reads)
        self.biases = nn.ParameterList(torch.zeros(tasks, 1, width) for _ in reads)
        others = 0.1 / max(tasks - 1, 1)
        mixed = torch.full((tasks, tasks), others).fill_diagonal_(0.9 if tasks > 1 else 1.0)
        self.stitches = nn.ParameterList(mixed.clone() for _ in reads)

    def own(self) -> list[nn.Parameter]:
        return [*self.weights, *self.biases, *self.stitches]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = x.expand(len(self.stitches[0]), -1, -1)
        for weight, bias, stitch in zip(self.weights, self.biases, self.stitches, strict=True):
            branches = torch.baddbmm(bias, branches, weight).relu()
            branches = (stitch @ branches.flatten(1)).view(branches.shape)
        return branches


def sharing(
    config: NetworkConfig, inputs: int, tasks: int, generator: torch.Generator
) -> SharedBottom | MMoE | PLE | CrossStitch:
    """What `config.sharing` names, for `inputs` numbers of an example."""
    if config.sharing == "mmoe":
        return MMoE(inputs, tasks, config.width, config.experts, generator)
    if config.sharing == "ple":
        return PLE(inputs, tasks, config, generator)
    if config.sharing == "cross_stitch":
        return CrossStitch(inputs, tasks, config.width, config.levels, generator)
    return SharedBottom(inputs, tasks, config.width, generator)
