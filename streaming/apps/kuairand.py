"""KuaiRand, short videos: does the user click, watch long, look at the author, comment; how long?

A click and a watch are known when the play ends, a look at the author or a comment within it, so
all feedback comes at impression + play time. Plays longer than the window count as not known.
`play_time` is learned and scored as ln(1 + ms).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streaming.application import (
    Aggregates,
    Application,
    Entity,
    Field,
    Schema,
    Shown,
    SideTable,
    Signal,
    Task,
    Told,
)

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
WINDOW = 10 * MINUTE
BINARY = ("is_click", "long_view", "is_profile_enter", "is_comment")
USER_FIELDS = (
    "user_active_degree",
    "follow_user_num_range",
    "fans_user_num_range",
    "register_days_range",
)

schema = Schema(
    fields=(
        Field("user_id", "id"),
        Field("video_id", "id"),
        Field("hour", "id"),
        *(Field(name, "id") for name in USER_FIELDS),
        Field("log_duration", "dense"),
    ),
    tasks=(
        *(Task(name, "binary", WINDOW) for name in BINARY),
        Task("play_time", "regression", WINDOW, transform="log1p"),
    ),
    user="user_id",
    item="video_id",
)


def rows(row: Mapping[str, Any], tables: Mapping[str, Any]) -> Shown:
    import math

    user = tables["users"].get(row["user_id"], {})
    time_ms, play_ms = row["time_ms"], row["play_time_ms"]
    told = [Told("play_time", play_ms, play_ms)]
    told += [Told(name, 1, play_ms) for name in BINARY if row[name]]
    return Shown(
        id=f"{time_ms}-{row['date']}-{row['hourmin']}-{row['user_id']}-{row['video_id']}",
        time_ms=time_ms,
        fields={
            "user_id": row["user_id"],
            "video_id": row["video_id"],
            "hour": row["hourmin"] // 100,
            **{name: str(user.get(name) or "unknown") for name in USER_FIELDS},
            "log_duration": math.log1p(row["duration_ms"] / 1000),
        },
        told=told,
    )


app = Application(
    name="kuairand",
    schema=schema,
    rows=rows,
    time_column="time_ms",
    side_tables={"users": SideTable("kuairand_users.parquet", "user_id")},
    aggregates=Aggregates(
        signals=tuple(Signal(name, per="play_time") for name in (*BINARY, "play_time")),
        entities=(
            Entity("user", decays_ms=(HOUR, DAY)),
            Entity("item", decays_ms=(6 * HOUR, 3 * DAY)),
            Entity("pair", rates=False),
        ),
        history=20,
        history_signal="long_view",
    ),
)
