"""The baseline of `pipeline.weights`, as a process: a Faust agent on a topic of labelled examples,
one River logistic regression a task, one example at a time.

Words: broker, topic, number of examples. Says its examples a second.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
import uuid
from typing import Any

import faust
import msgspec
from river.linear_model import LogisticRegression


async def examples_per_second(broker: str, name: str, count: int, folder: str) -> float:
    """From the first example's arrival to the last one's update; Faust's files are in `folder`."""
    app = faust.App(
        f"plain-{uuid.uuid4().hex[:12]}", broker=f"aiokafka://{broker}", store="memory://",
        web_enabled=False, consumer_auto_offset_reset="earliest", topic_allow_declare=False,
        topic_disable_leader=True, datadir=folder,
    )  # fmt: skip
    topic = app.topic(name, key_serializer="raw", value_serializer="raw")
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    decode = msgspec.json.decode

    models: dict[str, LogisticRegression] = {}

    async def learn(stream: Any) -> None:
        learned, started = 0, 0.0
        async for value in stream:
            started = started or time.perf_counter()
            example = decode(value)
            for task, label in example["y"].items():
                model = models.setdefault(task, LogisticRegression())
                model.predict_proba_one(example["x"])
                model.learn_one(example["x"], label)
            learned += 1
            if learned == count:
                done.set_result(count / (time.perf_counter() - started))

    app.agent(topic, name="plain")(learn)
    await app.start()
    try:
        return await done
    finally:
        await app.stop()


def main() -> None:
    broker, topic, count = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="freshet-bench-") as folder:
        print(asyncio.run(examples_per_second(broker, topic, int(count), folder)))


if __name__ == "__main__":
    main()
