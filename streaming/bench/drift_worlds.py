"""Multi-task worlds of two concepts: the same examples, labelled as before a change and after it.

One is the project's simulator, the others are River's generators (SEA, Agrawal, LED, hyperplane,
RBF). Each has three tasks, and an id `segment` by which a part of the stream can be told.
Shapes: n examples, column the dense features, slot the ids, task the three tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river.datasets import synth

from features.population import Change, Config
from features.population import uniform as hashed
from features.simulate import TASKS, Simulation
from model.batch import Inputs
from model.idmap import table_keys, table_salt
from model.schema import Field, Schema, Task

SEGMENTS = 8
NOISE = 0.1
"""The share of River's labels that are turned round."""
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """`old` and `new` are labels [n, task], NaN where there is none; `along` [n] places each
    example from 0 to 1 along a direction of what it is made of."""

    schema: Schema
    inputs: Inputs
    segment: Ints
    along: Floats
    old: Floats
    new: Floats

    @property
    def segment_field(self) -> str:
        """The id field that says of which segment an example is."""
        return next(f.name for f in self.schema.of_kind("id") if f.name.startswith("segment"))


def simulator(n: int, seed: int) -> World:
    """`features/simulate.py`: users and items, of which the tastes of all tasks turn."""
    config = Config(users=200, items=300, segments=SEGMENTS, rates=(0.4, 0.15, 2.0), seed=seed)
    turned = Config(**{**vars(config), "changes": tuple(_turned())})
    rows, then = Simulation(config).between(0, n), Simulation(turned).between(0, n)
    names = ("user_id", "segment_id", "item_id", "category_id")
    ids = np.array([[getattr(row, name) for name in names] for row in rows])
    schema = Schema(
        tuple(Field(name, "id") for name in names),
        tuple(Task(t, "regression" if t == "dwell" else "binary", 1) for t in TASKS),
        "user_id",
        "item_id",
    )
    along = hashed(seed, "along", ids[:, 0])  # by user
    old, new = (np.array([_told(row.feedback) for row in half]) for half in (rows, then))
    return World(schema, _inputs(names, ids, np.zeros((n, 0))), ids[:, 1], along, old, new)


def _turned() -> list[Change]:
    return [Change(0, "preference", task) for task in TASKS]


def _told(feedback: Iterable[Any]) -> tuple[float, float, float]:
    given = {f.kind: f.value for f in feedback}
    return given.get("click", 0.0), given.get("like", 0.0), given.get("dwell", np.nan)


def sea(n: int, seed: int) -> World:
    """x0 + x1 against a threshold of each task's own."""

    def labels(variants: tuple[int, ...]) -> Floats:
        return np.column_stack([_labels(synth.SEA(v, NOISE, seed), n) for v in variants])

    x = _features(synth.SEA(0, NOISE, seed), n)
    return _world(x, labels((2, 0, 1)), labels((3, 1, 2)), seed)


def agrawal(n: int, seed: int) -> World:
    """Who gets a loan, by a rule of each task's own."""

    examples = [x for x, _ in itertools.islice(synth.Agrawal(0, seed), n)]

    def labels(*rules: int) -> Floats:
        named = [getattr(synth.Agrawal, f"_classification_function_{rule}") for rule in rules]
        return _noisy(np.array([[rule(**x) for rule in named] for x in examples], float), seed)

    x = np.array([list(x.values()) for x in examples], np.float64)
    return _world(x, labels(0, 6, 2), labels(2, 8, 1), seed)


def led(n: int, seed: int) -> World:
    """A digit of seven lamps with noise; a task asks whether it is of a set."""
    digits = _labels(synth.LED(seed, NOISE, True), n).astype(np.int64)

    def labels(*sets: tuple[int, ...]) -> Floats:
        return np.column_stack([np.isin(digits, s) for s in sets]).astype(np.float64)

    old = labels((1, 3, 5, 7, 9), (5, 6, 7, 8, 9), (2, 3, 5, 7))
    new = labels((0, 3, 6, 9), (1, 4, 7, 8), (0, 1, 4, 9))
    return _world(_features(synth.LED(seed, NOISE, True), n), old, new, seed)


def hyperplane(n: int, seed: int) -> World:
    """A side of a hyperplane of each task's own, drawn as River draws them."""
    x = _features(synth.Hyperplane(seed, n_features=8, n_drift_features=0, mag_change=0.0), n)
    draw = np.random.default_rng(seed)

    def labels() -> Floats:
        planes = draw.random((8, 3))
        return _noisy((x @ planes >= planes.sum(0) / 2).astype(np.float64), seed)

    return _world(x, labels(), labels(), seed)


def rbf(n: int, seed: int) -> World:
    """Clouds about forty centres; a task asks whether the cloud is of a set."""
    settings: dict[str, Any] = {"n_features": 8, "n_centroids": 40, "n_classes": 40}
    clouds = _labels(synth.RandomRBF(seed, seed + 1, **settings), n).astype(np.int64)
    draw = np.random.default_rng(seed)

    def labels() -> Floats:
        sides = np.column_stack([draw.permutation(40) % 2 for _ in range(3)])
        return _noisy(sides[clouds].astype(np.float64), seed)

    x = _features(synth.RandomRBF(seed, seed + 1, **settings), n)
    return _world(x, labels(), labels(), seed)


WORLDS: dict[str, Callable[[int, int], World]] = {
    world.__name__: world for world in (simulator, sea, agrawal, led, hyperplane, rbf)
}


def _features(stream: Any, n: int) -> Floats:
    return np.array([list(x.values()) for x, _ in itertools.islice(stream, n)], np.float64)


def _labels(stream: Any, n: int) -> Floats:
    return np.array([y for _, y in itertools.islice(stream, n)], np.float64)


def _noisy(labels: Floats, seed: int) -> Floats:
    """The same examples' labels are turned round whatever they are."""
    flip = hashed(seed, "noise", np.arange(labels.size)).reshape(labels.shape) < NOISE
    return np.where(flip, 1.0 - labels, labels)


def _world(x: Floats, old: Floats, new: Floats, seed: int) -> World:
    """Of dense features: segments and the way along are by two random projections."""
    standard = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    directions = np.random.default_rng((seed, 1)).normal(size=(x.shape[1], 2))
    ranks = np.argsort(np.argsort(standard @ directions, axis=0), axis=0) / len(x)
    segment = 1 + (SEGMENTS * ranks[:, 0]).astype(np.int64)
    columns = tuple(f"x{i}" for i in range(x.shape[1]))
    schema = Schema(
        (Field("segment", "id"), *(Field(name, "dense") for name in columns)),
        tuple(Task(name, "binary", 1) for name in "abc"),
        "segment",
    )
    return World(schema, _inputs(("segment",), segment[:, None], x), segment, ranks[:, 1], old, new)


def _inputs(names: tuple[str, ...], ids: Ints, dense: Floats) -> Inputs:
    columns = zip(names, ids.T, strict=True)
    keys = [table_keys(table_salt(name), np.ascontiguousarray(column)) for name, column in columns]
    return Inputs(np.column_stack(keys), np.ones(ids.shape, np.float32), dense.astype(np.float32))
