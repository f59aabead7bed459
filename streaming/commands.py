"""An operator's commands, written into the log: nothing depends on one that is not there."""

from __future__ import annotations

from typing import Any

from features.codec import Codec
from features.events import CONTROL, Control, key
from streaming.kafkalog import ANSWER_S, KafkaLog


def send(
    log: KafkaLog, codec: Codec, command: str, arguments: dict[str, Any], name: int | str
) -> Control:
    """Appends a command to the live topics `log`, as of now in the log's own time, and sees it
    there. Of several with one `name`, the first counts; those of one time are obeyed in the order
    of their keys, so a number that rises keeps them as they were sent. Raises ConnectionError where
    the broker does not take it."""
    control = Control(key(name), max(1, newest_ms(log)), command, arguments)
    log.append(CONTROL, b"", codec.encode(control), control.time_ms, 0)
    log.flush(ANSWER_S)
    return control


def newest_ms(log: KafkaLog) -> int:
    """The time of the newest record: the log's own time, which need not be the wall's."""
    first, end = log.first_position(), log.end_position()
    last = {tp: at - 1 for tp, at in end.items() if at > first[tp]}
    reader = KafkaLog.reader(log, last)  # a `LiveLog` has one that it is asked about
    try:
        times = [reader.read(*tp, 1, ANSWER_S / 4).timestamps_ms for tp in last]
    finally:
        reader.close()
    return max((t for some in times for t in some), default=0)
