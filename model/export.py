"""A version as a graph of its own, for other runtimes: torch.export's, or ONNX.

Its inputs are what the network reads of n examples: `keys` int64 [n, slots] with those of crossed
bags (`Scorer.reads`), `weights` float32 [n, slots] and `dense` float32 [n, columns], as they are
logged. It looks keys up, pools, standardises, and gives predictions [n, outputs] in the labels'
units.

A key's row is found by halving, in steps that every runtime has: the table lies in the order of its
keys.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model.batch import Inputs
from model.idmap import table_salt
from model.score import Scorer

FORMATS = ("onnx", "torch")
NAMES = ("keys", "weights", "dense")
CLOSE = 1e-5


class Graph(nn.Module):
    """A scorer's whole way from keys to predictions, in torch's operations."""

    keys: torch.Tensor
    rows: torch.Tensor
    unseen: torch.Tensor
    member: torch.Tensor
    offset: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor
    label_mean: torch.Tensor
    label_scale: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    kept: torch.Tensor

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        predictor = scorer.predictor
        self.network, self.objective = predictor.network, predictor.objective
        reads = self.network.reads
        arrays = scorer.arrays()
        keys, rows = arrays["embedding/keys"], arrays["embedding/rows"]
        unseen = np.searchsorted(keys, [-1 - table_salt(table) for table in reads.tables])
        member = np.eye(len(reads.bags), dtype=np.float32)[reads.bag_of_slot]
        dense, labels = predictor.dense, predictor.labels
        scale = np.where(dense.variance > 1e-12, 1 / np.sqrt(np.maximum(dense.variance, 1e-12)), 1)
        scale = np.where(dense.count > 0, scale, 0)
        scale[predictor.weight_columns] = 0
        regressions = np.asarray(self.objective.is_regression)[self.objective.task_of_output]
        known = regressions & (labels.seen.count > 0)
        buffers: dict[str, np.ndarray] = {
            "keys": keys,
            "rows": rows,
            "unseen": unseen[reads.table_of_slot],
            "member": member,
            "offset": labels.offset,
            "mean": dense.mean,
            "scale": scale,
            "label_mean": np.where(regressions, labels.seen.mean, 0),
            "label_scale": np.where(regressions, labels.seen.scale, 1),
            "low": np.where(known, labels.low, -np.inf),
            "high": np.where(known, labels.high, np.inf),
            "kept": np.asarray(self.objective.kept_negatives, np.float64),
        }
        for name, array in buffers.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)))
        self.dim, self.clip = predictor.embedding.dim, float(dense.clip)
        self.sampled = bool((buffers["kept"] < 1).any())
        self.steps = [1 << s for s in range(max(len(keys) - 1, 1).bit_length() - 1, -1, -1)]

    def forward(self, keys: torch.Tensor, weights: torch.Tensor, dense: torch.Tensor) -> Any:
        rows = self.rows[self.find(keys)]
        rows = rows * torch.where(keys == 0, 0.0, weights).unsqueeze(2)
        member = self.member.t()
        deep = member @ rows[:, :, : self.dim]
        wide = rows[:, :, self.dim :].sum(1) + self.offset
        z = (dense.double() - self.mean) * self.scale
        z = torch.where(dense - dense == 0, z.clamp(-self.clip, self.clip), torch.nan)
        logits = self.network(deep, wide, z.float())
        return self.values(self.objective.link(logits).double()).float()

    def find(self, keys: torch.Tensor) -> torch.Tensor:
        """The place of each key, or of its slot's row for what was not seen."""
        last = len(self.keys) - 1
        place = torch.zeros_like(keys)
        for step in self.steps:
            further = (place + step).clamp(max=last)
            place = torch.where(self.keys[further] <= keys, further, place)
        return torch.where(self.keys[place] == keys, place, self.unseen)

    def values(self, linked: torch.Tensor) -> torch.Tensor:
        """As `LabelPrior.values`."""
        out = self.label_mean + self.label_scale * linked
        out = torch.minimum(torch.maximum(out, self.low), self.high)
        return out / (out + (1 - out) / self.kept) if self.sampled else out


def export(scorer: Scorer, format: str, path: Path) -> None:
    """Writes the scorer as a graph. ONNX needs the packages of the extra `onnx`."""
    graph = Graph(scorer).eval()
    reads, columns = scorer.reads_layout, len(scorer.layout.dense)
    example = (
        torch.ones(2, reads.slots, dtype=torch.int64),
        torch.ones(2, reads.slots),
        torch.zeros(2, columns),
    )
    n = torch.export.Dim("n", min=1, max=1 << 20)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, example, dynamic_shapes=({0: n}, {0: n}, {0: n}))
        if format == "torch":
            torch.export.save(program, path)
            return
        onnx = torch.onnx.export(
            program, input_names=list(NAMES), output_names=["predictions"], dynamo=True,
            verbose=False, optimize=True,
        )  # fmt: skip
        assert onnx is not None
        onnx.save(str(path))


def predict(format: str, path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What the graph in a file predicts, float32 [n, outputs]: in onnxruntime, or in torch."""
    if format == "torch":
        module = torch.export.load(path).module()
        with torch.no_grad():
            out: np.ndarray = module(*(torch.from_numpy(inputs[n]) for n in NAMES)).numpy()
        return out
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    there = {i.name for i in session.get_inputs()}  # what a network does not read is left out
    found: np.ndarray = session.run(None, {n: a for n, a in inputs.items() if n in there})[0]
    return found


def furthest(scorer: Scorer, format: str, path: Path, inputs: Inputs) -> float:
    """How far the file's predictions are from the scorer's, at most: over the prediction's size
    where that is above 1."""
    expected = scorer.predict(inputs)
    found = predict(format, path, scorer.reads(inputs))
    return float((np.abs(found - expected) / np.maximum(np.abs(expected), 1)).max())
