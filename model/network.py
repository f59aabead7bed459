"""The network: pooled bags and dense columns in, a logit for each output out.

Shapes: n examples, b bags, d deep numbers of a row, c dense columns, o outputs, task the tasks.
    deep  [n, b, d]  pooled rows              wide [n, o]  sums of the ids' own weights
    dense [n, c]     standardised columns     logits [n, o]
logits = towers(sharing([deep, dense, products])) + wide + linear(dense)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from model.batch import Layout
from model.layers import Towers
from model.schema import Schema
from model.sharing import MMoE, SharedBottom

SHARING = ("shared_bottom", "mmoe")


@dataclass(frozen=True)
class NetworkConfig:
    """`width` of the bottom or of each expert; `tower`: the hidden width of each task's tower.

    `products` names pairs of bags whose rows are multiplied, number by number, as added inputs;
    by default those of `pairs`.
    """

    sharing: str = "mmoe"
    experts: int = 4
    width: int = 64
    tower: int = 32
    products: tuple[tuple[str, str], ...] | None = None

    def __post_init__(self) -> None:
        if self.sharing not in SHARING:
            raise ValueError(
                f"NetworkConfig.sharing is {self.sharing!r}: expected one of {', '.join(SHARING)}"
            )
        for name in ("experts", "width", "tower"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"NetworkConfig.{name} is {getattr(self, name)}: expected 1 or more"
                )


def pairs(schema: Schema, layout: Layout) -> tuple[tuple[str, str], ...]:
    """The default products: the item with the user, and with each other bag of the item's table
    (a history), since likeness of rows is what recommends."""
    bags = {bag.name: bag.table for bag in layout.bags}
    if schema.item is None or schema.item not in bags:
        return ()
    alike = [n for n, t in bags.items() if t == bags[schema.item] and n != schema.item]
    return tuple((schema.item, n) for n in [schema.user, *alike] if n in bags)


class Network(nn.Module):
    left: torch.Tensor
    right: torch.Tensor

    def __init__(
        self,
        schema: Schema,
        layout: Layout,
        config: NetworkConfig,
        dim: int,
        generator: torch.Generator,
    ):
        super().__init__()
        named = pairs(schema, layout) if config.products is None else config.products
        places = torch.tensor([[layout.bag(a), layout.bag(b)] for a, b in named], dtype=torch.long)
        self.register_buffer("left", places.reshape(-1, 2)[:, 0].contiguous(), persistent=False)
        self.register_buffer("right", places.reshape(-1, 2)[:, 1].contiguous(), persistent=False)
        tasks = len(schema.tasks)
        inputs = (len(layout.bags) + len(named)) * dim + len(layout.dense)
        self.sharing: nn.Module
        if config.sharing == "mmoe":
            self.sharing = MMoE(inputs, tasks, config.width, config.experts, generator)
        else:
            self.sharing = SharedBottom(inputs, tasks, config.width, generator)
        widest = max(task.outputs for task in schema.tasks)
        self.towers = Towers(tasks, config.width, config.tower, widest, generator)
        self.linear = nn.Parameter(torch.zeros(len(layout.dense), schema.outputs))
        self.bias = nn.Parameter(torch.zeros(schema.outputs))
        self.outputs = [task.outputs for task in schema.tasks]

    def forward(self, deep: torch.Tensor, wide: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        parts = [deep.flatten(1), dense]
        if len(self.left):
            parts.append((deep[:, self.left] * deep[:, self.right]).flatten(1))
        towers = self.towers(self.sharing(torch.cat(parts, 1)))
        return self._in_columns(towers) + wide + torch.addmm(self.bias, dense, self.linear)

    def _in_columns(self, towers: torch.Tensor) -> torch.Tensor:
        """[task, n, widest] -> [n, outputs], without the padding of narrower tasks."""
        if towers.shape[2] == 1:
            return towers.squeeze(2).t()
        return torch.cat([t[:, :k] for t, k in zip(towers, self.outputs, strict=True)], 1)
