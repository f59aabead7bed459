"""Between all shared and nothing (model/alone.py): each task has embedding rows of its own, or a
network of its own, and shares the other. For ablations: what does each kind of sharing give?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from model.alone import Alone, RowsOfTasks
from model.batch import Inputs, Layout
from model.network import Network
from model.schema import Schema
from model.structure import NetworkConfig


class OwnRows(Network):
    """One network, which reads each task's own rows for that task: tasks times the work."""

    def __init__(
        self,
        schema: Schema,
        layout: Layout,
        config: NetworkConfig,
        dim: int,
        generator: torch.Generator,
    ):
        super().__init__(schema, layout, config, dim, generator)
        self.rows = RowsOfTasks(schema, self.reads)
        self.copies, self.reads = self.rows.tasks, self.rows.reads
        self.slices = list(schema.output_slices.values())

    def rows_of(self, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        return self.rows.rows_of(*super().rows_of(inputs))

    def share(
        self, deep: torch.Tensor, dense: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        share = super().share
        made = [share(own, dense) for own in deep.split(self.rows.bags, 1)]
        read = torch.stack([of_all[task] for task, (of_all, _) in enumerate(made)])
        of_fm = [
            fm[:, where] for (_, fm), where in zip(made, self.slices, strict=True) if fm is not None
        ]
        return read, torch.cat(of_fm, 1) if of_fm else None


class OwnNetworks(Alone):
    """A `Network` a task, all over the same rows."""

    copies = 1

    def _read_rows(self, schema: Schema) -> None:
        self.reads = self.networks[0].reads  # type: ignore[assignment]

    def rows_of(self, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        rows: tuple[np.ndarray, np.ndarray] = self.networks[0].rows_of(inputs)  # type: ignore[operator]
        return rows

    def _split(self, deep: torch.Tensor) -> Sequence[torch.Tensor]:
        return [deep] * len(self.networks)


def network_of(config: NetworkConfig) -> type[Network] | type[Alone]:
    """The class of the network that `config` names."""
    if config.sharing == "single_task":
        return Alone
    kinds: dict[str, type[Network] | type[Alone]] = {"rows": OwnRows, "network": OwnNetworks}
    return kinds.get(config.apart, Network)
