"""Feast's own API, online and offline, says what our fast read says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import redis

from features.as_of import pack_as_of
from features.feast_redis import KeyLayout, bytes_of, connection_string, field_name, project_name
from features.feast_store import FeastStore
from features.rows import row_layouts
from features.store import Rows, StoreUnavailable
from features.windows import Aggregates, Entity, Signal, Windows
from model.schema import Field, Schema, Task

SCHEMA = Schema(
    (Field("u", "id"), Field("i", "id")),
    (Task("click", "binary", 10), Task("stars", "regression", 10)),
    user="u",
    item="i",
)
AGGREGATES = Aggregates(
    signals=(Signal("click"), Signal("stars")),
    entities=(Entity("user", decays_ms=(1_000,)), Entity("pair")),
    history=4,
    history_signal="stars",
)
WINDOWS = Windows(SCHEMA, AGGREGATES)
LAYOUTS = row_layouts(WINDOWS)


@pytest.fixture
def store(redis_url: str, redis_client: redis.Redis, tmp_path: Path):
    made = FeastStore(redis_url, "shop-1", tmp_path, WINDOWS)
    yield made
    made.close()


def rows(kind: str, keys: list[int], n: int, time_ms: int, fill: int = 1) -> Rows:
    layout = LAYOUTS[kind]
    values = np.full((len(keys), layout.width), fill, np.int64)
    values[:, 0] = keys
    covered = [pack_as_of({("impressions", 0): n, ("feedback", 1): 2})] * len(keys)
    counts = np.arange(len(keys) * len(layout.counts)).reshape(len(keys), -1) + fill
    return Rows(np.array(keys, np.int64), layout.pack(values), covered, counts, time_ms)


def test_feast_reads_online_what_we_read(store):
    keys = [0, 7, 2**62, 2**63 - 1]
    for kind in LAYOUTS:
        store.write(kind, rows(kind, keys, 5, 1_000))
    wanted = {kind: np.array([*keys, 8, 7], np.int64) for kind in LAYOUTS}
    ours, feasts = store.read(wanted), store.read_by_feast(wanted)
    for kind in LAYOUTS:
        assert ours[kind].mask.tolist() == [True] * 4 + [False, True]
        assert ours[kind].values == feasts[kind].values
        assert ours[kind].as_of == feasts[kind].as_of


def test_a_writer_that_froze_between_its_look_and_its_write_undoes_nothing(
    store, redis_url, tmp_path, monkeypatch
):
    other = FeastStore(redis_url, "shop-1", tmp_path / "other", WINDOWS)
    store.write("user", rows("user", [1, 2], 5, 1_000))
    write_online = store._write_online

    def frozen(*arguments):
        monkeypatch.undo()
        other.write("user", rows("user", [1], 9, 2_000, fill=3))
        write_online(*arguments)

    monkeypatch.setattr(store, "_write_online", frozen)
    with pytest.raises(StoreUnavailable, match="another writer"):
        store.write("user", rows("user", [1, 2], 7, 1_500, fill=2))
    found = store.read({"user": np.array([1, 2])})["user"]
    newest = [rows("user", [1], 9, 0, fill=3), rows("user", [2], 7, 0, fill=2)]
    assert found.values == [row.values[0] for row in newest]
    assert found.as_of == [row.as_of[0] for row in newest]
    other.close()


def test_people_read_counts_by_the_service(store):
    store.write("user", rows("user", [7], 5, 1_000))
    feast = store.apply()
    service = feast.get_feature_service("freshet_shop_h1")
    entity = [{"user_key": 7, "pair_key": 1, "all_key": 0}]
    told = feast.get_online_features(features=service, entity_rows=entity, full_feature_names=True)
    values = told.to_dict()
    names = ("impressions", "count_click", "count_stars")
    assert [values[f"user__{name}"][0] for name in names] == [1, 2, 3]
    assert values["pair__impressions"] == [None]


def test_offline_joins_find_the_row_of_the_moment(store):
    pandas = pytest.importorskip("pandas")
    users = [*range(7, 17)]
    first, second = rows("user", users, 5, 1_000, 1), rows("user", users, 6, 2_000, 2)
    most, stale = rows("user", users, 9, 2_000, 3), rows("user", users, 5, 2_000, 4)
    for n, user in enumerate(users):  # of one moment the row that covers most, in any order
        for part in (first, *(second, most, stale)[n % 3 :], *(second, most, stale)[: n % 3]):
            store._parts.add("user", part.take(np.array([users.index(user)])))
        store.flush()
    at = [999, 1_000, 1_999, 2_000, 9_000]
    asked = pandas.DataFrame(
        [(user, ms) for user in users for ms in at], columns=["user_key", "ms"]
    )
    asked["event_timestamp"] = pandas.to_datetime(asked.pop("ms"), unit="ms", utc=True)
    joined = store.apply().get_historical_features(
        entity_df=asked, features=["user:row", "user:as_of", "user:impressions"]
    )
    table = joined.to_df().sort_values(["user_key", "event_timestamp"])
    got = [value if isinstance(value, bytes) else None for value in table["row"]]
    expected = [
        value
        for n in range(len(users))
        for value in (None, *(p.values[n] for p in (first, first, most, most)))
    ]
    assert got == expected
    counts = table["impressions"].to_numpy().reshape(len(users), -1)[:, [1, 4]]
    assert (counts == np.stack((first.counts[:, 0], most.counts[:, 0]), axis=1)).all()


def test_rows_that_were_skipped_online_are_offline_all_the_same(store):
    """Written online, then killed before the flush: delivered again, the part must not miss it."""
    pytest.importorskip("pandas")
    import pyarrow.dataset as parts

    store.write("user", rows("user", [7], 5, 1_000))
    restarted = FeastStore(store_url(store), "shop-1", store.folder, WINDOWS)
    assert restarted.write("user", rows("user", [7], 5, 1_000)) == 0
    restarted.close()
    table = parts.dataset(store.folder / "offline" / "user", format="parquet").to_table()
    assert table["user_key"].to_pylist() == [7]


def store_url(store: FeastStore) -> str:
    options = store._redis.connection_pool.connection_kwargs
    return f"redis://{options['host']}:{options['port']}/{options['db']}"


def test_views_are_applied_once_and_again_when_the_layout_changes(store):
    registry = store.folder / "registry.db"
    store.apply()
    before = registry.read_bytes()
    FeastStore(store_url(store), "shop-1", store.folder, WINDOWS).apply()
    assert registry.read_bytes() == before
    more = Aggregates(signals=AGGREGATES.signals, entities=(Entity("user"), Entity("item")))
    changed = FeastStore(store_url(store), "shop-1", store.folder, Windows(SCHEMA, more))
    layouts = row_layouts(Windows(SCHEMA, more))
    views = {v.name: v.tags["layout"] for v in changed.apply().list_feature_views()}
    assert {k: views[k] for k in layouts} == {k: v.header.hex() for k, v in layouts.items()}


def test_names_in_redis_are_feasts_own():
    from feast.infra.online_stores.helpers import _mmh3, _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    keys = [0, 1, 2**40, 2**63 - 1]
    feasts = [
        _redis_key("shop", EntityKey(join_keys=["u_key"], entity_values=[Value(int64_val=k)]), 3)
        for k in keys
    ]
    assert KeyLayout("shop", "u_key").names(np.array(keys, np.int64)) == feasts
    assert field_name("user", "row") == _mmh3("user:row")
    for size in (0, 1, 127, 128, 40_000):
        assert bytes_of(Value(bytes_val=b"x" * size).SerializeToString()) == b"x" * size
    with pytest.raises(ValueError, match="no Feast value of bytes"):
        bytes_of(Value(int64_val=3).SerializeToString())
    with pytest.raises(ValueError, match="no Feast value of bytes"):
        bytes_of(Value(bytes_val=b"x" * 500).SerializeToString()[:-1])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:p%2Ca=s%3Ds@db.shop:7000/3", {"password": "p,a=s=s", "db": 3}),
        ("redis://reader:1234@db.shop:7000", {"username": "reader", "password": "1234"}),
        ("rediss://db.shop:7000?ssl_ca_certs=/a,b", {"ssl": True, "ssl_ca_certs": "/a,b"}),
        ("unix:///run/r.sock?db=2", {"unix_socket_path": "/run/r.sock", "db": 2}),
    ],
)
def test_a_url_is_told_to_feast_whole(url, expected):
    from feast.infra.online_stores.redis import RedisOnlineStore

    nodes, options = RedisOnlineStore._parse_connection_string(connection_string(url, 2.0))
    if not url.startswith("unix"):
        assert nodes == [{"host": "db.shop", "port": "7000"}]
    assert options == expected | {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}


def test_applications_never_share_a_project():
    names = ["a-b", "a_b", "a_hb", "a__b", "a-_b", "a_-b", "ab"]
    assert len({project_name(name) for name in names}) == len(names)


def test_a_store_that_is_away_says_so_and_shows_no_password(tmp_path):
    store = FeastStore("redis://:secret@127.0.0.1:1/0", "shop", tmp_path, WINDOWS, timeout_s=0.2)
    with pytest.raises(StoreUnavailable, match=r"feature store 127\.0\.0\.1:1") as caught:
        store.read({"user": np.array([1])})
    assert "secret" not in str(caught.value)


def test_reading_imports_no_feast():
    code = "import sys, features.feast_store, features.show; print('feast' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
