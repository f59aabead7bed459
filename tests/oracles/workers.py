"""Workers as processes that start at once: forked from a process that has imported what they need.

They are real processes running the real command, to be signalled and killed; only the seconds that
importing torch and Feast takes are spent once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        *("confluent_kafka", "faust", "feast", "torch", "torch._dynamo"),
        *("streaming.ingest.run", "streaming.live", "streaming.cli_learn"),
    ]
)
END_S = 10


class Command:
    """`freshet` with these words and environment, in the folder `at`; what it says is in the file
    `said`."""

    def __init__(
        self, words: list[str], environ: Mapping[str, str], said: Path, at: Path | None = None
    ) -> None:
        self.said = said
        said.touch()
        given = (words, dict(environ), said, at)
        self._process: Any = _context.Process(target=_main, args=given)
        self._process.start()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        """`kill -9`, where it still runs."""
        self._process.kill()
        self._process.join()

    def ends_within(self, seconds: float) -> bool:
        """Whether it ends by itself in that time."""
        self._process.join(seconds)
        return not self.running

    def wait(self, seconds: float = 120) -> int:
        """The exit code, once it has ended by itself."""
        self._process.join(seconds)
        assert not self.running, self.said.read_text()
        return int(self._process.exitcode)

    def stop(self) -> str:
        """SIGTERM; it ends in time, and well. Returns what it said."""
        os.kill(self.pid, signal.SIGTERM)
        self._process.join(END_S)
        assert self._process.exitcode == 0, (self._process.exitcode, self.said.read_text())
        return self.said.read_text()

    def until(self, true: Any) -> None:
        """Waits for a state, which has to come while it runs."""
        while not true():
            assert self.running, self.said.read_text()
            self._process.join(0.05)


def _main(words: list[str], environ: dict[str, str], said: Path, at: Path | None) -> None:
    os.environ.update(environ)
    os.chdir(at or ".")
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    import sys

    from streaming.__main__ import main

    sys.argv = ["freshet", *words]
    main()
