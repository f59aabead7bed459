"""The same log gives the same weights: whatever the medium, the partitions, the copies."""

from __future__ import annotations

import pytest
from replays import predictions, replayed

from streaming.sections import Kafka


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
    broker = {"kafka": Kafka(request.getfixturevalue("kafka"))} if via == "kafka" else {}
    report = replayed("kuairand", data_dir, via=via, partitions=partitions, copies=copies, **broker)
    assert report["state_hash"] == kuairand_hash
    assert report["examples"] == 41_828 - 116  # the log's exact duplicates
    assert report["events"]["late"] == report["events"]["bad"] == 0


@pytest.mark.parametrize(("via", "partitions"), [("parquet", 1), ("memory", 4), ("kafka", 3)])
def test_movielens_with_its_ties_has_one_hash(data_dir, movielens_hash, via, partitions, request):
    broker = {"kafka": Kafka(request.getfixturevalue("kafka"))} if via == "kafka" else {}
    report = replayed("movielens", data_dir, via=via, partitions=partitions, **broker)
    assert report["state_hash"] == movielens_hash


def test_another_seed_has_another_hash_and_other_predictions(data_dir, tmp_path):
    def served(seed: int, n: int):
        path = tmp_path / f"{n}.parquet"
        report = replayed("kuairand", data_dir, limit=3_000, seed=seed, predictions=path)
        return report["state_hash"], predictions(path).prediction

    (first, a), (second, b), (again, c) = (served(seed, n) for n, seed in enumerate((0, 1, 0)))
    assert first == again and (a == c).all()
    assert first != second and (a != b).mean() > 0.9


def test_ids_that_come_and_go_have_one_hash(data_dir):
    limits = {"admit_after": 2, "capacity": 400, "max_age_ms": 3_600_000}
    settings = tuple(f"trainer.embedding.{name}={value}" for name, value in limits.items())
    one, four = (
        replayed("kuairand", data_dir, settings, limit=1_000, partitions=n)["state_hash"]
        for n in (1, 4)
    )
    assert one == four


@pytest.mark.parametrize("records", [1, 17, 100_000])
def test_how_much_is_read_at_once_does_not_matter(data_dir, records, monkeypatch):
    few = {"limit": 2_000, "partitions": 3}
    expected = replayed("kuairand", data_dir, **few)["state_hash"]
    monkeypatch.setattr("streaming.learn.READ_RECORDS", records)
    assert replayed("kuairand", data_dir, **few)["state_hash"] == expected


def test_memory_does_not_grow_over_ten_replays(data_dir):
    psutil = pytest.importorskip("psutil")
    process, sizes = psutil.Process(), []
    for _ in range(10):
        replayed("kuairand", data_dir, limit=5_000)
        sizes.append(process.memory_info().rss)
    assert min(sizes[-3:]) - min(sizes[2:5]) < 20e6, [round(s / 1e6) for s in sizes]
