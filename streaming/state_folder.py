"""Where workers keep what has to outlive them, unless their configuration says where."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder(app: str, what: str) -> Path:
    """The folder of an application's `what`: checkpoints, features (XDG base directories)."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "freshet" / app / what
