"""A production as it is watched, on stderr."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from streaming.produce import Sent
from streaming.progress import PLAIN_S, TERMINAL_S


class Sending:
    """One line that moves on a terminal, a line every few seconds elsewhere."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._on_terminal = console.is_terminal
        self._started = self._last = time.monotonic()

    def __enter__(self) -> Sending:
        if self._on_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def sent(self, sent: Sent) -> None:
        """Says where it stands, if it is time to."""
        now = time.monotonic()
        if now - self._last < (TERMINAL_S if self._on_terminal else PLAIN_S):
            return
        self._last = now
        rate = sent.events / (now - self._started)
        line = f"{sent.rows:>9,} rows  {sent.events:>9,} events  {rate:>7,.0f}/s"
        if self._on_terminal:
            self._live.update(Text(line), refresh=True)
        else:
            print(line, file=sys.stderr, flush=True)
