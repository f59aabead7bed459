"""Where events go that could not be used: counted, with their reason and position, none lost."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from features.codec import Bad
from streaming.history import BadRow

log = logging.getLogger("freshet.dead_letters")
SAID = 5


class DeadLetters:
    """Keeps the last ones at hand, and writes all of them, a JSON object a line, to `path`.

    `size` is what of that file stands from before, in bytes; what follows it is written anew.
    """

    def __init__(self, path: Path | None = None, size: int = 0) -> None:
        self.count = 0
        self.last: deque[dict[str, Any]] = deque(maxlen=100)
        self._file = None
        if path is not None:
            path.touch()
            self._file = path.open("r+b")
            self._file.truncate(size)
            self._file.seek(0, 2)

    @property
    def size(self) -> int:
        """Bytes written to the file so far."""
        return 0 if self._file is None else self._file.tell()

    def add(self, bad: Iterable[Bad]) -> None:
        """Records that could not be read."""
        for b in bad:
            self._put(
                {
                    "topic": b.topic,
                    "partition": b.partition,
                    "offset": b.offset,
                    "reason": b.reason,
                    "value": b.value.decode("utf-8", "backslashreplace"),
                }
            )

    def add_rows(self, bad: Iterable[BadRow]) -> None:
        """Rows of a historical log that no event could be made of."""
        for b in bad:
            self._put({"row": b.row, "reason": b.reason, "value": b.value})

    def quarantine(self, step: int, positions: list[tuple[str, int, int]]) -> None:
        """The impressions (topic, partition, offset) of a batch whose step was not finite."""
        self._put(
            {
                "batch_after_step": step,
                "reason": "loss or gradient is not finite",
                "impressions": [list(position) for position in positions],
            }
        )

    def _put(self, letter: dict[str, Any]) -> None:
        self.count += 1
        self.last.append(letter)
        if self._file is not None:
            self._file.write(msgspec.json.encode(letter) + b"\n")
            self._file.flush()
        if self.count <= SAID:
            named = ("topic", "partition", "offset", "row")
            at: dict[str, Any] = {k: letter[k] for k in named if k in letter}
            where = " ".join(f"{k}={v}" for k, v in at.items())
            log.warning("dead letter: %s %s", where, letter["reason"], extra=at)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
