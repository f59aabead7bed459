"""Several learners of one application's topics: the one that servers follow, and its shadows.

`freshet learn --shadow NAME` learns from the same topics, with other settings or other code, under
a run of its own: its lease, its versions and its checkpoints are no one else's. Which run servers
follow is said by the last `learner.promote` with {"run": RUN} in the log: each learner obeys those
that name it, at their place in the order, once it has a version. None of it is anything that a
model depends on, so a replay passes it over.

Of the commands that take a model back (streaming/rollback.py) each learner obeys its own.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from features.events import Control, key

COMMAND = "learner.promote"
LIVE = "live"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,49}")


def run_of(shadow: str) -> str:
    """The run of a shadow by that name, or of the first learner: "" or "live". ValueError where it
    is no name."""
    if shadow in ("", LIVE):
        return LIVE
    if not _NAME.fullmatch(shadow):
        raise ValueError(
            f"shadow is {shadow!r}: expected 1 to 50 letters, digits, '_', '.', '-', "
            "the first a letter or digit"
        )
    return f"shadow-{shadow}"


class Promotion(NamedTuple):
    """`order` is a text that is higher for what stands later in the log."""

    order: str
    run: str


def promotion(control: Control) -> Promotion | None:
    """What a command promotes; None where it is another one, or makes no sense."""
    run = control.arguments.get("run")
    if control.command != COMMAND or not isinstance(run, str):
        return None
    return Promotion(f"{control.time_ms:015d}:{key(control.id):020d}", run)
