from __future__ import annotations

from streaming.bench import publish, swap


def test_a_delta_takes_fewer_bytes_than_the_full_version_and_a_row_says_how_many(redis_url):
    rows = publish.run(redis_url, 1, 20_000)
    assert {row["name"] for row in rows} == {"publish.delta_time", "publish.delta_bytes"}
    assert {row["baseline"]["name"] for row in rows} == {"full", "safetensors", "torch.save"}
    size = next(row for row in rows if row["unit"] == "B" and row["baseline"]["name"] == "full")
    assert 0 < size["value"] < size["baseline"]["value"] and size["ratio"] > 1


def test_rankings_are_measured_while_versions_come_in(redis_url):
    rows = swap.run(redis_url, 1.0, 20_000)
    assert [row["name"] for row in rows][:2] == ["swap.rank_p50", "swap.rank_p99"]
    assert all(row["runs"] > 0 and row["value"] >= 0 for row in rows)
