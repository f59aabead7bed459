"""The Parquet parts of a worker that writes for months: whole, few, and none too old."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pyarrow.dataset as parts
import pytest

from features.as_of import pack_as_of
from features.offline_parts import MERGE, OfflineParts
from features.rows import row_layouts
from features.store import Rows
from features.windows import Aggregates, Entity, Signal, Windows
from model.schema import Field, Schema, Task

SCHEMA = Schema(
    fields=(Field("user", "id"), Field("item", "id")),
    tasks=(Task("click", "binary", window_ms=1_000),),
    user="user",
    item="item",
)
LAYOUTS = row_layouts(
    Windows(SCHEMA, Aggregates(signals=(Signal("click"),), entities=(Entity("user"),)))
)


def rows(version: int) -> Rows:
    counts = np.full((1, len(LAYOUTS["user"].counts)), version, np.int64)
    as_of = pack_as_of({("impressions", 0): version})
    return Rows(np.array([7]), [b"row %d" % version], [as_of], counts, version)


def write(kept: OfflineParts, versions: range) -> None:
    for version in versions:
        kept.add("user", rows(version))
        kept.flush()


def files(folder: Path) -> list[Path]:
    return sorted((folder / "user").iterdir())


def values(folder: Path) -> list[bytes]:
    table = parts.dataset(folder / "user", format="parquet").to_table()
    return sorted(table["row"].to_pylist())


def test_parts_are_put_together_and_hold_every_row(tmp_path):
    kept = OfflineParts(tmp_path, LAYOUTS)
    write(kept, range(1, MERGE + 3))
    assert len(files(tmp_path)) == 3
    assert values(tmp_path) == sorted(rows(v).values[0] for v in range(1, MERGE + 3))


def test_a_part_that_another_writer_moves_while_it_is_looked_at_is_passed_over(tmp_path):
    kept = OfflineParts(tmp_path, LAYOUTS, keep_days=1)
    kept.prepare()
    for name in ("gone.parquet.writing", "gone.parquet"):
        (tmp_path / "user" / name).symlink_to(tmp_path / "nowhere")
    OfflineParts(tmp_path, LAYOUTS, keep_days=1).prepare()
    assert {"gone.parquet.writing", "gone.parquet"} <= {f.name for f in files(tmp_path)}


def test_two_writers_of_one_folder_lose_nothing_of_each_other(tmp_path):
    one, two = OfflineParts(tmp_path, LAYOUTS), OfflineParts(tmp_path, LAYOUTS)
    write(two, range(1_000, 1_010))
    write(one, range(1, MERGE + 1))
    write(two, range(1_010, 1_000 + MERGE))
    assert len(files(tmp_path)) == 2
    assert len(values(tmp_path)) == 2 * MERGE


@pytest.mark.parametrize("keep_days", [None, 2.0])
def test_what_is_older_than_the_kept_days_goes(tmp_path, keep_days):
    kept = OfflineParts(tmp_path, LAYOUTS, keep_days)
    write(kept, range(1, MERGE + 1))
    (old,) = files(tmp_path)
    os.utime(old, (time.time() - 3 * 86_400,) * 2)
    write(kept, range(MERGE + 1, 2 * MERGE + 1))
    assert old.exists() == (keep_days is None)
    assert len(values(tmp_path)) == (2 * MERGE if keep_days is None else MERGE)
