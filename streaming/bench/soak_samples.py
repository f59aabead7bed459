"""What a soak looks at every few seconds: processes, lag, Redis, and what lies on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import redis
from confluent_kafka import Consumer, TopicPartition

from features.events import FEEDBACK, IMPRESSIONS
from streaming.kafkalog import ANSWER_S, CLIENT_CONFIG, KafkaLog
from streaming.topics import DEAD, ITEMS, prefix

MIB = 1 << 20
Sample = dict[str, float]
"""Figure -> value; a figure is `<what>.<measure>`, like `learn.rss_mib`. `t_s` is when."""


class Processes:
    """Resident memory in MiB, threads, open files, and CPU in % of one core."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._processes: dict[str, psutil.Process] = {}
        for name, pid in pids.items():
            self.follow(name, pid)

    def follow(self, name: str, pid: int) -> None:
        """From now on the process `pid` is the one called `name`."""
        self._processes[name] = psutil.Process(pid)

    def sample(self) -> Sample:
        """Those that run."""
        out: Sample = {}
        for name, process in self._processes.items():
            with suppress(psutil.Error), process.oneshot():
                out |= {
                    f"{name}.rss_mib": round(process.memory_info().rss / MIB, 1),
                    f"{name}.threads": process.num_threads(),
                    f"{name}.open_files": process.num_fds(),
                    f"{name}.cpu_percent": round(process.cpu_percent(), 1),
                }
        return out


class Lags:
    """Records that a worker has not acknowledged yet, of an application's live topics.

    The learner acknowledges with a checkpoint, ingest with its parts on the disk: between those,
    the lag rises.
    """

    def __init__(self, bootstrap: str, app: str, log: KafkaLog) -> None:
        # Not by an admin client: its list_consumer_group_offsets brings the process down while a
        # new broker makes its topic of offsets (librdkafka 2.16).
        self._consumers = {
            worker: Consumer(
                {
                    **{"bootstrap.servers": bootstrap, **CLIENT_CONFIG},
                    "group.id": f"freshet-{app}-{worker}",
                    "enable.auto.commit": False,
                }
            )
            for worker in ("learn", "ingest")
        }
        self._app, self._log = app, log

    def close(self) -> None:
        for consumer in self._consumers.values():
            consumer.close()

    def sample(self) -> Sample:
        end = self._log.end_position()
        events = {tp: offset for tp, offset in end.items() if tp[0] in (IMPRESSIONS, FEEDBACK)}
        items = {tp: offset for tp, offset in end.items() if tp[0] == ITEMS}
        ingest = self._acknowledged("ingest")
        return {
            "learn.lag": _behind(events, self._acknowledged("learn")),
            "ingest.lag": _behind(events, ingest),
            "ingest.items_lag": _behind(items, ingest),
            "kafka.records": sum(end.values()),
            "kafka.dead_letters": sum(o for (topic, _), o in end.items() if topic == DEAD),
        }

    def _acknowledged(self, worker: str) -> dict[tuple[str, int], int]:
        names, log = prefix(self._app), self._log
        asked = [
            TopicPartition(names + topic, p) for topic, n in log.topics.items() for p in range(n)
        ]
        found = self._consumers[worker].committed(asked, ANSWER_S)
        return {(at.topic.removeprefix(names), at.partition): max(0, at.offset) for at in found}


def _behind(end: dict[tuple[str, int], int], at: dict[tuple[str, int], int]) -> int:
    return sum(offset - at.get(tp, 0) for tp, offset in end.items())


class Stores:
    """Redis's memory and keys, and the files of each folder."""

    def __init__(self, redis_url: str, folders: Mapping[str, Path]) -> None:
        self._redis, self._folders = redis.Redis.from_url(redis_url), dict(folders)

    def sample(self) -> Sample:
        memory: Any = self._redis.info("memory")
        keys: Any = self._redis.dbsize()
        out = {"redis.used_mib": round(memory["used_memory"] / MIB, 1), "redis.keys": keys}
        for name, folder in self._folders.items():
            sizes = [size for size in map(_size, folder.rglob("*")) if size is not None]
            out[f"{name}.files"] = len(sizes)
            out[f"{name}.disk_mib"] = round(sum(sizes) / MIB, 2)
        return out


def _size(path: Path) -> int | None:
    with suppress(FileNotFoundError):  # removed while we look
        return path.stat().st_size if path.is_file() else None
    return None
