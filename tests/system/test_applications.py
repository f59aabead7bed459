"""Applications of every shape: what is legitimate works, and the order holds for all of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from replays import LOGS, predictions
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, log_loss, roc_auc_score

from features.events import Control
from streaming.__main__ import load_application
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
from streaming.apps import census, synthetic
from streaming.replay import Replay

START = 1_700_000_000_000


def shop_rows(n: int = 4_000, disorder_ms: int = 0) -> list[Shown]:
    """Purchases of one of four sizes, by users with a size of their own, slightly out of order."""
    rng = np.random.default_rng(3)
    users, items = rng.integers(0, 40, n), rng.integers(0, 300, n)
    sizes = np.where(rng.random(n) < 0.7, users % 4, rng.integers(0, 4, n))
    rows = []
    for i in range(n):
        told = [Told("size", sizes[i], 120 + i % 40)]
        told += [Told("buy", 1, 30), Told("buy", int(items[i] % 2), 60)]  # the last one counts
        if i % 3 == 0:
            told.append(Told("stars", np.float64(1 + users[i] % 5), 90))
        fields = {"user": f"user {users[i]}", "item": items[i], "class": np.int64(i % 5)}
        fields |= {"tags": [f"t{t}" for t in range(i % 4)], "price": np.float32(i % 7), "id": 7}
        rows.append(
            Shown(
                f"{i:064d}", START + 100 * i + int(rng.integers(0, disorder_ms + 1)), fields, told
            )
        )
    return rows


def shop(rows: list[Shown], **settings) -> Application:
    return Application(
        name="shop",
        schema=Schema(
            (
                *(Field(name, "id") for name in ("user", "item", "class", "id")),
                Field("tags", "ids", size=3),
                Field("price", "dense"),
            ),
            (
                Task("size", "multiclass", 500, classes=4),
                Task("buy", "binary", 250, close=settings.pop("close", "window")),
                Task("stars", "regression", 250, close="arrival"),
            ),
            user="user",
            item="item",
        ),
        rows=lambda row, tables: None,
        source=lambda: iter(rows),
        aggregates=Aggregates(
            (Signal("buy"), Signal("stars")),
            (Entity("user", decays_ms=(5_000,)), Entity("item"), Entity("pair", rates=False)),
            history=4,
            history_signal="buy",
        ),
        **settings,
    )


def test_a_multiclass_task_is_learned_and_agrees_with_scikit_learn(tmp_path):
    out = tmp_path / "served.parquet"
    report = Replay(shop(shop_rows()), predictions=out).run()
    assert report is not None and report["events"]["bad"] == 0
    served = predictions(out)
    wide = served[served.task.str.startswith("size.")].pivot(
        index="event_id", columns="task", values=["prediction", "label"]
    )
    p, y = wide["prediction"].to_numpy(float), wide["label"].to_numpy(float).argmax(1)
    figures = report["tasks"]["size"]["served"]
    assert report["tasks"]["size"]["count"] == len(y) == 4_000
    assert figures["accuracy"] == pytest.approx(accuracy_score(y, p.argmax(1)))
    assert figures["f1"] == pytest.approx(f1_score(y, p.argmax(1), average="macro"))
    normed = p / p.sum(1, keepdims=True)
    assert figures["log_loss"] == pytest.approx(log_loss(y, normed), rel=1e-5)
    assert figures["auc"] == pytest.approx(roc_auc_score(y, normed, multi_class="ovr"), abs=1e-3)
    assert cohen_kappa_score(y[2_000:], p[2_000:].argmax(1)) > 0.3  # it has learned


def test_of_several_labels_the_last_one_counts(tmp_path):
    out = tmp_path / "served.parquet"
    Replay(shop(shop_rows(600)), predictions=out).run()
    served = predictions(out)
    assert served[served.task == "buy"].label.mean() == pytest.approx(0.5, abs=0.1)
    assert (served[served.task == "stars"].label.isna()).sum() == 400


@pytest.mark.parametrize("tick_ms", [0, 777])
@pytest.mark.parametrize("close", ["window", "arrival"])
def test_one_hash_out_of_order_with_ticks_and_arrivals(tick_ms, close, monkeypatch):
    rows = shop_rows(2_000, disorder_ms=350)
    app = shop(rows, tick_ms=tick_ms, close=close, lateness_ms=400)
    reports = []
    for partitions, records in ((1, 4_096), (1, 7), (4, 4_096), (3, 61)):
        monkeypatch.setattr("streaming.learn.READ_RECORDS", records)
        reports.append(Replay(app, partitions=partitions).run())
    assert len({r["state_hash"] for r in reports if r}) == 1
    assert all(r and r["events"]["delayed"] == r["events"]["late"] == 0 for r in reports)


def test_what_comes_after_the_lateness_is_counted():
    report = Replay(shop(shop_rows(2_000, disorder_ms=350))).run()
    assert report is not None and report["events"]["delayed"] > 100


def test_no_item_no_aggregates_and_times_as_datetimes(tmp_path):
    n = 500
    times = [datetime(2026, 1, 1 + i // 50, i % 24) for i in range(n)]
    log = {
        "at": times,
        "who": [f"{i % 20}" for i in range(n)],
        "yes": [i % 20 < 10 for i in range(n)],
    }
    folder = tmp_path / "log"
    folder.mkdir()
    for part in range(2):  # unsorted between the files of a folder
        pq.write_table(pa.table(log).slice((1 - part) * 250, 250), folder / f"{part}.parquet")
    (folder / "README.md").write_text("not a log")
    app = Application(
        name="plain",
        schema=Schema((Field("who", "id"),), (Task("yes", "binary", 1_000),), user="who"),
        rows=lambda row, tables: Shown(
            f"{row['at']} {row['who']}", row["at"], {"who": row["who"]}, [Told("yes", row["yes"])]
        ),
        time_column="at",
    )
    report = Replay(app, folder).run()
    assert report is not None and report["tasks"]["yes"]["count"] == n
    assert report["events"]["delayed"] == report["events"]["bad"] == 0


def test_a_row_that_is_too_large_is_set_aside():
    rows = shop_rows(100)
    rows[50] = rows[50]._replace(fields={**rows[50].fields, "tags": ["x" * 60] * 20_000})
    report = Replay(shop(rows)).run()
    assert report is not None and report["events"]["bad"] == 1
    assert report["tasks"]["size"]["count"] == 99


def test_a_log_of_which_nothing_can_be_used_is_an_error():
    with pytest.raises(ValueError, match=r"no row .* field 'price' is missing"):
        broken = [
            row._replace(fields={"user": 1, "item": 1, "class": 1, "tags": [], "id": 1})
            for row in shop_rows(5)
        ]
        Replay(shop(broken)).run()


def test_an_operator_sets_freezes_and_releases_task_weights():
    rows = shop_rows(2_000)
    at = [row.time_ms for row in rows]
    controls = [
        Control("a", at[500], "weights.set", {"task": "buy", "weight": 2.0}),
        Control("b", at[600], "weights.set", {"task": "by", "weight": 2.0}),
        Control("c", at[800], "weights.freeze"),
        Control("d", at[1_500], "weights.release"),
        Control("e", at[1_600], "for somebody else"),
    ]
    plain, moved, again = (
        Replay(shop(rows), controls=c, partitions=p).run()
        for c, p in (((), 1), (controls, 1), (controls, 4))
    )
    assert plain and moved and again
    assert moved["state_hash"] == again["state_hash"] != plain["state_hash"]
    assert moved["decisions"] and "buy" in {d["task"] for d in moved["decisions"]}
    assert moved["task_weights"] != plain["task_weights"]


@pytest.mark.parametrize("name", ["simulated", "kuairand", "movielens", "elec2", "census"])
def test_every_setting_of_an_application_can_be_set(name):
    app = load_application(name)

    def leaves(tree: dict, path: str = ""):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{path}{key}.")
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                yield f"{path}{key}", value

    settings = app.settings()
    del settings["schema"], settings["name"]
    paths = dict(leaves(settings))
    assert "trainer.rows.lr" in paths and "lateness_ms" in paths
    for path, value in paths.items():
        assert app.with_settings([f"{path}={value}"]).config_hash() == app.config_hash(), path


def test_a_setting_that_another_one_follows_from_may_change():
    app = load_application("elec2")
    assert app.with_settings(["lateness_ms=100000000"]).id_memory_ms > 200_000_000
    assert replace(app, tick_ms=5).config_hash() != app.config_hash()


def test_census_is_two_pairs_of_tasks_without_what_answers_them(data_dir):
    hashes = set()
    for app, answers in ((census.app, {"income"}), (census.education, {"education"})):
        fields = {field.name for field in app.schema.fields}
        assert not fields & {*answers, "marital_status", *census.ANSWERS.values()}
        log = data_dir / LOGS["census"]
        report = Replay(app, log, limit=6_000).run()
        assert report is not None and report["examples"] == 6_000
        assert all(task["served"]["auc"] > 0.75 for task in report["tasks"].values())
        hashes.add(report["state_hash"])
    assert len(hashes) == 2


def test_synthetic_tasks_have_the_correlation_that_is_set():
    for correlation, app in ((0.5, synthetic.half), (0.9, synthetic.most), (1.0, synthetic.same)):
        blocks = islice(synthetic.labels(correlation), 40)
        x, y = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        first, second = (x.T @ y).T  # each is w, but for its length (Stein's lemma)
        cosine = first @ second / np.sqrt((first @ first) * (second @ second))
        assert cosine == pytest.approx(correlation, abs=0.02)
        if correlation == 1:
            noise = np.sqrt(2) * synthetic.NOISE
            assert (y[:, 0] - y[:, 1]).std() == pytest.approx(noise, rel=0.05)
        report = Replay(app, limit=200).run()
        assert report is not None and report["examples"] == 200
