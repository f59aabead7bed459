"""Each task alone: a network and embedding rows of its own. The baseline of what sharing gains.

Nothing learnt of one task reaches another: an id has a row in each task's tables. Only what holds
no label is common, the standardised columns. (Tasks of a chain have one loss, which moves both.)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from model.batch import Bag, Inputs, Layout
from model.idmap import table_salt
from model.network import Network
from model.schema import Schema
from model.structure import NetworkConfig


class Alone(nn.Module):
    """A `Network` a task; takes and gives what one network for all would."""

    def __init__(
        self,
        schema: Schema,
        layout: Layout,
        config: NetworkConfig,
        dim: int,
        generator: torch.Generator,
    ):
        super().__init__()
        self.slices = list(schema.output_slices.values())
        self.networks = nn.ModuleList(
            Network(replace(schema, tasks=(task,)), layout, config, dim, generator)
            for task in (replace(task, given="") for task in schema.tasks)
        )
        names = [task.name for task in schema.tasks]
        self.copies = len(names)
        self.salts = np.array([table_salt(name) for name in names], np.int64)
        self.bags = len(self.networks[0].reads.bags)  # type: ignore[union-attr, arg-type]
        self.reads = Layout(
            tuple(
                Bag(f"{bag.name}@{name}", f"{bag.table}@{name}", bag.size)
                for name in names
                for bag in self.networks[0].reads.bags  # type: ignore[union-attr]
            ),
            layout.dense,
        )

    def rows_of(self, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """Keys and weights of each task's rows, [n, tasks x slots]."""
        keys = inputs.keys[:, None, :] ^ self.salts[:, None]
        keys[np.broadcast_to(inputs.keys[:, None, :] == 0, keys.shape)] = 0
        return keys.reshape(len(keys), -1), np.tile(inputs.weights, self.copies)

    def own(self, rates: torch.Tensor) -> list[tuple[nn.Parameter, torch.Tensor]]:
        """All parameters, each with its task's of `rates` [task]."""
        return [
            (p, rate)
            for net, rate in zip(self.networks, rates, strict=True)
            for p in net.parameters()
        ]

    def forward(self, deep: torch.Tensor, wide: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        rows = deep.split(self.bags, 1)
        logits = [
            net(own, wide[:, columns], dense)
            for net, own, columns in zip(self.networks, rows, self.slices, strict=True)
        ]
        return torch.cat(logits, 1)
