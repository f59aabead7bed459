"""Rankings that can still be explained: the last ones, with what they were scored with."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from features.events import Id
from model.batch import Inputs
from model.explain import columns_of, contributions
from model.schema import Schema
from model.score import Scorer
from streaming.serve.answers import Explained, Explanation, Part
from streaming.serve.problems import Problem
from streaming.serve.versions import Loaded

KEPT = 1_000
OPEN = "incidents"
"""Of a manifest's card: the incidents that were open when the version was published."""


@dataclass
class _Ranked:
    time_ms: int
    inputs: Inputs
    shown: list[tuple[Id, Id]]
    version: int
    epoch: int
    incidents: list[object]
    loaded: weakref.ref[Loaded]


class Explainer:
    """The last `KEPT` rankings; a version that is served no more is not kept for their sake."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._rankings: OrderedDict[str, _Ranked] = OrderedDict()
        self._lock = threading.Lock()

    def keep(
        self, request: str, time_ms: int, inputs: Inputs, rows: list[int],
        shown: list[tuple[Id, Id]], loaded: Loaded,
    ) -> None:  # fmt: skip
        """`rows` of `inputs` are those of `shown`: impression and item."""
        kept = Inputs(inputs.keys[rows], inputs.weights[rows], inputs.dense[rows])
        manifest = loaded.manifest
        incidents = manifest.meta.get(OPEN)
        ranked = _Ranked(
            time_ms, kept, shown, manifest.version, manifest.epoch,
            incidents if isinstance(incidents, list) else [], weakref.ref(loaded),
        )  # fmt: skip
        with self._lock:
            self._rankings[request] = ranked
            while len(self._rankings) > KEPT:
                self._rankings.popitem(last=False)

    def explain(self, request: str, task: str, loaded: Loaded) -> Explanation:
        """Raises Problem where there is no such ranking any more, or no such task."""
        names = [t.name for t in self._schema.tasks if t.kind != "multiclass"]
        task = task or names[0]
        if task not in names:
            raise Problem(422, "invalid", f"task is {task[:64]!r}: expected one of {names}")
        with self._lock:
            ranked = self._rankings.get(request)
        if ranked is None:
            detail = f"no ranking of that name is among this server's last {KEPT:,}"
            raise Problem(404, "not-found", detail)
        loaded = ranked.loaded() or loaded  # held to the end, so that its scorer takes no other in
        scorer, version = loaded.scorer, loaded.manifest.version
        found = contributions(scorer, ranked.inputs)
        output = self._schema.output_slices[task].start
        values = _values(scorer, ranked.inputs)
        impressions = []
        for row, (name, item) in enumerate(ranked.shown):
            parts = found.parts[row, :, output].tolist()
            by_size = sorted(range(len(parts)), key=lambda i: -abs(parts[i]))
            said = [Part(found.names[i], values[row][i], parts[i]) for i in by_size]
            prediction = float(found.predictions[row, output])
            impressions.append(Explained(name, item, prediction, said))
        return Explanation(
            request, ranked.time_ms, task, ranked.version, ranked.epoch, version,
            ranked.incidents, impressions,
        )  # fmt: skip


def _values(scorer: Scorer, inputs: Inputs) -> list[list[float | list[float] | None]]:
    """Of each row what each input says: of a bag the weights of its ids, of a column its number, of
    a series or an image its numbers."""
    layout, out = scorer.layout, []
    for row in range(len(inputs)):
        said: list[float | list[float] | None] = []
        for bag in range(len(layout.bags)):
            slots = (layout.bag_of_slot == bag) & (inputs.keys[row] != 0)
            said.append(inputs.weights[row, slots].tolist())
        numbers = np.where(np.isfinite(inputs.dense[row]), inputs.dense[row], np.nan).tolist()
        for columns in columns_of(scorer.schema, layout).values():
            some = numbers[columns]
            said.append(some if len(some) > 1 else some[0])
        out.append(said)
    return out
