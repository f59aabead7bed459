"""The benchmarks of tables and maps: each row is there, and says what it should."""

from __future__ import annotations

from streaming.bench import embed, embed_day, idmap


def test_updates_steps_and_lookups_are_timed_against_their_baselines(monkeypatch):
    monkeypatch.setattr(embed, "ROWS", 20_000)
    monkeypatch.setattr(embed, "BATCHES", 3)
    monkeypatch.setattr(embed, "TABLES", (1_000, 20_000))
    monkeypatch.setattr(embed, "NEW", 50_000)
    monkeypatch.setattr(idmap, "KEYS", 50_000)
    rows = {row["name"]: row for row in [*embed.run(1), *idmap.run(1)]}
    expected = {"embed.update", "embed.step_1e3", "embed.step_2e4", "embed.burst_slowest"}
    assert set(rows) - {"embed.update_fbgemm"} == {*expected, "idmap.lookup", "idmap.lookup_dict"}
    for row in rows.values():
        assert row["value"] > 0 and row["baseline"]["value"] > 0 and row["ratio"] > 0
    assert rows["embed.step_1e3"]["ratio"] == 1


def test_some_minutes_of_events_stay_within_the_bound():
    row = embed_day.run(hours=0.2)
    assert row["ratio"] > 1 and row["rows"] > 100
