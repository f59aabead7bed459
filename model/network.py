"""The network: pooled bags and dense columns in, a logit for each output out.

Shapes: n examples, b bags, d deep numbers of a row, c dense columns, o outputs, task the tasks.
    deep  [n, b, d]  pooled rows              wide [n, o]  sums of the ids' own weights
    dense [n, c]     standardised columns     logits [n, o]
logits = towers(sharing([deep, dense, products])) + wide + linear(dense)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from model.batch import Inputs, Layout
from model.layers import Towers
from model.schema import Schema
from model.sharing import sharing
from model.structure import NetworkConfig


def pairs(schema: Schema, layout: Layout) -> tuple[tuple[str, str], ...]:
    """The default products: the item with the user, and with each other bag of the item's table
    (a history), since likeness of rows is what recommends."""
    bags = {bag.name: bag.table for bag in layout.bags}
    if schema.item is None or schema.item not in bags:
        return ()
    alike = [n for n, t in bags.items() if t == bags[schema.item] and n != schema.item]
    return tuple((schema.item, n) for n in [schema.user, *alike] if n in bags)


class Network(nn.Module):
    """`reads` is the layout of the rows that it reads, `copies` how many an id has there."""

    copies = 1
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
        self.reads = layout
        named = pairs(schema, layout) if config.products is None else config.products
        places = torch.tensor([[layout.bag(a), layout.bag(b)] for a, b in named], dtype=torch.long)
        self.register_buffer("left", places.reshape(-1, 2)[:, 0].contiguous(), persistent=False)
        self.register_buffer("right", places.reshape(-1, 2)[:, 1].contiguous(), persistent=False)
        tasks = len(schema.tasks)
        inputs = (len(layout.bags) + len(named)) * dim + len(layout.dense)
        self.sharing = sharing(config, inputs, tasks, generator)
        widest = max(task.outputs for task in schema.tasks)
        self.towers = Towers(tasks, config.width, config.tower, widest, generator)
        self.linear = nn.Parameter(torch.zeros(len(layout.dense), schema.outputs))
        self.bias = nn.Parameter(torch.zeros(schema.outputs))
        self.outputs = [task.outputs for task in schema.tasks]

    def rows_of(self, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """The keys and weights of the rows that it reads."""
        return inputs.keys, inputs.weights

    def own(self, rates: torch.Tensor) -> list[tuple[nn.Parameter, torch.Tensor]]:
        """The parameters that are a single task's, with what `rates` [task] are for each number:
        towers, own experts and branches, linear terms."""
        of_task = [*self.towers.parameters(), *self.sharing.own()]
        of_output = rates.repeat_interleave(torch.tensor(self.outputs, device=rates.device))
        return [
            *((p, rates.view(-1, *[1] * (p.dim() - 1))) for p in of_task),
            *((p, of_output) for p in (self.linear, self.bias)),
        ]

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
