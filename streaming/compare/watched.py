"""Several runs as they are watched: which one it is at, and how far that one is."""

from __future__ import annotations

from streaming.learner import Learner, Step
from streaming.progress import Line, Progress


class Watched:
    """Shows the progress of one run after another on stderr."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._run = ""
        self._line: Line | None = None

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._begin("", None)

    def step(self, run: str, learner: Learner, step: Step) -> None:
        """Says where a run of a learner stands, if it is time to."""
        if run != self._run:
            self._begin(run, Progress(learner.app.schema, self._quiet, run))
        assert isinstance(self._line, Progress)
        self._line.step(learner, step)

    def done(self, run: str, count: int, of: int) -> None:
        """The same of other work, that has done so many examples of so many."""
        if run != self._run:
            self._begin(run, Line(self._quiet))
        assert self._line is not None
        self._line.say(lambda s: f"{run}: {count:>9,} of {of:,} examples  {count / s:>7,.0f}/s")

    def _begin(self, run: str, line: Line | None) -> None:
        if self._line is not None:
            self._line.__exit__()
        self._run, self._line = run, line
        if line is not None:
            line.__enter__()
