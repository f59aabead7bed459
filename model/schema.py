"""What an application learns from, and what it learns: fields and tasks."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Any

GRIDS = {"series": 2, "image": 3}
"""Kinds of fields that are read by convolutions, and the axes of each."""
MOST_NUMBERS = 4_096
"""Of all series and images of an impression."""
FIELD_KINDS = ("id", "ids", "dense", *GRIDS)
TASK_KINDS = ("binary", "multiclass", "regression")
CLOSINGS = ("window", "arrival")
TRANSFORMS = ("", "log1p")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


def _one_of(where: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{where} is {value!r}: {nearest(value, known)}")


def _named(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} is {name!r}: expected a letter, then letters, digits or '_'")


@dataclass(frozen=True)
class Field:
    """One input of an impression.

    `id` is an integer from 0 to 2^63 - 1, or a string of 1 to 64 characters; `ids` a list of them,
    of which the first `size` count; `dense` a number, finite in 32 bits. A `series` of the shape
    (channels, length) or an `image` (channels, height, width) is one flat list of as many numbers,
    row by row, the last axis fastest; all of an impression's have 4,096 at most, and its record as
    JSON 65,536 bytes. Each number costs 4 bytes for as long as a label is waited for.
    """

    name: str
    kind: str
    size: int = 1
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _named("Field.name", self.name)
        _one_of(f"Field({self.name!r}).kind", self.kind, FIELD_KINDS)
        if self.size < 1 or (self.kind != "ids" and self.size != 1):
            raise ValueError(
                f"Field({self.name!r}).size is {self.size}: expected 1, or more for kind 'ids'"
            )
        if len(self.shape) != GRIDS.get(self.kind, 0) or not all(
            type(n) is int and n > 0 for n in self.shape
        ):
            raise ValueError(
                f"Field({self.name!r}).shape is {self.shape}: expected (channels, length) for kind "
                "'series', (channels, height, width) for 'image', and () for the other kinds"
            )

    @property
    def numbers(self) -> int:
        """How many numbers a series or an image has."""
        return prod(self.shape)


@dataclass(frozen=True)
class Task:
    """One thing to predict, and how long after an impression its label may come.

    `close="window"` closes the label `window_ms` of event time after the impression;
    `close="arrival"` closes a positive (for other kinds: any value) as soon as it comes.
    The task's name is also the kind of feedback that carries its label. `transform="log1p"` makes
    the label ln(1 + value). A regression's errors beyond `huber` standard deviations of the labels
    count linearly, where that is given (Huber 1964).

    `given` names a task that comes before this one on the way, as the click before the purchase:
    both are learnt from all impressions, as one chain (ESMM). `kept_negatives` is the share of
    negatives that the log holds, where it was sampled, and `learnt_negatives` that of these which
    are learnt from, the same at each run over a log; predictions are then as of all.

    `source` and `goal` are words of one's own, of where its labels come from and which business
    goal it is of: tasks can be grouped by them (model/grouping.py).
    """

    name: str
    kind: str
    window_ms: int
    close: str = "window"
    classes: int = 1
    weight: float = 1.0
    transform: str = ""
    huber: float = 0.0
    given: str = ""
    kept_negatives: float = 1.0
    learnt_negatives: float = 1.0
    source: str = ""
    goal: str = ""

    def __post_init__(self) -> None:
        _named("Task.name", self.name)
        _one_of(f"Task({self.name!r}).kind", self.kind, TASK_KINDS)
        _one_of(f"Task({self.name!r}).close", self.close, CLOSINGS)
        _one_of(f"Task({self.name!r}).transform", self.transform, TRANSFORMS)
        if not isinstance(self.window_ms, int) or isinstance(self.window_ms, bool):
            raise ValueError(
                f"Task({self.name!r}).window_ms is {self.window_ms!r}: expected an integer"
            )
        if self.transform and self.kind != "regression":
            raise ValueError(
                f"Task({self.name!r}).transform is {self.transform!r}: only a regression has one"
            )
        if not 0 <= self.huber < 1e6 or (self.huber and self.kind != "regression"):
            raise ValueError(
                f"Task({self.name!r}).huber is {self.huber}: expected 0, or more for a regression"
            )
        for what in ("kept_negatives", "learnt_negatives"):
            share = getattr(self, what)
            if not 0 < share <= 1:
                raise ValueError(
                    f"Task({self.name!r}).{what} is {share}: expected more than 0, and 1 at most"
                )
            if share < 1 and self.kind != "binary":
                raise ValueError(
                    f"Task({self.name!r}).{what} is {share}: only a binary task has negatives"
                )
        if self.window_ms < 0:
            raise ValueError(
                f"Task({self.name!r}).window_ms is {self.window_ms}: expected 0 or more"
            )
        if not 0 < self.weight < 1e6:
            raise ValueError(
                f"Task({self.name!r}).weight is {self.weight}: expected 0 to a million"
            )
        if (self.kind == "multiclass") != (self.classes > 1):
            raise ValueError(
                f"Task({self.name!r}).classes is {self.classes}: "
                "expected 2 or more for 'multiclass' and 1 for the other kinds"
            )

    @property
    def outputs(self) -> int:
        """Numbers that the model predicts for it: one a class, else one."""
        return self.classes


@dataclass(frozen=True)
class Schema:
    """Fields and tasks, and which id fields name the user and the item.

    `weight` names a dense field that is no input, but what an example counts in the losses.
    """

    fields: tuple[Field, ...]
    tasks: tuple[Task, ...]
    user: str
    item: str | None = None
    weight: str | None = None

    def __post_init__(self) -> None:
        for what, names in (
            ("fields", [f.name for f in self.fields]),
            ("tasks", [t.name for t in self.tasks]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"Schema.{what} has a name twice: {', '.join(names)}")
        if (numbers := sum(f.numbers for f in self.grids)) > MOST_NUMBERS:
            raise ValueError(
                f"Schema.fields has series and images of {numbers:,} numbers: "
                f"expected {MOST_NUMBERS:,} at most"
            )
        if not self.tasks:
            raise ValueError("Schema.tasks is empty: expected at least one task")
        ids = [f.name for f in self.fields if f.kind == "id"]
        for role, name in (("user", self.user), ("item", self.item)):
            if name is not None and name not in ids:
                raise ValueError(
                    f"Schema.{role} is {name!r}, no field of kind 'id': {nearest(name, ids)}"
                )
        dense = [f.name for f in self.of_kind("dense")]
        if self.weight is not None and self.weight not in dense:
            raise ValueError(
                f"Schema.weight is {self.weight!r}, no field of kind 'dense': "
                f"{nearest(self.weight, dense)}"
            )
        for place, task in enumerate(self.tasks):
            if task.given:
                self._check_chain(task, self.tasks[:place])

    def _check_chain(self, task: Task, before: tuple[Task, ...]) -> None:
        binary = [t.name for t in before if t.kind == "binary"]
        if task.kind != "binary" or task.given not in binary:
            raise ValueError(
                f"Task({task.name!r}).given is {task.given!r}: expected a binary task before this "
                f"binary one: {nearest(task.given, binary)}"
            )
        for of_chain in (task, before[[t.name for t in before].index(task.given)]):
            for what in ("kept_negatives", "learnt_negatives"):
                if (share := getattr(of_chain, what)) < 1:
                    raise ValueError(
                        f"Task({of_chain.name!r}).{what} is {share}: "
                        "expected 1 in a chain, which is learnt from all impressions"
                    )

    def of_kind(self, kind: str) -> tuple[Field, ...]:
        return tuple(f for f in self.fields if f.kind == kind)

    @cached_property
    def grids(self) -> tuple[Field, ...]:
        """The series and images."""
        return tuple(f for f in self.fields if f.shape)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The numbers of an impression, by name: dense fields, then each series and image."""
        return (*(f.name for f in self.of_kind("dense")), *self.columns_of_grids)

    @cached_property
    def columns_of_grids(self) -> dict[str, None]:
        """Those of series and images, in order: `name.0` and so on."""
        return dict.fromkeys(f"{f.name}.{i}" for f in self.grids for i in range(f.numbers))

    @cached_property
    def outputs(self) -> int:
        return sum(t.outputs for t in self.tasks)

    @cached_property
    def output_slices(self) -> dict[str, slice]:
        """Where each task's predictions stand in a row of `outputs` numbers."""
        slices, start = {}, 0
        for task in self.tasks:
            slices[task.name] = slice(start, start + task.outputs)
            start += task.outputs
        return slices

    @property
    def longest_window_ms(self) -> int:
        return max(t.window_ms for t in self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; a field that has no shape says none, as before there were shapes."""
        raw = asdict(self)
        raw["fields"] = [{k: v for k, v in f.items() if k != "shape" or v} for f in raw["fields"]]
        return raw

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Schema:
        raw = json.loads(text)
        return cls(
            fields=tuple(Field(**{**f, "shape": tuple(f.get("shape", ()))}) for f in raw["fields"]),
            tasks=tuple(Task(**t) for t in raw["tasks"]),
            user=raw["user"],
            item=raw["item"],
            weight=raw.get("weight"),
        )
