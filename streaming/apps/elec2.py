"""Elec2, the classic drift stream: does the price of electricity in New South Wales go up?

A row is a half hour; its truth is settled a second before the next one is asked about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

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

HOUR, DAY = 3_600_000, 86_400_000
KNOWN_AFTER = HOUR // 2 - 1_000
DENSE = ("nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")

schema = Schema(
    fields=(
        Field("market", "id"),
        Field("period", "id"),
        Field("weekday", "id"),
        *(Field(name, "dense") for name in DENSE),
    ),
    tasks=(Task("class", "binary", KNOWN_AFTER),),
    user="market",
    item="period",
)


def rows(row: Mapping[str, Any], tables: Mapping[str, Any]) -> Shown:
    ts = row["ts"]
    return Shown(
        id=ts,
        time_ms=ts * 1000,
        fields={
            "market": "nsw",
            "period": round(row["period"] * 47),
            "weekday": ts // 86_400 % 7,
            **{name: row[name] for name in DENSE},
        },
        told=[Told("class", row["class"], KNOWN_AFTER)],
    )


app = Application(
    name="elec2",
    schema=schema,
    rows=rows,
    time_column="ts",
    aggregates=Aggregates(
        signals=(Signal("class"),),
        entities=(
            Entity("user", decays_ms=(HOUR, 4 * HOUR, DAY)),
            Entity("item", decays_ms=(7 * DAY,)),
        ),
    ),
    trainer=replace(Trainer.Config(), batch_size=16),
)
