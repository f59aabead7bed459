"""From inputs to predictions: in the trainer, and in a server from a snapshot, by the same code.

Scoring runs in blocks of `batch_size` rows, the last one padded: a matmul's last bits may change
with its number of rows, and so do not depend on how many are asked for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from model.alone import Alone
from model.batch import Batch, Inputs, Layout
from model.blocks import absorb
from model.embedding import Embedding, EmbeddingConfig
from model.labels import LabelPrior
from model.layers import Standardiser
from model.losses import Objective
from model.network import Network
from model.optim import RowOptimiser
from model.schema import Schema
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
        kind = Alone if network.sharing == "single_task" else Network
        self.network = kind(schema, layout, network, embedding.dim, generator).to(device)
        reads = self.network.reads
        self.embedding = Embedding(reads, schema.outputs, embedding, rows, seed, device)
        self.objective = Objective(schema, device)
        self.dense = Standardiser(len(layout.dense))
        self.labels = LabelPrior(self.objective)
        self._weight = [i for i, name in enumerate(layout.dense) if name == schema.weight]
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
        self._dense[:n], self._dense[n:] = self.dense.transform(inputs.dense), 0
        self._dense[:, self._weight] = 0
        index = self.embedding.find(self._keys)
        with torch.no_grad():
            self.embedding.pool(index, self._weights, self._deep.detach(), self._wide)
            self._wide += torch.from_numpy(self.labels.offset).to(self.device)
        dense = torch.from_numpy(self._dense).to(self.device)
        return Block(self._keys, self._weights, index, self._deep, self._wide, dense)

    def counts(self, inputs: Inputs) -> np.ndarray | None:
        """What each example counts in the losses, [n]; None where all count alike."""
        return inputs.dense[:, self._weight[0]] if self._weight else None

    def values(self, linked: torch.Tensor) -> np.ndarray:
        """Linked outputs -> predictions in the labels' units, float32 [batch_size, outputs]."""
        return self.labels.values(linked.cpu().numpy())

    def absorb(self, batch: Batch) -> None:
        """Lets what keeps statistics take in a batch that has been predicted and learnt."""
        absorb(self.network, len(batch))
        self.dense.update(batch.inputs.dense, np.ones(batch.inputs.dense.shape, bool))
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

    def state(self) -> dict[str, Any]:
        return {
            "network": {n: p.detach().cpu().numpy().copy() for n, p in self._tensors()},
            "embedding": self.embedding.arrays(),
            "dense": self.dense.state(),
            "labels": self.labels.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes over `state()`, in place: the network's parameters stay where they are."""
        with torch.no_grad():
            for name, tensor in self._tensors():
                tensor.copy_(torch.from_numpy(state["network"][name]))
        self.embedding.load(state["embedding"])
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
    """Scores as the trainer did at one version, bit for bit, from the two parts of its snapshot."""

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
        state: dict[str, Any] = {"network": {}, "embedding": {}, "dense": {}, "labels": {}}
        for name, array in arrays.items():
            part, _, rest = name.partition("/")
            state[part][rest] = array
        self._predictor.load(state)

    def predict(self, inputs: Inputs) -> np.ndarray:
        """float32 [n, outputs]: probabilities, or values for a regression."""
        return self._predictor.predict(inputs)
