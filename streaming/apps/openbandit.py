"""Open Bandit (ZOZOTOWN; Saito et al. 2020): which of a campaign's products gets a click where?

Two policies showed products, at random and by Thompson sampling, and the log has the chance that
each product had at its place: what other policies would have earned can be told from it
(`freshet offpolicy`). Who looks is known by four hashed features only, so that is the user. The log
does not say when a click came: 10 s after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streaming.application import Application, Field, Logged, Schema, Shown, Task, Told

ANSWER = 10_000
USER = tuple(f"user_feature_{n}" for n in range(4))
PRODUCTS = {"men": 34, "women": 46}

schema = Schema(
    fields=(
        Field("segment", "id"),
        Field("product", "id"),
        Field("position", "id"),
        Field("campaign", "id"),
        *(Field(name, "id") for name in USER),
    ),
    tasks=(Task("click", "binary", 2 * ANSWER),),
    user="segment",
    item="product",
)


def product(campaign: str, item: int) -> str:
    """Numbers count anew in each campaign."""
    return f"{campaign}-{item}"


def rows(row: Mapping[str, Any], tables: Mapping[str, Any]) -> Shown:
    campaign, item, position = row["campaign"], row["item_id"], row["position"]
    return Shown(
        id=f"{row['ts_us']}-{row['policy']}-{campaign}-{position}-{item}",
        time_ms=row["ts_us"] // 1_000,
        fields={
            "segment": "-".join(str(row[name]) for name in USER),
            "product": product(campaign, item),
            "position": position,
            "campaign": campaign,
            **{name: row[name] for name in USER},
        },
        told=[Told("click", row["click"], ANSWER)],
    )


def logged(row: Mapping[str, Any]) -> Logged:
    campaign = row["campaign"]
    candidates = [product(campaign, item) for item in range(PRODUCTS[campaign])]
    return Logged(row["policy"], row["propensity_score"], candidates)


app = Application(name="openbandit", schema=schema, rows=rows, time_column="ts_us", logged=logged)
