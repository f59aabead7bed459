"""What drift is looked for in: of each batch, sums and counts of the signals of tasks and inputs.

Of a task: `loss` of the served predictions (log loss, or squared error), `calibration` (the mean
prediction less the mean label), `label_rate`, and `auc`: the share of negatives, among those of
late, that a positive was scored above. Of the inputs, each followed by its field: `mean` and
`missing` of a dense one (0 stands for missing; of ids, an empty list), `unseen`, the share of ids
that the model does not know, and `mix`: the bits to tell a value by the shares that the commonest
had at the start. All of them also by segment.

Shapes: n examples; base, the signals of the whole stream; key, those and then each segment's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.batch import Batch, Inputs, Layout
from model.embedding import Embedding
from model.idmap import id_of, table_salt
from model.metrics import CLIP
from model.schema import Schema, nearest
from streaming.drift import SIGNALS, Blind, DriftEvent, DriftMonitor, Key, Sums
from streaming.drift_kernels import BINS, fade, of_binary, of_ids, summed
from streaming.top_values import TopValues

TASK_KINDS = (*SIGNALS, "auc")
COMMONEST = 16
SAMPLE = 2_048
_LATELY = 4_096
"""Examples after which a negative counts for half."""

_Of = TypeVar("_Of", DriftEvent, Blind)


class Signals:
    """The signals of one application, as sums and counts [key]. No clock, no I/O."""

    def __init__(self, schema: Schema, layout: Layout, config: DriftMonitor.Config) -> None:
        self.schema, self.layout = schema, layout
        tasks = list(schema.tasks)
        self._binary = np.array([k for k, t in enumerate(tasks) if t.kind == "binary"], np.int64)
        self._values = [k for k, t in enumerate(tasks) if t.kind == "regression"]
        self._classes = [k for k, t in enumerate(tasks) if t.kind == "multiclass"]
        self._dense = [f.name for f in schema.of_kind("dense")]
        self._slots = {
            f.name: np.flatnonzero(layout.bag_of_slot == layout.bag(f.name))
            for f in (*schema.of_kind("id"), *schema.of_kind("ids"))
        }
        self._base, self._columns = self._listed(config.signals)
        self._mixes = {f: TopValues(SAMPLE, COMMONEST) for f in self._of("mix")}
        binary = [tasks[k].name for k in self._binary.tolist()]
        places = [schema.output_slices[name].start for name in binary]
        self._outputs = np.array(places, np.int64)
        self._of_task = np.array(
            [[self._columns.get((kind, name), -1) for kind in TASK_KINDS] for name in binary],
            np.int64,
        ).reshape(-1, len(TASK_KINDS))
        self._negatives = np.zeros((len(binary), BINS))
        self._fresh = np.zeros((len(binary), BINS))
        self._ranks = bool((self._of_task[:, -1] >= 0).any())
        self._below = np.full((len(binary), BINS), -1.0)
        self._unseen_of = np.full(layout.slots, -1)
        for name in self._of("unseen"):
            self._unseen_of[self._slots[name]] = self._columns["unseen", name]
        self._segment: TopValues | None = None
        segments = 0
        if config.segment:
            ids = [f.name for f in schema.of_kind("id")]
            if config.segment not in ids:
                raise ValueError(
                    f"DriftMonitor.Config.segment is {config.segment!r}, no field of kind 'id': "
                    f"{nearest(config.segment, ids)}"
                )
            segments = config.segments
            self._field, self._slot = config.segment, int(self._slots[config.segment][0])
            self._segment = TopValues(max(config.warm_up, SAMPLE), segments)
        self.base = len(self._base)
        self.keys = tuple(
            Key(task, signal, segment)
            for segment in ("", *map(str, range(segments)))
            for task, signal in self._base
        )

    def _listed(self, kinds: Sequence[str]) -> tuple[list[tuple[str, str]], dict[Any, int]]:
        """The base signals, and the column of each (kind, task or field)."""
        named: list[tuple[str, str, tuple[str, str]]] = []
        for task in self.schema.tasks:
            kept = {"binary": 4, "regression": 3, "multiclass": 1}[task.kind]
            for kind in TASK_KINDS[:kept]:
                named.append((kind, task.name, (task.name, kind)))
        lists = [f.name for f in self.schema.of_kind("ids")]
        of_inputs = {
            "mean": self._dense,
            "missing": [*self._dense, *lists],
            "unseen": list(self._slots),
            "mix": [f.name for f in self.schema.of_kind("id")],
        }
        for kind, names in of_inputs.items():
            named += [(kind, name, ("", f"{kind}:{name}")) for name in names]
        named = [entry for entry in named if entry[0] in kinds]
        return [key for *_, key in named], {
            (kind, name): at for at, (kind, name, _) in enumerate(named)
        }

    def _of(self, kind: str) -> list[str]:
        """The tasks or fields of which there is such a signal."""
        return [name for known, name in self._columns if known == kind]

    def unseen(self, embedding: Embedding, inputs: Inputs) -> NDArray[np.bool_] | None:
        """Which ids the model does not know, [n, slots], before it learns them; None where nobody
        asks."""
        if not self._of("unseen"):
            return None
        return (embedding.find(inputs.keys) < len(self.layout.tables)) & (inputs.keys != 0)

    def of(
        self, batch: Batch, served: NDArray[np.float32], unseen: NDArray[np.bool_] | None = None
    ) -> Sums:
        """The sums of a batch that was served so."""
        n = len(batch)
        values, counts = np.zeros((n, self.base)), np.zeros((n, self.base), np.int64)
        with np.errstate(invalid="ignore", over="ignore"):
            self._of_binary(batch, served, values, counts)
            self._of_values(batch, served, values, counts)
            self._of_inputs(batch.inputs, unseen, values, counts)
            return self._summed(batch.inputs, values, counts)

    def _put(
        self, kind: str, names: Sequence[str], value: NDArray[Any], count: NDArray[Any] | int,
        values: NDArray[np.float64], counts: NDArray[np.int64],
    ) -> None:  # fmt: skip
        """Writes sums and counts [n, name] of a kind, where it is watched."""
        if names and (kind, names[0]) in self._columns:
            first = [self._columns[kind, name] for name in names]
            values[:, first], counts[:, first] = value, count

    def _of_binary(self, batch: Batch, served: Any, *out: Any) -> None:
        if not len(self._binary):
            return
        of_binary(
            np.ascontiguousarray(served), batch.labels, batch.mask, self._binary, self._outputs,
            self._of_task, CLIP, self._below, self._fresh, *out,
        )  # fmt: skip
        if self._ranks:
            fade(self._negatives, self._fresh, 0.5 ** (len(batch) / _LATELY), self._below)

    def _of_values(self, batch: Batch, served: Any, *out: Any) -> None:
        tasks, slices = self.schema.tasks, self.schema.output_slices
        names = [tasks[k].name for k in self._values]
        if names:
            p = served[:, [slices[name].start for name in names]].astype(np.float64)
            y, mask = batch.labels[:, self._values].astype(np.float64), batch.mask[:, self._values]
            self._put("loss", names, (p - y) ** 2, mask, *out)
            self._put("calibration", names, p - y, mask, *out)
            self._put("label_rate", names, y, mask, *out)
        for k in self._classes:
            mask = batch.mask[:, k]
            label = np.where(mask, batch.labels[:, k], 0).astype(np.int64)
            of_label = served[:, slices[tasks[k].name]][np.arange(len(label)), label]
            loss = -np.log(of_label.astype(np.float64).clip(CLIP))
            self._put("loss", [tasks[k].name], loss[:, None], mask[:, None], *out)

    def _of_inputs(self, inputs: Inputs, unseen: Any, *out: Any) -> None:
        dense = inputs.dense[:, : len(self._dense)]
        self._put("mean", self._dense, dense, 1, *out)
        self._put("missing", self._dense, dense == 0, 1, *out)
        for field in self.schema.of_kind("ids"):
            empty = (inputs.keys[:, self._slots[field.name]] == 0).all(1)
            self._put("missing", [field.name], empty[:, None], 1, *out)
        if unseen is not None:
            of_ids(inputs.keys, unseen, self._unseen_of, *out)
        for name, top in self._mixes.items():
            keys = inputs.keys[:, self._slots[name][0]]
            if top.known:
                rest = max(0.5 / SAMPLE, 1 - float(top.shares.sum()))
                bits = -np.log2(np.append(top.shares, rest))[top.place(keys)]
                self._put("mix", [name], bits[:, None], 1, *out)
            top.see(keys)

    def _summed(self, inputs: Inputs, values: Any, counts: Any) -> Sums:
        """By key: of the whole, and of each segment."""
        shape = (len(self.keys) // max(1, self.base), self.base)
        sums, seen = np.zeros(shape), np.zeros(shape, np.int64)
        place = np.full(len(values), -1)
        if self._segment is not None:
            keys = inputs.keys[:, self._slot]
            place = self._segment.place(keys)
            self._segment.see(keys)
        summed(values, counts, place, sums, seen)
        return Sums(sums.reshape(-1), seen.reshape(-1))

    def losses(self, signals: Sums) -> dict[tuple[str, str], tuple[float, int]]:
        """(task, "loss") to its mean and its number of labels, where there are any."""
        found = {}
        for task in self._of("loss"):
            at = self._columns["loss", task]
            if n := int(signals.counts[at]):
                found[task, "loss"] = (float(signals.sums[at]) / n, n)
        return found

    def named(self, found: Sequence[_Of]) -> list[_Of]:
        """The same with their segments by name, field=value; those of no segment that is known are
        left out."""
        named = [(f, self.segment(f.segment)) for f in found]
        return [f.of_segment(name) for f, name in named if name or not f.segment]

    def place(self, event: DriftEvent) -> int:
        """Where the signal of an event that was `named` stands among the sums."""
        at = self._base.index((event.task, event.signal))
        if not event.segment:
            return at
        places = range(1, len(self.keys) // self.base)
        return at + self.base * next(n for n in places if self.segment(str(n - 1)) == event.segment)

    def segment(self, place: str) -> str:
        """The name of a segment's place; empty where there is none."""
        if not place or self._segment is None or int(place) >= len(self._segment.keys):
            return ""
        found = id_of(table_salt(self._field), int(self._segment.keys[int(place)]))
        return f"{self._field}={found}"

    def state(self) -> dict[str, Any]:
        return {
            "negatives": self._negatives.copy(),
            "below": self._below.copy(),
            "mixes": {name: top.state() for name, top in self._mixes.items()},
            "segment": None if self._segment is None else self._segment.state(),
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        self._negatives[:], self._below[:] = tree["negatives"], tree["below"]
        for name, top in self._mixes.items():
            top.load(tree["mixes"][name])
        if self._segment is not None:
            self._segment.load(tree["segment"])
