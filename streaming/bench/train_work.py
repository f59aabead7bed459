"""The reference work of the train benchmarks: 8 id fields, 10 dense columns, 6 binary tasks."""

from __future__ import annotations

import numpy as np

from model.batch import Bag, Batch, Inputs, Layout
from model.idmap import table_keys, table_salt
from model.schema import Field, Schema, Task

FIELDS, DENSE, TASKS = 8, 10, 6

schema = Schema(
    tuple(Field(f"f{i}", "id") for i in range(FIELDS))
    + tuple(Field(f"x{i}", "dense") for i in range(DENSE)),
    tuple(Task(f"t{i}", "binary", 0) for i in range(TASKS)),
    "f0",
)
layout = Layout(
    tuple(Bag(f"f{i}", f"f{i}") for i in range(FIELDS)), tuple(f"x{i}" for i in range(DENSE))
)


class Work:
    """Batches of `size` examples over `items` ids in all, as ids [n, field] and as our keys.

    Ids are skewed, as in logs: half of the sightings fall on a tenth of the ids. Labels follow
    hidden effects of the ids and the columns, so that there is something to learn.
    """

    def __init__(self, items: int, size: int, count: int, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.items_of_field = max(2, items // FIELDS)
        effects = draw.normal(0, 1.0, (FIELDS, self.items_of_field))
        slopes = draw.normal(0, 0.3, (DENSE, TASKS))
        mix = draw.normal(0, 0.5, (FIELDS, TASKS))
        self.ids: list[np.ndarray] = []
        self.batches: list[Batch] = []
        for _ in range(count):
            u = draw.random((size, FIELDS))
            ids = (self.items_of_field * u ** (np.log(0.1) / np.log(0.5))).astype(np.int64)
            dense = draw.normal(0, 1, (size, DENSE)).astype(np.float32)
            logit = effects[np.arange(FIELDS), ids] @ mix + dense @ slopes - 0.5
            labels = (draw.random((size, TASKS)) < 1 / (1 + np.exp(-logit))).astype(np.float32)
            self.ids.append(ids)
            self.batches.append(
                Batch(table_inputs(ids, dense), labels, np.ones(labels.shape, bool))
            )


def table_inputs(ids: np.ndarray, dense: np.ndarray) -> Inputs:
    keys = np.column_stack(
        [table_keys(table_salt(f"f{i}"), np.ascontiguousarray(ids[:, i])) for i in range(FIELDS)]
    )
    return Inputs(keys, np.ones(keys.shape, np.float32), dense)
