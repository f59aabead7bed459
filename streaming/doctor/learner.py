"""The learner's checkpoints and its place in the log, as the doctor sees them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from streaming.application import Application
from streaming.checkpoint import Checkpoint, Checkpoints
from streaming.doctor.finding import ERROR, FINE, WARNING, Finding
from streaming.doctor.kafka import LiveTopics
from streaming.doctor.redis import Store
from streaming.eventlog import Position
from streaming.live_log import LiveLog

ROOM = 3
"""Free space that a checkpoint folder should have: so many times its newest."""


def learner(app: Application, folder: Path, topics: LiveTopics, store: Store) -> Iterator[Finding]:
    """What is wrong with what `freshet learn` would go on from."""
    newest = Checkpoints(folder).newest()
    if newest is None:
        there = any(folder.glob("epoch-*")) if folder.is_dir() else False
        if there:
            do = "the log says why each is refused; move the folder away to learn from the start"
            yield Finding("checkpoint", ERROR, f"none in {folder} can be read", do)
        else:
            do = f"`freshet learn {app.name}` makes one, there or in --checkpoints"
            yield Finding("checkpoint", WARNING, f"none in {folder}", do)
        return
    yield from _fits(app, newest, topics)
    yield from _room(newest)
    position = {(t, p): offset for t, p, offset in newest.tree["position"]}
    if topics.usable:
        yield from _place(position, topics, store)


def _fits(app: Application, newest: Checkpoint, topics: LiveTopics) -> Iterator[Finding]:
    tree, name = newest.tree, newest.path.name
    if tree["application"] != app.name or tree["schema"] != app.schema.to_json():
        do = "give --checkpoints another folder, or the application that it was made with"
        yield Finding("checkpoint", ERROR, f"{name} is of another application or schema", do)
    elif tree["config_hash"] != app.config_hash():
        do = "`freshet learn` refuses it, unless it gets the same --set as it was made with"
        yield Finding("checkpoint", WARNING, f"{name} was made with other settings", do)
    else:
        yield Finding("checkpoint", FINE, f"{name} is whole")
    if topics.usable and "live" in tree:
        with closing(LiveLog(topics.kafka, app.name)) as log:
            if tree["log_digest"] != log.identity():
                do = "the topics were made again: give --checkpoints another folder"
                yield Finding("checkpoint", ERROR, f"{name} was made on topics that are gone", do)
            known = {(topic, p) for topic, p in tree["merge"]["partitions"]}
            if any((topic, p) not in known for topic, n in log.base.items() for p in range(n)):
                do = f"`freshet topics grow {app.name} N --had M` takes them up"
                yield Finding("lag", ERROR, "partitions were added that the learner ignores", do)


def _room(newest: Checkpoint) -> Iterator[Finding]:
    size = sum(file.stat().st_size for file in newest.path.iterdir())
    free = shutil.disk_usage(newest.path).free
    if free < ROOM * size:
        says = f"{free >> 20} MiB are free for checkpoints of {size >> 20} MiB"
        yield Finding("disk", WARNING, says, f"make room at {newest.path.parent}")


def _place(position: Position, topics: LiveTopics, store: Store) -> Iterator[Finding]:
    gone = [tp for tp, at in position.items() if at < topics.first.get(tp, 0)]
    for topic, p in gone:
        says = (
            f"{topic}[{p}] begins at {topics.first[topic, p]}, the learner is at "
            f"{position[topic, p]}: the broker deleted events that were not learned"
        )
        do = "raise retention.ms; `freshet learn --on-gap skip` goes on without them"
        yield Finding("lag", ERROR, says, do)
    behind = sum(max(0, end - position.get(tp, 0)) for tp, end in topics.end.items())
    if not store.holder:
        says = f"nobody learns; the last checkpoint is {behind:,} events behind"
        yield Finding("lag", WARNING, says, "start `freshet learn`")
    elif not gone:
        says = f"the last checkpoint is {behind:,} events behind; the learner is {store.holder}"
        yield Finding("lag", FINE, says)
