"""The model taken back, by a command in the log, to what it was after an earlier step.

`model.rollback` with {"step": N}, and {"run": RUN} of another learner than the first (see
streaming/shadow.py): the weights, their optimiser's state, the embedding rows and the
weighter are those of then; positions, windows, the join, what watches and the count of steps go on
(it counts as one), and the next publication is a full one. A replay does the same at the same
place: it knows the commands beforehand, and keeps the steps that they want as it goes by them.

A live learner asks for it itself after `AFTER` batches in a row that were not finite, to the newest
checkpoint of before them; and after as many again, if that did not help, to one before that.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from features.events import Control, may_say
from streaming.shadow import LIVE

COMMAND = "model.rollback"
AFTER = 100
_CONTROL = msgspec.json.Decoder(Control)


def step_of(control: Control, run: str = LIVE) -> int | None:
    """The step that a command wants of the learner of that run; None where it is another one, or
    makes no sense."""
    mine = control.command == COMMAND and control.arguments.get("run", LIVE) == run
    step = control.arguments.get("step") if mine else None
    return step if type(step) is int and step > 0 else None


def steps_wanted(controls: Iterable[Control], run: str = LIVE) -> set[int]:
    """The steps that commands want the learner of that run to go back to."""
    return {step for control in controls if (step := step_of(control, run)) is not None}


def commands(values: Iterable[bytes | None]) -> list[Control]:
    """Those of the control topic's records that are such commands."""
    found = []
    for value in values:
        if value is not None and may_say(value, COMMAND):
            try:
                found.append(_CONTROL.decode(value))
            except (msgspec.MsgspecError, RecursionError):
                continue
    return found
