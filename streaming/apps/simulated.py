"""Simulated users: will they click, like what they clicked, and how long do they stay?

The log is made by `features/simulate.py`, with changes of taste planted in it (`app`) or without
any (`calm`). Its hours pass in seconds: 600 impressions a second, and all feedback within 1.3 s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from features import simulate
from features.simulate import Change, Config, Simulation
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

SECOND = 1_000
CALM = Config(rate_per_s=600.0, pace=0.02, slot_ms=10 * SECOND)
FIRST_CHANGE = 12_000


def planted(count: int, every: int) -> tuple[Change, ...]:
    """The first two changes within the first minute, the rest `every` impressions after.

    Tastes for one task turn for 60 % of the users; in between, the rate of clicks goes up and down.
    """
    changes = [
        Change(FIRST_CHANGE, "preference", "click"),
        Change(FIRST_CHANGE + 11_000, "label_rate", "click", to=0.5),
    ]
    for n in range(2, count):
        at = changes[-1].at + every
        task = ("like", "click")[n // 2 % 2]
        rate = {"like": (0.1, 0.2), "click": (0.3, 0.5)}[task]
        kinds = (Change(at, "preference", "click"), Change(at, "label_rate", task, to=rate[n // 4 % 2]))
        changes.append(kinds[n % 2])
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
    """The application whose log is the stream of `config`; each task waits for the slowest feedback."""
    window = max(Simulation(Config(pace=config.pace)).longest_delay_ms.values())

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
        publish_every=10,
    )


app = application(Config(**{**vars(CALM), "changes": planted(5, 40_000)}))
calm = application(CALM)
