"""From inputs to predictions: in the trainer, and in a server from a snapshot, by the same code.

Scoring runs in blocks of `batch_size` rows, the last one padded: a matmul's last bits may change
with its number of rows, and so do not depend on how many are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from model.apart import network_of
from model.batch import Batch, Inputs, Layout
from model.blocks import absorb
from model.contents import content
from model.embedding import Embedding, EmbeddingConfig
from model.keyed import Rows
from model.labels import LabelPrior
from model.layers import Standardiser
from model.losses import Objective
from model.optim import RowOptimiser
from model.rank import Ranker
from model.schema import Schema
from model.served_rows import ServedRows
from model.structure import NetworkConfig

FORMAT = 1


@dataclass
class Block:
    """`batch_size` rows of what the network reads, and the embedding rows they came from."""

    keys: np.ndarray
    weights: np.ndarray
    index: np.ndarray
    deep: torch.Tensor
    wide: torch.Tensor
    dense: torch.Tensor


class Predictor:
    """A network, its embedding, and what is known of its inputs and labels beforehand."""

    def __init__(
        self, schema: Schema, layout: Layout, network: NetworkConfig, embedding: EmbeddingConfig,
        rows: RowOptimiser, batch_size: int, seed: int, device: str = "cpu",
    ):  # fmt: skip
        self.schema, self.layout, self.config = schema, layout, network
        self.batch_size, self.device = batch_size, device
        generator = torch.Generator().manual_seed(seed)
        kind = network_of(network)
        self.network = kind(schema, layout, network, embedding.dim, generator).to(device)
        reads = self.network.reads
        self.embedding: Any = Embedding(reads, schema.outputs, embedding, rows, seed, device)
        self.objective = Objective(schema, device)
        self.dense = Standardiser(len(layout.dense))
        self.labels = LabelPrior(self.objective)
        self.weight_columns = [i for i, name in enumerate(layout.dense) if name == schema.weight]
        shape = (batch_size, len(reads.bags), embedding.dim)
        self._deep = torch.zeros(shape, device=device, requires_grad=True)
        self._wide = torch.zeros(batch_size, schema.outputs, device=device)
        self._keys = np.zeros((batch_size, reads.slots), np.int64)
        self._weights = np.zeros((batch_size, reads.slots), np.float32)
        self._dense = np.zeros((batch_size, len(layout.dense)), np.float32)

    def read(self, inputs: Inputs) -> Block:
        """The block of at most `batch_size` rows; its tensors are good until the next call."""
        n = len(inputs)
        self._keys[:n], self._weights[:n] = self.network.rows_of(inputs)
        self._keys[n:] = 0
        self._dense[:n], self._dense[n:] = self.standardised(inputs), 0
        index = self.embedding.find(self._keys)
        with torch.no_grad():
            self.embedding.pool(index, self._weights, self._deep.detach(), self._wide)
            self._wide += torch.from_numpy(self.labels.offset).to(self.device)
        dense = torch.from_numpy(self._dense).to(self.device)
        return Block(self._keys, self._weights, index, self._deep, self._wide, dense)

    def standardised(self, inputs: Inputs) -> np.ndarray:
        """The dense columns as the network reads them, float32 [n, columns]; not the weight's."""
        dense = self.dense.transform(inputs.dense)
        dense[:, self.weight_columns] = 0
        return dense

    def counts(self, inputs: Inputs) -> np.ndarray | None:
        """What each example counts in the losses, [n]; None where all count alike."""
        return inputs.dense[:, self.weight_columns[0]] if self.weight_columns else None

    def values(self, linked: torch.Tensor) -> np.ndarray:
        """Linked outputs -> predictions in the labels' units, float32 [batch_size, outputs]."""
        return self.labels.values(linked.cpu().numpy())

    def absorb(self, batch: Batch, parts: Collection[str]) -> None:
        """Lets what keeps statistics, as far as it is of `parts` (see model/partial.py), take in a
        batch that has been predicted and learnt."""
        absorb(self.network, len(batch), parts)
        if "inputs" in parts:
            self.dense.update(batch.inputs.dense, np.ones(batch.inputs.dense.shape, bool))
        if "labels" in parts:
            self.labels.absorb(batch.labels, batch.mask)

    @torch.no_grad()
    def predict(self, inputs: Inputs) -> np.ndarray:
        """float32 [n, outputs]: probabilities, or values for a regression. Changes nothing."""
        inputs.check(self.layout)
        out = np.empty((len(inputs), self.schema.outputs), np.float32)
        for start in range(0, len(inputs), self.batch_size):
            part = inputs[start : start + self.batch_size]
            block = self.read(part)
            logits = self.network(block.deep, block.wide, block.dense)
            out[start : start + len(part)] = self.values(self.objective.link(logits))[: len(part)]
        return out

    def state(self, embedding: Rows | None = None) -> dict[str, Any]:
        """All of it, with the embedding's `arrays()` or with `embedding`."""
        return {
            "network": {n: p.detach().cpu().numpy().copy() for n, p in self._tensors()},
            "embedding": self.embedding.arrays() if embedding is None else embedding,
            "dense": self.dense.state(),
            "labels": self.labels.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes over `state()`, in place: the network's parameters stay where they are."""
        self.embedding.load(state["embedding"])
        self.load_dense(state)

    def load_dense(self, state: dict[str, Any]) -> None:
        """Takes over `state()` but for the embedding."""
        with torch.no_grad():
            for name, tensor in self._tensors():
                tensor.copy_(torch.from_numpy(np.array(state["network"][name])))
        self.dense.load(state["dense"])
        self.labels.load(state["labels"])

    def _tensors(self) -> list[tuple[str, torch.Tensor]]:
        """The network's parameters, and what its blocks keep."""
        return list(self.network.state_dict(keep_vars=True).items())

    def arrays(self) -> dict[str, np.ndarray]:
        """A snapshot's arrays: `state()` in one level, without what only learning needs."""
        return {
            f"{part}/{name}": array
            for part, arrays in self.state().items()
            for name, array in arrays.items()
            if part != "embedding" or name in ("keys", "rows")
        }

    def tell(self, whole: bool) -> tuple[dict[str, np.ndarray], int]:
        """As `arrays()`, but of the embedding what its `tell` says, and its sum."""
        rows, total = self.embedding.tell(whole)
        embedding = {f"embedding/{name}": array for name, array in rows.items()}
        return self.dense_arrays() | embedding, total

    def dense_arrays(self) -> dict[str, np.ndarray]:
        """`arrays()` but for the embedding."""
        parts = self.state(Rows({}, True))
        del parts["embedding"]
        return {f"{p}/{name}": array for p, of in parts.items() for name, array in of.items()}

    def meta(self) -> dict[str, Any]:
        """A snapshot's description (JSON)."""
        return {
            "format": FORMAT,
            "schema": self.schema.to_json(),
            "layout": self.layout.to_dict(),
            "network": asdict(self.config),
            "dim": self.embedding.dim,
            "batch_size": self.batch_size,
        }


class Scorer:
    """Scores as the trainer did at one version, bit for bit, from the two parts of its snapshot.

    `content` says which model it holds (see `model.contents`). While it is scored with, nothing may
    `load` or `apply`; a call of these that raises leaves it good for `load` only.
    """

    def __init__(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]):
        if meta.get("format") != FORMAT:
            raise ValueError(f"meta.format is {meta.get('format')!r}: expected {FORMAT}")
        self.meta = meta
        self.schema = Schema.from_json(meta["schema"])
        self.layout = Layout.from_dict(meta["layout"])
        self._predictor = Predictor(
            self.schema, self.layout, NetworkConfig.from_dict(meta["network"]),
            EmbeddingConfig(dim=meta["dim"]), RowOptimiser("sgd"), meta["batch_size"], seed=0,
        )  # fmt: skip
        reads, outputs = self._predictor.network.reads, self.schema.outputs
        self._rows = ServedRows(reads, outputs, meta["dim"])
        self._predictor.embedding = self._rows
        self.content = ""
        self.load(arrays, meta)

    def same_kind(self, meta: dict[str, Any]) -> bool:
        """Whether a version of that `meta` fits into this one."""
        return _without_step(meta) == _without_step(self.meta)

    def load(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Takes over a whole version, of the same kind."""
        state = _by_part(arrays)
        self._rows.load(state.pop("embedding"))
        self._take(state, arrays, meta)

    def apply(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Takes in a delta, of the same kind."""
        state = _by_part(arrays)
        self._rows.apply(state.pop("embedding"))
        self._take(state, arrays, meta)

    def _take(
        self, state: dict[str, Any], arrays: dict[str, np.ndarray], meta: dict[str, Any]
    ) -> None:
        self._predictor.load_dense(state)
        self._ranker = Ranker(self._predictor)
        self.meta = meta
        self.content = content(meta, arrays, len(self._rows), self._rows.total)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the whole version, as the trainer's snapshot has them."""
        return self._predictor.dense_arrays() | self._rows.arrays()

    def copy(self) -> Scorer:
        """One more, of the same version."""
        dense = self._predictor.dense_arrays()
        other = Scorer(dense | self._rows.pinned(), self.meta)
        other._rows = other._predictor.embedding = self._rows.copy()
        other.content = self.content
        return other

    def predict(self, inputs: Inputs) -> np.ndarray:
        """float32 [n, outputs]: probabilities, or values for a regression."""
        return self._predictor.predict(inputs)

    @property
    def predictor(self) -> Predictor:
        return self._predictor

    @property
    def reads_layout(self) -> Layout:
        """Of the rows that the network reads: `layout` with crossed bags, say."""
        return self._predictor.network.reads

    def reads(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """What the network reads of `inputs`, as an exported graph takes it (model/export.py)."""
        keys, weights = self._predictor.network.rows_of(inputs)
        return {"keys": keys, "weights": weights, "dense": inputs.dense}

    def examples(self, n: int) -> Inputs:
        """Made-up inputs: ids that it knows, and some that it does not; ordinary columns."""
        draw, predictor = np.random.default_rng(0), self._predictor
        known = self._rows.arrays()["embedding/keys"]
        keys = draw.choice(known[known > 0] if (known > 0).any() else np.array([1]), (n, 1))
        keys = draw.permuted(np.repeat(keys, self.layout.slots, 1), axis=0)
        keys[draw.random(keys.shape) < 0.2] = 1
        weights = draw.random(keys.shape).astype(np.float32)
        columns = (n, len(self.layout.dense))
        dense = draw.normal(predictor.dense.mean, predictor.dense.scale, columns)
        return Inputs(keys, weights, dense.astype(np.float32))

    @property
    def means(self) -> np.ndarray:
        """Of each dense column, over what was learned: float32 [columns]."""
        return self._predictor.dense.mean.astype(np.float32)

    @property
    def label_scale(self) -> np.ndarray:
        """A regression's standard deviation, of each output: float64 [outputs]."""
        return self._predictor.labels.seen.scale

    def rank(self, inputs: Inputs) -> np.ndarray:
        """`predict` of the candidates of one request, several times faster; the same to rounding
        (model/rank.py)."""
        return self._ranker.predict(inputs)

    def rank_and_hidden(self, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """`rank`, and what each task's last layer read: [task, n, width]. One thread at a time."""
        net = self._predictor.network
        towers = [one.towers for one in getattr(net, "networks", [net])]
        read: list[list[torch.Tensor]] = [[] for _ in towers]
        hooks = [
            tower.blocks.register_forward_hook(lambda *call, to=each: to.append(call[2]))
            for tower, each in zip(towers, read, strict=True)
        ]
        try:
            predicted = self.rank(inputs)
        finally:
            for hook in hooks:
                hook.remove()
        hidden = torch.cat([torch.cat(each, 1) for each in read])[:, : len(inputs)]
        return predicted, hidden.numpy()


def _by_part(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    state: dict[str, Any] = {"network": {}, "embedding": {}, "dense": {}, "labels": {}}
    for name, array in arrays.items():
        part, _, rest = name.partition("/")
        state[part][rest] = array
    return state


def _without_step(meta: dict[str, Any]) -> str:
    """As JSON has it, in which a tuple is a list."""
    return json.dumps(
        {name: value for name, value in meta.items() if name != "step"}, sort_keys=True
    )
