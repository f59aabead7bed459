"""A warm start: a new learner begins with what a saved one learnt, whose schema may be another."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from model.snapshot import decode
from model.transfer import Source, transfer
from streaming.checkpoint import Checkpoints
from streaming.learner import Learner

log = logging.getLogger("freshet.warm_start")


def warm_start(learner: Learner, path: Path) -> None:
    """Lets a learner that has seen nothing begin with the newest checkpoint of a folder, or with a
    version's file; what was taken, and what was not, is logged, and stays in its report.

    Only the model is taken over: its learner starts at the log's begin, at version 0. Raises
    ValueError where there is nothing to begin with at `path`.
    """
    told = transfer(_source(path), learner.trainer)
    learner.warm_start = {"path": str(path), **told}
    log.info("warm start from %s: %s", path, said(told))


def said(told: dict[str, Any]) -> str:
    """What was taken, in a line."""
    parts = [
        f"{what} {', '.join(names) or 'none'}{_but(told[what])}"
        for what, names in ((what, told[what]["taken"]) for what in ("tasks", "tables"))
    ]
    weights = [f"{part} {taken} of {of}" for part, (taken, of) in told["network"].items()]
    columns = f"{len(told['dense']['taken'])} dense columns{_but(told['dense'])}"
    return "; ".join([*parts, f"{told['ids']} ids", columns, f"weights: {', '.join(weights)}"])


def _but(told: dict[str, list[str]]) -> str:
    not_taken = [f"{what} {', '.join(told[what])}" for what in ("new", "left") if told[what]]
    return f" ({'; '.join(not_taken)})" if not_taken else ""


def _source(path: Path) -> Source:
    if path.is_dir():
        newest = Checkpoints(path).newest()
        if newest is None:
            raise ValueError(f"--warm-start {str(path)!r}: the folder holds no whole checkpoint")
        if "model" not in newest.tree:
            raise ValueError(f"--warm-start {str(path)!r}: made by a Freshet before warm starts")
        described = json.loads(newest.tree["model"])
        trainer = newest.tree["trainer"]
        return Source(described["meta"], trainer["model"], trainer["optimiser"], described["rows"])
    try:
        snapshot = decode(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"--warm-start {str(path)!r} can't be read: {reason}") from None
    state: dict[str, Any] = {}
    for name, array in snapshot.arrays.items():
        part, _, rest = name.partition("/")
        state.setdefault(part, {})[rest] = array
    return Source(snapshot.meta, state)
