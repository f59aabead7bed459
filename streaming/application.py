"""An application: what is shown, what is to be predicted, and how a log's rows become events.

Config is code. Everything has a default but the name, the schema and `rows`; a wrong name or value
is refused when the application is built, with the nearest right one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from features.windows import Aggregates, Entity, Signal, Windows
from model.schema import Field, Schema, Task, nearest
from model.train import Trainer
from model.weighting import Weighting
from streaming.drift import DriftMonitor
from streaming.early_stopping import EarlyStopping
from streaming.explore import Explore
from streaming.policies import parts
from streaming.rebalance import Rebalancer
from streaming.signals import Signals

__all__ = [
    "Aggregates", "Application", "Entity", "Field", "Logged", "Schema", "Shown", "SideTable",
    "Signal", "Task", "Told",
]  # fmt: skip


class Told(NamedTuple):
    """Feedback on an impression: its kind, its value, and how long after the impression it came."""

    kind: str
    value: float = 1.0
    after_ms: int = 0


class Shown(NamedTuple):
    """One impression: a unique id, its time, its fields, and its feedback.

    An id is an integer from 0 to 2^63 - 1, or a string of 1 to 64 characters. A time is in ms since
    1970, or a datetime (UTC where it names no zone).
    """

    id: int | str
    time_ms: int | datetime
    fields: Mapping[str, Any]
    told: Sequence[Told] = ()


class Logged(NamedTuple):
    """Which policy chose what a row shows, with which chance, and out of which items."""

    policy: str
    propensity: float
    candidates: Sequence[int | str]


class SideTable(NamedTuple):
    """A Parquet file beside the log, and the column by which `rows` looks its rows up."""

    file: str
    key: str


Row = Mapping[str, Any]
Rows = Callable[[Row, Mapping[str, Mapping[Any, Row]]], Shown | None]


@dataclass(frozen=True)
class Application:
    """What a team brings: a schema, features, a model, and `rows`, which turns one row of its log,
    with the side tables at hand, into an impression and its feedback (or None, to leave it out).

    Rows are taken in the order of `time_column`; where none is named as they stand, each with its
    `row_number`. `lateness_ms` is how far a partition may run out of order; event ids are
    remembered `memory_ms`, by default (0) the longest window and the lateness twice, and a minute.
    `tick_ms` also cuts batches at multiples of it in event time (0: never). A version is published
    every `publish_every` batches.
    """

    name: str
    schema: Schema
    rows: Rows
    time_column: str = ""
    side_tables: Mapping[str, SideTable] = field(default_factory=dict)
    aggregates: Aggregates = field(default_factory=Aggregates)
    trainer: Trainer.Config = field(default_factory=Trainer.Config)
    weighting: Weighting = field(default_factory=Weighting)
    drift: DriftMonitor.Config = field(default_factory=DriftMonitor.Config)
    rebalance: Rebalancer.Config = field(default_factory=Rebalancer.Config)
    early_stopping: EarlyStopping.Config = field(default_factory=EarlyStopping.Config)
    explore: Explore = field(default_factory=Explore)
    lateness_ms: int = 0
    memory_ms: int = 0
    tick_ms: int = 0
    publish_every: int = 200
    source: Callable[[], Any] | None = None  # rows of an application that makes its own log
    logged: Callable[[Row], Logged] | None = None  # of a log whose policy is known

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(
                f"Application.name is {self.name!r}: expected letters, digits, '-' and '_'"
            )
        for name in ("lateness_ms", "memory_ms", "tick_ms"):
            if getattr(self, name) < 0:
                raise ValueError(f"Application.{name} is {getattr(self, name)}: expected 0 or more")
        if self.publish_every < 1:
            raise ValueError(
                f"Application.publish_every is {self.publish_every}: expected 1 or more"
            )
        least = self.schema.longest_window_ms + self.lateness_ms
        if 0 < self.memory_ms < least:
            raise ValueError(
                f"Application.memory_ms is {self.memory_ms}: expected at least {least}, "
                "the longest window and the lateness"
            )
        if self.weighting.reads and self.trainer.network.sharing == "single_task":
            raise ValueError(
                f"Weighting.kind is {self.weighting.kind!r}, which weighs what tasks share: "
                "expected another NetworkConfig.sharing than 'single_task'"
            )
        if "gradient" in parts(self.rebalance.policy):
            if self.trainer.network.sharing == "single_task" or self.weighting.reads:
                raise ValueError(
                    f"Rebalancer.Config.policy is {self.rebalance.policy!r}, which combines the "
                    "gradients by what tasks share: expected tasks that share, and a "
                    "Weighting.kind that does not read gradients itself"
                )
        windows = Windows(self.schema, self.aggregates)  # refuses what does not fit together
        Signals(self.schema, windows.layout, self.drift)

    @property
    def id_memory_ms(self) -> int:
        """How long event ids are remembered: `memory_ms`, or its default."""
        least = self.schema.longest_window_ms + self.lateness_ms
        return self.memory_ms or 2 * least + 60_000

    def settings(self) -> dict[str, Any]:
        """All settings but the code, as JSON values."""
        left_out = ("rows", "source", "logged", "side_tables")
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        plain = {k: asdict(v) if is_dataclass(v) else v for k, v in values.items()}  # type: ignore[arg-type]
        return {**plain, "schema": self.schema.to_dict()}

    def config_hash(self) -> str:
        """SHA-256 of the settings, in hex."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()

    def with_settings(self, settings: Sequence[str]) -> Application:
        """This application with settings like `trainer.dense.lr=0.05` changed.

        Raises ValueError naming the setting, the value, and the nearest right name.
        """
        changed = self
        for setting in settings:
            path, equals, value = setting.partition("=")
            if not equals:
                raise ValueError(f"setting {setting!r}: expected name=value")
            changed = _changed(changed, path.split("."), value, path)
        return changed


def _changed(owner: Any, path: list[str], value: str, whole: str) -> Any:
    code = ("rows", "source", "logged", "side_tables", "name", "schema")
    names = [f.name for f in fields(owner)]
    known = [n for n in names if not (isinstance(owner, Application) and n in code)]
    if path[0] not in known:
        raise ValueError(f"setting {whole!r}: there is no {path[0]!r}, {nearest(path[0], known)}")
    old = getattr(owner, path[0])
    if is_dataclass(old):
        if len(path) == 1:
            inner = ", ".join(f"{whole}.{f.name}" for f in fields(old))
            raise ValueError(f"setting {whole!r} is a group: expected one of {inner}")
        return replace(owner, **{path[0]: _changed(old, path[1:], value, whole)})
    if len(path) > 1:
        raise ValueError(f"setting {whole!r}: {path[0]!r} has no parts")
    kind = type(old)
    try:
        if kind in (int, float, bool, str):
            new = msgspec.convert(value, kind, strict=False)
        else:
            new = msgspec.json.decode(value)
            new = tuple(new) if isinstance(new, list) else new
    except (msgspec.MsgspecError, ValueError):
        raise ValueError(
            f"setting {whole!r} is {value!r}: expected {kind.__name__}, as {old!r}"
        ) from None
    if isinstance(new, float) and not math.isfinite(new):
        raise ValueError(f"setting {whole!r} is {value!r}: expected a finite number")
    return replace(owner, **{path[0]: new})
