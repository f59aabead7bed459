"""An application's features as Feast knows them: entities, views and a service, from its schema.

One view for each kind of row, keyed by the entity's 63-bit key (`features.events.key`; of a pair
`features.windows` mixes it from both), with `row` and `as_of` packed, and counts for people.
Offline, a view is a folder of Parquet parts; `event_timestamp` is how far event time had come at
the writer, and of two rows of one moment `covered` puts the one that covers more of its source
last: it holds the sum of the offsets, as microseconds.

Importing this module imports Feast (seconds, hundreds of MB): import it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Bytes, Int64

from features.rows import RowLayout

ROW, AS_OF = "row", "as_of"
EVENT_TIMESTAMP, COVERED = "event_timestamp", "covered"


def join_key(kind: str) -> str:
    """The name of the column that holds the entities' keys."""
    return f"{kind}_key"


def view(layout: RowLayout, offline: Path) -> FeatureView:
    """The view of one kind of row; its Parquet parts lie in `offline`/KIND."""
    kind = layout.kind
    source = FileSource(
        name=f"{kind}_parts",
        path=str(offline / kind / "*.parquet"),
        file_format=ParquetFormat(),
        timestamp_field=EVENT_TIMESTAMP,
        created_timestamp_column=COVERED,
    )
    return FeatureView(
        name=kind,
        entities=[_entity(kind)],
        ttl=timedelta(0),  # a row holds until the next one
        schema=[
            Field(name=join_key(kind), dtype=Int64),
            Field(name=ROW, dtype=Bytes, description="the packed aggregates: features/rows.py"),
            Field(name=AS_OF, dtype=Bytes, description="the source's offsets in the row"),
            *(Field(name=name, dtype=Int64) for name in layout.counts),
        ],
        source=source,
        tags={"layout": layout.header.hex()},
    )


def objects(service: str, layouts: Sequence[RowLayout], offline: Path) -> list[Any]:
    """All that `FeatureStore.apply` takes for an application: entities, views, and the service."""
    views = [view(layout, offline) for layout in layouts]
    entities = [_entity(layout.kind) for layout in layouts]
    return [*entities, *views, FeatureService(name=service, features=[*views])]


def applied(feast: FeatureStore, layouts: Sequence[RowLayout]) -> bool:
    """Whether Feast's registry has the views of these very layouts."""
    there = {v.name: v.tags.get("layout") for v in feast.list_feature_views()}
    return all(there.get(layout.kind) == layout.header.hex() for layout in layouts)


def _entity(kind: str) -> Entity:
    return Entity(name=kind, join_keys=[join_key(kind)], value_type=ValueType.INT64)
