"""The network: pooled bags and dense columns in, a logit for each output out.

Shapes: n examples, b bags, d deep numbers of a row, c dense columns, o outputs, task the tasks.
    deep  [n, b, d]  pooled rows              wide [n, o]  sums of the ids' own weights
    dense [n, c]     standardised columns     logits [n, o]
logits = towers(sharing(cross([deep, dense, grids, products, attended])))
         + fm(deep) + wide + linear(dense)
where grids are what convolutions make of series and images, which are columns of `dense` too.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from model.batch import Inputs, Layout
from model.convolution import Convolution
from model.idmap import table_keys, table_salt
from model.interactions import FM, Cross, TargetAttention
from model.schema import Schema
from model.sharing import sharing
from model.structure import NetworkConfig
from model.towers import Towers


def pairs(schema: Schema, layout: Layout) -> tuple[tuple[str, str], ...]:
    """The default products: the item with the user, and with each other bag of the item's table
    (a history), since likeness of rows is what recommends."""
    bags = {bag.name: bag.table for bag in layout.bags}
    if schema.item is None or schema.item not in bags:
        return ()
    alike = [n for n, t in bags.items() if t == bags[schema.item] and n != schema.item]
    return tuple((schema.item, n) for n in [schema.user, *alike] if n in bags)


def lists(schema: Schema, layout: Layout) -> tuple[tuple[str, str], ...]:
    """The default crosses: the user with each list of ids that an impression has (genres, tags),
    for what one likes of a kind is told by few examples, and products of rows need many."""
    there = {bag.name for bag in layout.bags}
    if schema.user not in there:
        return ()
    return tuple((schema.user, f.name) for f in schema.of_kind("ids") if f.name in there)


class Network(nn.Module):
    """`layout` is that of the inputs with the crossed bags, `reads` that of the rows which it
    reads, `copies` how many an id has there."""

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
        crosses = lists(schema, layout) if config.crossed is None else config.crossed
        for name in {name for pair in crosses for name in pair}:
            layout.bag(name)  # refuses what is none
        self._slots = [
            [np.flatnonzero(layout.bag_of_slot == layout.bag(name)) for name in pair]
            for pair in crosses
        ]
        self.layout = layout = layout.crossed(crosses)
        self._salts = [
            table_salt(bag.table) for bag in layout.bags[len(layout.bags) - len(crosses) :]
        ]
        self.reads = layout.spread(config.attention)
        self.sizes = [bag.size if bag.name in config.attention else 1 for bag in layout.bags]
        self.attended = [layout.bag(name) for name in config.attention]
        if self.attended and schema.item is None:
            raise ValueError("NetworkConfig.attention needs an item: Schema.item is None")
        self.item = layout.bag(schema.item) if self.attended and schema.item else -1
        named = pairs(schema, layout) if config.products is None else config.products
        places = torch.tensor([[layout.bag(a), layout.bag(b)] for a, b in named], dtype=torch.long)
        self.register_buffer("left", places.reshape(-1, 2)[:, 0].contiguous(), persistent=False)
        self.register_buffer("right", places.reshape(-1, 2)[:, 1].contiguous(), persistent=False)
        tasks = len(schema.tasks)
        added = len(named) + len(self.attended)
        grids = schema.grids
        self.plain = tuple(c for c in layout.dense if c not in schema.columns_of_grids)
        self._first = layout.dense.index(f"{grids[0].name}.0") if grids else len(layout.dense)
        self._sizes = [grid.numbers for grid in grids]
        inputs = (len(layout.bags) + added + len(grids)) * dim + len(self.plain)
        self.sharing = sharing(config, inputs, tasks, generator)
        widest = max(task.outputs for task in schema.tasks)
        self.towers = Towers(
            tasks, config.width, config.tower, widest, generator,
            config.norm, config.residual, config.dropout,
        )  # fmt: skip
        self.linear = nn.Parameter(torch.zeros(len(self.plain), schema.outputs))
        self.bias = nn.Parameter(torch.zeros(schema.outputs))
        self.outputs = [task.outputs for task in schema.tasks]
        self.attention = nn.ModuleList(TargetAttention(dim, dim, generator) for _ in self.attended)
        self.convolutions = nn.ModuleList(
            Convolution(grid.shape, dim, config.dropout, generator) for grid in grids
        )
        self.cross = Cross(inputs, config.cross) if config.cross else None
        self.fm = FM(dim, schema.outputs) if config.fm else None
        self.bf16 = config.bf16

    def rows_of(self, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """The keys and weights of the rows that it reads."""
        keys, weights = [inputs.keys], [inputs.weights]
        for (one, many), salt in zip(self._slots, self._salts, strict=True):
            first, second = inputs.keys[:, one], inputs.keys[:, many]
            mixed = table_keys(0, first.reshape(-1)).reshape(first.shape) ^ second
            own = table_keys(salt, mixed.reshape(-1)).reshape(mixed.shape)
            keys.append(np.where((first == 0) | (second == 0), 0, own))
            weights.append(inputs.weights[:, many])
        if not self._slots:
            return inputs.keys, inputs.weights
        return np.concatenate(keys, 1), np.concatenate(weights, 1)

    def own(self, rates: torch.Tensor) -> list[tuple[nn.Parameter, torch.Tensor]]:
        """The parameters that are a single task's, with what `rates` [task] are for each number:
        towers, own experts and branches, FM's weights, linear terms."""
        of_task = [*self.towers.parameters(), *self.sharing.own()]
        of_output = self.by_output(rates)
        return [
            *((p, rates.view(-1, *[1] * (p.dim() - 1))) for p in of_task),
            *((p, of_output) for p in (self.linear, self.bias)),
            *((p, of_output) for p in ([] if self.fm is None else self.fm.parameters())),
        ]

    def by_output(self, of_task: torch.Tensor) -> torch.Tensor:
        """[task] -> [outputs]"""
        repeats = torch.tensor(self.outputs, device=of_task.device)
        return of_task.repeat_interleave(repeats, output_size=sum(self.outputs))

    def forward(self, deep: torch.Tensor, wide: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        return self.answer(*self.share(deep, dense), wide, dense)

    def share(
        self, deep: torch.Tensor, dense: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the tasks make together: the representation that each tower reads,
        [task, n, width], and FM's part of the logits."""
        bags, attended = self._pooled(deep) if self.attended else (deep, [])
        parts = [bags.flatten(1), *self._read_grids(dense)]
        if len(self.left):
            parts.append((bags[:, self.left] * bags[:, self.right]).flatten(1))
        x = torch.cat([*parts, *attended], 1)
        of_fm = None if self.fm is None else self.fm(bags)
        if not self.bf16:
            return self._represent(x), of_fm
        with torch.autocast(x.device.type, torch.bfloat16):
            return self._represent(x).float(), of_fm

    def _represent(self, x: torch.Tensor) -> torch.Tensor:
        return self.sharing(x if self.cross is None else self.cross(x))

    def answer(
        self,
        read: torch.Tensor,
        of_fm: torch.Tensor | None,
        wide: torch.Tensor,
        dense: torch.Tensor,
    ) -> torch.Tensor:
        """The logits, of that and of what each task has for itself."""
        return self.logits(self.towers(read), of_fm, wide, dense)

    def logits(
        self,
        towers: torch.Tensor,
        of_fm: torch.Tensor | None,
        wide: torch.Tensor,
        dense: torch.Tensor,
    ) -> torch.Tensor:
        """The sum of what the towers say, [task, n, widest], of what is linear, and of FM's."""
        logits = self._in_columns(towers) + wide
        logits = logits + torch.addmm(self.bias, self._plain(dense), self.linear)
        return logits if of_fm is None else logits + of_fm

    def _plain(self, dense: torch.Tensor) -> torch.Tensor:
        """Columns without series and images."""
        if not self._sizes:
            return dense
        last = self._first + sum(self._sizes)
        return torch.cat([dense[:, : self._first], dense[:, last:]], 1)

    def _read_grids(self, dense: torch.Tensor) -> list[torch.Tensor]:
        """Plain columns, and of each series and image what its convolution makes of it, [n, d]."""
        last = self._first + sum(self._sizes)
        grids = dense[:, self._first : last].split(self._sizes, 1) if self._sizes else []
        made = (read(grid) for read, grid in zip(self.convolutions, grids, strict=True))
        return [self._plain(dense), *made]

    def _pooled(self, deep: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Rows in which the attended bags stand slot by slot -> bags [n, b, d], and what each
        attention makes of its bag, [n, d]."""
        rows = deep.split(self.sizes, 1)
        bags = torch.stack([r.sum(1) for r in rows], 1)
        by_slot = zip(self.attention, self.attended, strict=True)
        return bags, [attend(bags[:, self.item], rows[bag]) for attend, bag in by_slot]

    def _in_columns(self, towers: torch.Tensor) -> torch.Tensor:
        """[task, n, widest] -> [n, outputs], without the padding of narrower tasks."""
        if towers.shape[2] == 1:
            return towers.squeeze(2).t()
        return torch.cat([t[:, :k] for t, k in zip(towers, self.outputs, strict=True)], 1)
