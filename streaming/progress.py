"""A run as it is watched: one line that moves on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from model.schema import Schema
from streaming.learner import Learner, Step

TERMINAL_S, PLAIN_S = 0.2, 5.0
RARE = ("delayed", "expired")


class Progress:
    """Shown on stderr: events, examples a second, and each task's running figure."""

    def __init__(self, schema: Schema, quiet: bool = False) -> None:
        self._schema, self._quiet = schema, quiet
        console = Console(stderr=True)
        self._live = (
            Live(console=console, transient=True, auto_refresh=False)
            if console.is_terminal
            else None
        )
        self._started = self._last = time.monotonic()

    def __enter__(self) -> Progress:
        if self._live is not None and not self._quiet:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def step(self, learner: Learner, step: Step) -> None:
        """Says where it stands, if it is time to."""
        now = time.monotonic()
        if self._quiet or now - self._last < (PLAIN_S if self._live is None else TERMINAL_S):
            return
        self._last = now
        line = self._line(learner, now - self._started)
        if self._live is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._live.update(Text(line), refresh=True)

    def _line(self, learner: Learner, seconds: float) -> str:
        figures = learner.scores.headline()
        kinds = {t.name: "mse" if t.kind == "regression" else "auc" for t in self._schema.tasks}
        said = "  ".join(f"{n} {kinds[n]} {v:.3f}" for n, v in figures.items() if v is not None)
        return (
            f"{learner.merge.released['in']:>9,} events  {learner.examples:>9,} examples  "
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
    width = max(map(len, report["tasks"]), default=0)
    for name, task in report["tasks"].items():
        figures = task["served"]
        shown = (
            ("mae", "mse")
            if task["kind"] == "regression"
            else ("auc", "log_loss", "normalised_entropy", "calibration")
        )
        said = "  ".join(f"{k} {figures[k]:.4f}" for k in shown if figures[k] is not None)
        lines.append(f"  {name:<{width}}  {task['count']:>9,} labels  {said}")
    lines += [
        f"drift events: {len(report['drift'])}; versions published: {len(report['snapshots'])}",
        f"state_hash {report['state_hash']}",
    ]
    return "\n".join(lines)
