"""The same log gives the same weights: whatever the medium, the partitions, the copies."""

from __future__ import annotations

import pytest
from replays import replayed


@pytest.fixture(scope="module")
def kuairand_hash(data_dir) -> str:
    return replayed("kuairand", data_dir)["state_hash"]


@pytest.fixture(scope="module")
def movielens_hash(data_dir) -> str:
    return replayed("movielens", data_dir)["state_hash"]


@pytest.mark.parametrize("copies", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("via", ["memory", "parquet", "kafka"])
def test_kuairand_has_one_hash(data_dir, kuairand_hash, via, partitions, copies, request):
    broker = {"broker": request.getfixturevalue("kafka")} if via == "kafka" else {}
    report = replayed("kuairand", data_dir, via=via, partitions=partitions, copies=copies, **broker)
    assert report["state_hash"] == kuairand_hash
    assert report["examples"] == 41_828 - 116  # the log's exact duplicates
    assert report["events"]["late"] == report["events"]["bad"] == 0


@pytest.mark.parametrize(("via", "partitions"), [("parquet", 1), ("memory", 4), ("kafka", 3)])
def test_movielens_with_its_ties_has_one_hash(data_dir, movielens_hash, via, partitions, request):
    broker = {"broker": request.getfixturevalue("kafka")} if via == "kafka" else {}
    report = replayed("movielens", data_dir, via=via, partitions=partitions, **broker)
    assert report["state_hash"] == movielens_hash


def test_another_seed_has_another_hash(data_dir):
    few = {"limit": 3_000}
    first, second, again = (replayed("kuairand", data_dir, seed=s, **few) for s in (0, 1, 0))
    assert first["state_hash"] != second["state_hash"]
    assert first["state_hash"] == again["state_hash"]


def test_memory_does_not_grow_over_ten_replays(data_dir):
    psutil = pytest.importorskip("psutil")
    process, sizes = psutil.Process(), []
    for _ in range(10):
        replayed("kuairand", data_dir, limit=5_000)
        sizes.append(process.memory_info().rss)
    assert sizes[-1] - sizes[3] < 20e6, [round(s / 1e6) for s in sizes]
