"""Partial updates: the named parts of a model learn, and the rest stays as it is, bit for bit.

    towers, towers.TASK, sharing, linear, bias, cross, fm, attention, convolutions
                                     of the network, what it has
    embedding, embedding.TABLE       the rows of ids; a table is called as the field it is of
    inputs, labels                   running means and scales of dense columns, and of labels

The statistics of batch normalisation are of `towers`, all tasks' together, and of `convolutions`.
A table that stays admits no id; its ids leave by age and by room as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import torch

from model.alone import Alone
from model.schema import nearest
from model.score import Predictor

STATISTICS = ("towers", "convolutions", "inputs", "labels")
"""Parts that take in a batch after it was learnt."""


def parts(model: Predictor) -> dict[str, list[torch.Tensor]]:
    """Each part of the network by its name: views of its parameters."""
    network = model.network
    networks = list(network.networks) if isinstance(network, Alone) else [network]
    tasks = [task.name for task in model.schema.tasks]
    found: dict[str, list[torch.Tensor]] = {}
    for number, net in enumerate(networks):
        of_net = tasks if len(networks) == 1 else tasks[number : number + 1]
        for name, parameter in net.named_parameters():
            head = name.partition(".")[0]
            found.setdefault(head, []).append(parameter.data)
            if head == "towers":
                for task, own in zip(of_net, parameter.data, strict=True):
                    found.setdefault(f"towers.{task}", []).append(own)
    return found


class Partial:
    """What `names` leave to learn of a model whose parameters are views of `flat`.

    `tables` are those of the embedding that stay. Raises ValueError for a name of no part.
    """

    def __init__(self, model: Predictor, flat: torch.Tensor, names: Collection[str]) -> None:
        of_network = parts(model)
        tables = [f"embedding.{table}" for table in model.network.layout.tables]
        known = [*of_network, "embedding", *tables, "inputs", "labels"]
        for name in names:
            if name not in known:
                raise ValueError(f"Trainer.Config.train_only has {name!r}: {nearest(name, known)}")
        self.names = frozenset(names)
        self.tables = frozenset(
            table
            for table, name in zip(model.network.layout.tables, tables, strict=True)
            if not {"embedding", name} & self.names
        )
        self._flat = flat
        self._free = torch.zeros_like(flat, dtype=torch.bool)
        for name in self.names & of_network.keys():
            for view in of_network[name]:
                at = (view.shape, view.stride(), view.storage_offset())
                self._free.as_strided(*at).fill_(True)

    def step(self, optimiser: torch.optim.Optimizer, move: Callable[[], None]) -> None:
        """Lets `move` change the weights and the optimiser's state, and undoes what is not free."""
        before = self._flat.clone()
        state = optimiser.state[self._flat]
        kept = {n: s.clone() for n, s in state.items() if s.shape == before.shape}
        move()
        torch.where(self._free, self._flat, before, out=self._flat)
        for name, moved in optimiser.state[self._flat].items():
            if moved.shape == before.shape:
                torch.where(self._free, moved, kept.get(name, torch.zeros_like(moved)), out=moved)

    @property
    def statistics(self) -> Collection[str]:
        return [name for name in STATISTICS if name in self.names]


def slots_of(tables: Collection[str], model: Predictor) -> np.ndarray:
    """The slots that read rows of `tables`, in the network's layout: bool [slots]."""
    reads = model.network.reads
    names = np.array([str(bag.table).partition("@")[0] in tables for bag in reads.bags])
    return np.asarray(names[reads.bag_of_slot])
