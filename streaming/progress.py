"""A run as it is watched: one line that moves on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from model.schema import Schema
from streaming.learner import Learner, Step
from streaming.warm_start import said

TERMINAL_S, PLAIN_S = 0.2, 5.0
RARE = ("delayed", "expired")


class Line:
    """One line on stderr that says how far a long work is, now and then, unless it is `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        console = Console(stderr=True)
        self._live = (
            Live(console=console, transient=True, auto_refresh=False)
            if console.is_terminal
            else None
        )
        self._started = self._last = time.monotonic()

    def __enter__(self) -> Self:
        if self._live is not None and not self._quiet:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: Callable[[float], str]) -> None:
        """Shows what `line` makes of the seconds so far, if it is time to."""
        now = time.monotonic()
        if self._quiet or now - self._last < (PLAIN_S if self._live is None else TERMINAL_S):
            return
        self._last = now
        said = line(now - self._started)
        if self._live is None:
            print(said, file=sys.stderr, flush=True)
        else:
            self._live.update(Text(said), refresh=True)


class Progress(Line):
    """Of a run: which `run` it is, where it is one of several, events, examples a second, and each
    task's running figure."""

    def __init__(self, schema: Schema, quiet: bool = False, run: str = "") -> None:
        super().__init__(quiet)
        self._schema = schema
        self._run = f"{run}: " if run else ""

    def step(self, learner: Learner, step: Step) -> None:
        """Says where it stands, if it is time to."""
        self.say(lambda seconds: self._line(learner, seconds))

    def _line(self, learner: Learner, seconds: float) -> str:
        figures = learner.scores.headline()
        kinds = {t.name: "mse" if t.kind == "regression" else "auc" for t in self._schema.tasks}
        said = "  ".join(f"{n} {kinds[n]} {v:.3f}" for n, v in figures.items() if v is not None)
        return (
            f"{self._run}{learner.merge.released['in']:>9,} events  "
            f"{learner.examples:>9,} examples  "
            f"{learner.examples / seconds:>7,.0f}/s  {said}"
        )


def summary(report: dict[str, Any]) -> str:
    """A report in a few lines, for people."""
    events = report["events"]
    lines = [
        f"{report['application']}: {report['examples']:,} examples in {report['seconds']:.1f} s "
        f"({report['examples_per_second']:,.0f}/s)",
        "events: " + ", ".join(f"{n:,} {k}" for k, n in events.items() if n or k not in RARE),
    ]
    if report["warm_start"]:
        lines.append(
            f"warm start from {report['warm_start']['path']}: {said(report['warm_start'])}"
        )
    width = max(map(len, report["tasks"]), default=0)
    for name, task in report["tasks"].items():
        figures = task["served"]
        shown = (
            ("mae", "mse")
            if task["kind"] == "regression"
            else ("auc", "log_loss", "normalised_entropy", "calibration")
        )
        told = "  ".join(f"{k} {figures[k]:.4f}" for k in shown if figures[k] is not None)
        lines.append(f"  {name:<{width}}  {task['count']:>9,} labels  {told}")
    lines += [
        f"drift events: {len(report['drift'])}; versions published: {len(report['snapshots'])}",
        f"state_hash {report['state_hash']}",
    ]
    return "\n".join(lines)
