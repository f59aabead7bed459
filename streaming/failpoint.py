"""Named places at which the fault bench ends the process; nothing anywhere else.

`FRESHET_FAILPOINT=NAME` or `NAME:N` ends it by SIGKILL at the first, or the N-th, pass of NAME.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "FRESHET_FAILPOINT"
POINTS = (
    "lease.taken",
    "checkpoint.begun",
    "step.learned",
    "dead.delivered",
    "publish.encoded",
    "publish.chunk",
    "publish.uploaded",
    "publish.moved",
    "publish.noted",
    "checkpoint.copied",
    "checkpoint.made",
    "checkpoint.state",
    "checkpoint.tree",
    "checkpoint.manifest",
    "checkpoint.synced",
    "checkpoint.renamed",
    "checkpoint.removing",
    "checkpoint.kept",
    "checkpoint.committed",
    "lease.released",
)
"""In the order in which a learner comes by them."""

_passes: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Ends the process, where the environment says so."""
    if (aim := os.environ.get(VARIABLE)) is None:
        return
    assert name in POINTS, name
    _passes[name] += 1
    at, _, count = aim.partition(":")
    if at == name and _passes[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
