"""Why a prediction is what it is: what each input adds to it, by leaving it out.

An input that is left out is as one that is not known: an empty bag, or a column at its mean. What
a prediction loses by it is the input's contribution (occlusion: Zeiler, Fergus, ECCV 2014). They
need not add up to the prediction: inputs act together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model.batch import Inputs, Layout
from model.schema import Schema
from model.score import Scorer


class Contributions(NamedTuple):
    """Of n rows: the outputs' `predictions` [n, outputs], and each input's part of them,
    [n, inputs, outputs]; `names` are those of bags, then of dense columns; a series or an image is
    one input."""

    names: list[str]
    predictions: np.ndarray
    parts: np.ndarray


def columns_of(schema: Schema, layout: Layout) -> dict[str, slice]:
    """By name the dense columns of each input that has some."""
    first = {f"{field.name}.0": field for field in schema.grids}
    found, column = {}, 0
    while column < len(layout.dense):
        name, size = layout.dense[column], 1
        if name in first:
            name, size = first[name].name, first[name].numbers
        found[name] = slice(column, column + size)
        column += size
    return found


def contributions(scorer: Scorer, inputs: Inputs) -> Contributions:
    """What each bag and each dense column adds to the predictions of `inputs`."""
    layout, n = scorer.layout, len(inputs)
    bags, places = len(layout.bags), columns_of(scorer.schema, layout)
    copies = 1 + bags + len(places)  # the first is whole
    keys, weights, dense = (
        np.repeat(array[:, None], copies, 1)
        for array in (inputs.keys, inputs.weights, inputs.dense)
    )
    for bag in range(bags):
        slots = layout.bag_of_slot == bag
        keys[:, 1 + bag, slots], weights[:, 1 + bag, slots] = 0, 0.0
    for number, columns in enumerate(places.values()):
        dense[:, 1 + bags + number, columns] = scorer.means[columns]
    every = Inputs(*(array.reshape(n * copies, -1) for array in (keys, weights, dense)))
    predicted = scorer.predict(every).reshape(n, copies, -1)
    names = [bag.name for bag in layout.bags] + list(places)
    return Contributions(names, predicted[:, 0], predicted[:, :1] - predicted[:, 1:])
