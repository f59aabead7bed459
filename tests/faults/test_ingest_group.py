"""Ingest workers that come, go, die, freeze and lose records in the middle of their batches: rows
are those of the pure code. Twenty kills of one: `tests/system/test_ingest.py`."""

from __future__ import annotations

import os
import signal

import pytest
from live_topics import topics

ROWS = 6_000
LOSSY = """
import threading
import aiokafka
from streaming.ingest.positions import Positions

take, seek, lost = Positions.take, aiokafka.AIOKafkaConsumer.seek, set()

def lossy(self, tp, offset):
    if offset == 5 and tp not in lost:
        lost.add(tp)
        return False
    return take(self, tp, offset)

def noted(self, tp, offset):
    with open({out!r}, "a") as out:
        print(threading.current_thread() is threading.main_thread(), file=out)
    seek(self, tp, offset)

Positions.take, aiokafka.AIOKafkaConsumer.seek = lossy, noted
"""


@pytest.mark.timeout(300)
def test_workers_join_and_leave_and_die_in_mid_batch_and_each_event_counts_once(
    kafka, data_dir, redis_client, redis_url, tmp_path
):
    with topics(kafka, tmp_path, data_dir, ROWS) as made:
        one, two, three = (
            made.worker("ingest", redis_url, tmp_path / f"{n}.log") for n in ("one", "two", "three")
        )
        with one, two, three:
            one.until(lambda: redis_client.dbsize() > 100)
            one.kill()
            two.until(lambda: redis_client.dbsize() > 1_000)
            two.stop()
            three.until(lambda: made.settled(redis_url))
            three.stop()
        assert made.acknowledged() == made.records


@pytest.mark.timeout(300)
def test_one_that_was_frozen_past_its_poll_interval_spoils_nothing_when_it_wakes(
    kafka, data_dir, redis_client, redis_url, tmp_path
):
    with topics(kafka, tmp_path, data_dir, ROWS) as made:
        one = made.worker("ingest", redis_url, tmp_path / "one.log")
        two = made.worker("ingest", redis_url, tmp_path / "two.log")
        with one, two:
            one.until(lambda: redis_client.dbsize() > 100)
            os.kill(one.pid, signal.SIGSTOP)
            try:
                two.until(lambda: made.settled(redis_url))  # the group has given up the first one
            finally:
                os.kill(one.pid, signal.SIGCONT)
            one.stop()
            two.stop()  # it may have been given again what it had written, and not acknowledge it
        assert made.settled(redis_url)


@pytest.mark.timeout(300)
def test_records_that_faust_lost_are_read_again_by_the_thread_that_reads(
    kafka, data_dir, redis_client, redis_url, tmp_path
):
    out = tmp_path / "seeks"
    with topics(kafka, tmp_path, data_dir, 500) as made:
        made.file.write_text(made.file.read_text() + LOSSY.format(out=str(out)))
        with made.worker("ingest", redis_url, tmp_path / "one.log") as one:
            one.until(lambda: made.settled(redis_url))
            one.stop()
        assert made.acknowledged() == made.records
    assert set(out.read_text().split()) == {"False"}
