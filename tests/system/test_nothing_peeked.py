"""A served prediction knows what was known at its impression, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from replays import LOGS, predictions, replayed
from sklearn.metrics import roc_auc_score

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
from streaming.replay import Replay

HOUR = 3_600_000
ROWS = 12_000


@pytest.fixture(scope="module")
def log(data_dir, tmp_path_factory):
    """The first rows of KuaiRand, its users beside them, and what was served on them."""
    folder = tmp_path_factory.mktemp("log")
    (folder / "kuairand_users.parquet").symlink_to(data_dir / "kuairand_users.parquet")
    table = pq.read_table(data_dir / LOGS["kuairand"]).slice(0, ROWS)
    return folder, table, served(folder, table)


def served(folder: Path, table: pa.Table):
    path, out = folder / "changed.parquet", folder / "served.parquet"
    pq.write_table(table, path)
    replayed("kuairand", folder, log=path, predictions=out)
    return predictions(out).sort_values(["event_id", "task"]).reset_index(drop=True)


def same_before(time_ms: int, a, b) -> int:
    """Asserts that all predictions before `time_ms` are the same; returns how many there are."""
    a, b = (x[x.event_time_ms < time_ms].reset_index(drop=True) for x in (a, b))
    assert (a.event_id == b.event_id).all() and (a.prediction == b.prediction).all()
    return len(a)


def test_labels_known_after_a_time_change_no_prediction_before_it(log):
    """Also not those of what was shown before it: its feedback had not come."""
    folder, table, before = log
    times, play = table["time_ms"].to_numpy(), table["play_time_ms"].to_numpy()
    t = int(times[ROWS // 2])
    later = times + play >= t
    assert (later & (times < t)).any()
    changed = table
    for name in ("is_click", "long_view", "is_profile_enter", "is_comment", "play_time_ms"):
        values = table[name].to_numpy().copy()
        values[later] = values[later] + 7_000 if name == "play_time_ms" else 1 - values[later]
        column = pa.array(values, table[name].type)
        changed = changed.set_column(changed.column_names.index(name), name, column)
    after = served(folder, changed)
    assert same_before(t, before, after) > ROWS
    assert (before.prediction != after.prediction).any()


def test_the_last_hour_changes_no_prediction_before_it(log):
    folder, table, before = log
    times = table["time_ms"].to_numpy()
    cut = int(times[-1]) - HOUR
    after = served(folder, table.slice(0, int((times < cut).sum())))
    assert len(after) < len(before)
    assert same_before(cut, before, after) == len(after)


def giveaway(second_after_ms: int, known_after_ms: int = 500) -> Application:
    """Each user is shown something twice, with one and the same label, known half a second after
    the first: whoever is shown the second before that must not know it."""

    def rows(row, tables):
        return Shown(
            id=row["id"],
            time_ms=row["time_ms"] + (second_after_ms if row["second"] else 0),
            fields={"user": row["user"]},
            told=[Told("label", row["label"], known_after_ms)],
        )

    return Application(
        name="giveaway",
        schema=Schema((Field("user", "id"),), (Task("label", "binary", 500),), user="user"),
        rows=rows,
        lateness_ms=5_000,
        aggregates=Aggregates(signals=(Signal("label"),), entities=(Entity("user"),)),
    )


@pytest.mark.parametrize(("second_after_ms", "known"), [(499, False), (501, True)])
def test_a_label_is_known_from_its_feedback_on_and_not_before(tmp_path, second_after_ms, known):
    n = 4_000
    label = np.random.default_rng(1).integers(0, 2, n)
    start = 1_700_000_000_000 + np.arange(n) * 1_000
    columns = {
        "id": np.arange(2 * n),
        "user": np.repeat(np.arange(n), 2),
        "time_ms": np.repeat(start, 2),
        "second": np.tile([False, True], n),
        "label": np.repeat(label, 2),
    }
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    out = tmp_path / "served.parquet"
    Replay(giveaway(second_after_ms), tmp_path / "log.parquet", predictions=out).run()
    seconds = predictions(out).query("event_id % 2 == 1")
    auc = roc_auc_score(seconds.label, seconds.prediction)
    assert auc > 0.95 if known else 0.45 < auc < 0.55


def test_a_label_after_its_tasks_window_is_not_learned(tmp_path):
    """All that comes is positive, but a millisecond too late: every label closes as negative."""
    columns = {"id": range(2_000), "user": range(2_000), "second": [False] * 2_000}
    columns |= {"time_ms": [1_700_000_000_000 + 10 * n for n in range(2_000)], "label": [1] * 2_000}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    for after_ms, positives in ((500, 2_000), (501, 0)):
        out = tmp_path / "served.parquet"
        report = Replay(giveaway(0, after_ms), tmp_path / "log.parquet", predictions=out).run()
        assert report is not None
        assert predictions(out).label.sum() == positives
        assert report["events"]["orphan"] == 2_000 - positives


def test_feedback_from_before_its_impression_is_refused(tmp_path):
    columns = {"id": [1], "user": [1], "second": [False], "time_ms": [1_700_000_000_000]}
    pq.write_table(pa.table({**columns, "label": [1]}), tmp_path / "log.parquet")
    with pytest.raises(ValueError, match="-1 ms after: expected 0 or more"):
        Replay(giveaway(0, -1), tmp_path / "log.parquet").run()
