"""One bench for all tests of this folder: topics, and what an undisturbed run learned of them."""

from __future__ import annotations

import pytest
from bench import faults
from replays import LOGS

from streaming.bundled import bundled_redis

ROWS = 3_000


@pytest.fixture(scope="session")
def bench(kafka, data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with bundled_redis(folder / "redis") as server:
        with faults(kafka, server.url, folder, data_dir / LOGS["kuairand"], ROWS) as made:
            yield made
