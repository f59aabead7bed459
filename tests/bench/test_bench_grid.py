"""Settings against each other: every combination is a replay of its own."""

from __future__ import annotations

import json

from click.testing import CliRunner
from replays import LOGS, replayed

from streaming.__main__ import cli


def grid(*words: str):
    return CliRunner().invoke(cli, ["bench", "grid", *words])


def test_each_row_is_the_mean_of_the_replays_of_its_settings(data_dir):
    log = str(data_dir / LOGS["elec2"])
    vary = ("--vary", "trainer.network.sharing=mmoe,shared_bottom", "--vary", "tick_ms=0,3600000")
    done = grid("elec2", "--log", log, *vary, "--seeds", "2", "--limit", "600", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert len(rows) == 4 and len({tuple(row["settings"]) for row in rows}) == 4
    for row in rows:
        served = [
            replayed("elec2", data_dir, tuple(row["settings"]), seed=seed, limit=600)["tasks"][
                "class"
            ]["served"]["auc"]
            for seed in (0, 1)
        ]
        assert row["tasks"]["class"]["mean"] == sum(served) / 2
    text = grid("elec2", "--log", log, "--seeds", "1", "--limit", "600").stdout
    assert text.startswith("| settings | class, auc | s |") and "| as shipped |" in text


def test_a_setting_that_is_none_is_named_before_anything_runs():
    wrong = grid("elec2", "--log", "x.parquet", "--vary", "trainer.network.sharing=mmoe,mmo")
    assert "mmo" in str(wrong.exception) and isinstance(wrong.exception, ValueError)
