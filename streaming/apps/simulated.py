"""Simulated users: will they click, like what they clicked, and how long do they stay?

The log is made by `features/simulate.py`, with changes of taste planted in it (`app`) or without
any (`calm`). Its hours pass in seconds: 800 impressions a second, and all feedback within 1.3 s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from features import simulate
from features.simulate import Change, Config, Simulation
from model.optim import DenseOptimiser
from model.train import Trainer
from streaming.application import (
    Aggregates,
    Application,
    Entity,
    Field,
    Schema,
    Shown,
    Signal,
    Task,
    Told,
)
from streaming.drift import DriftMonitor

SECOND = 1_000
CALM = Config(users=200, items=500, rate_per_s=800.0, pace=0.02, slot_ms=10 * SECOND)
FIRST_TWO = (14_000, 24_000)
MARGIN = 200  # ms that feedback may be under way, when the stream is live


def planted(count: int, every: int) -> tuple[Change, ...]:
    """The first two changes within the first minute, the others `every` impressions after.

    In turn, most users' taste in what to click turns, and clicks become many, or few again.
    """
    changes: list[Change] = []
    for n in range(count):
        at = FIRST_TWO[n] if n < 2 else changes[-1].at + every
        kind = ("preference", "label_rate")[n % 2]
        changes.append(Change(at, kind, "click", share=0.9, to=(0.5, 0.3)[n // 2 % 2]))
    return tuple(changes)


def shown(row: simulate.Shown) -> Shown:
    """An impression of the simulation as one of this application."""
    told = [Told(f.kind, f.value, f.delay_ms) for f in row.feedback]
    return Shown(row.id, row.time_ms, fields(row), told)


def fields(row: simulate.Shown) -> dict[str, int]:
    """What is known of an impression when it is shown."""
    return {field.name: getattr(row, field.name) for field in FIELDS}


def rows(row: Mapping[str, Any], tables: Mapping[str, Any]) -> Shown:
    raise ValueError("application 'simulated' makes its own log: leave out --log")


FIELDS = tuple(
    Field(name, "id") for name in ("user_id", "segment_id", "item_id", "category_id", "slot")
)


def application(config: Config) -> Application:
    """The application on the stream of `config`; each task waits for the slowest feedback."""
    slowest = max(Simulation(Config(pace=config.pace)).longest_delay_ms.values())
    window = slowest + MARGIN

    def source() -> Iterator[Shown]:
        return map(shown, Simulation(config))

    return Application(
        name="simulated",
        schema=Schema(
            fields=FIELDS,
            tasks=(
                Task("click", "binary", window),
                Task("like", "binary", window),
                Task("dwell", "regression", window),
            ),
            user="user_id",
            item="item_id",
        ),
        rows=rows,
        source=source,
        aggregates=Aggregates(
            signals=(
                Signal("click", per="impression"),
                Signal("like", per="impression"),
                Signal("dwell"),
            ),
            entities=(
                Entity("user", decays_ms=(20 * SECOND,)),
                Entity("item", decays_ms=(20 * SECOND,)),
            ),
        ),
        trainer=Trainer.Config(dense=DenseOptimiser(lr=0.05)),
        drift=DriftMonitor.Config(allowance=0.5, threshold=14.0, longest_block=512),
        publish_every=5,
    )


app = application(replace(CALM, changes=planted(5, 40_000)))
calm = application(CALM)
