"""Each task alone: a network and embedding rows of its own. The baseline of what sharing gains.

Nothing learnt of one task reaches another: an id has a row in each task's tables. Only what holds
no label is common, the standardised columns. (Tasks of a chain have one loss, which moves both.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from model.batch import Bag, Inputs, Layout
from model.idmap import table_salt
from model.network import Network
from model.schema import Schema
from model.structure import NetworkConfig


class RowsOfTasks:
    """An id's rows, one for each task: `reads` is the layout of them all, of what one task reads
    from `one`."""

    def __init__(self, schema: Schema, one: Layout) -> None:
        names = [task.name for task in schema.tasks]
        self.tasks, self.bags = len(names), len(one.bags)
        self._salts = np.array([table_salt(name) for name in names], np.int64)
        self.reads = Layout(
            tuple(
                Bag(f"{bag.name}@{name}", f"{bag.table}@{name}", bag.size)
                for name in names
                for bag in one.bags
            ),
            one.dense,
        )

    def rows_of(self, keys: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the keys and weights [n, slots] of one, those of each task's rows."""
        own = keys[:, None, :] ^ self._salts[:, None]
        own[np.broadcast_to(keys[:, None, :] == 0, own.shape)] = 0
        return own.reshape(len(own), -1), np.tile(weights, self.tasks)


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
        self.layout: Layout = self.networks[0].layout  # type: ignore[assignment]
        self._read_rows(schema)

    def _read_rows(self, schema: Schema) -> None:
        """Which rows are read: each task's own."""
        self.rows = RowsOfTasks(schema, self.networks[0].reads)  # type: ignore[arg-type]
        self.copies, self.reads = self.rows.tasks, self.rows.reads

    def rows_of(self, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """Keys and weights of each task's rows, [n, tasks x slots]."""
        return self.rows.rows_of(*self.networks[0].rows_of(inputs))  # type: ignore[operator]

    def own(self, rates: torch.Tensor) -> list[tuple[nn.Parameter, torch.Tensor]]:
        """All parameters, each with its task's of `rates` [task]."""
        return [
            (p, rate)
            for net, rate in zip(self.networks, rates, strict=True)
            for p in net.parameters()
        ]

    def forward(self, deep: torch.Tensor, wide: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        logits = [
            net(own, wide[:, columns], dense)
            for net, own, columns in zip(self.networks, self._split(deep), self.slices, strict=True)
        ]
        return torch.cat(logits, 1)

    def _split(self, deep: torch.Tensor) -> Sequence[torch.Tensor]:
        """Each network's rows."""
        return deep.split(self.rows.bags, 1)
