"""MovieLens: will a user like a film (4 stars or more), and how many stars will it get?

The log has the moment of the rating only. We take it as the moment at which the film was asked
about, and let the answer come 11 s later, the median time from one rating of a user to the next: at
once would be a lie.
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

ANSWER, MINUTE, DAY = 11_000, 60_000, 86_400_000

schema = Schema(
    fields=(Field("user_id", "id"), Field("movie_id", "id"), Field("genres", "ids", size=6)),
    tasks=(Task("like", "binary", 2 * ANSWER), Task("rating", "regression", 2 * ANSWER)),
    user="user_id",
    item="movie_id",
)


def rows(row: Mapping[str, Any], tables: Mapping[str, Any]) -> Shown:
    user, movie, stars = row["userId"], row["movieId"], row["rating"]
    return Shown(
        id=f"{user}-{movie}",
        time_ms=row["timestamp"] * 1000,
        fields={
            "user_id": user,
            "movie_id": movie,
            "genres": tables["movies"][movie]["genres"].split("|"),
        },
        told=[Told("rating", stars, ANSWER), Told("like", stars >= 4, ANSWER)],
    )


app = Application(
    name="movielens",
    schema=schema,
    rows=rows,
    time_column="timestamp",
    side_tables={"movies": SideTable("movielens_small_movies.parquet", "movieId")},
    aggregates=Aggregates(
        signals=(Signal("like"), Signal("rating")),
        entities=(
            Entity("user", decays_ms=(5 * MINUTE, DAY)),
            Entity("item", decays_ms=(365 * DAY,)),
        ),
        history=20,
        history_signal="rating",
    ),
)
