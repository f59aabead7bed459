"""Which keys have changed or gone since the last delta: what the next one must tell."""

from __future__ import annotations

from typing import Any

import numpy as np

from model.places import Places, lengthened


class Changes:
    """Of the keys of `places`. Everything counts as changed until the first `clean`, and once more
    keys have gone than are there: so this takes a byte a row, and eight a key that has gone."""

    def __init__(self, places: Places):
        self.places = places
        self._flags: np.ndarray | None = None
        self._gone: list[np.ndarray] = []
        self._left = 0

    @property
    def whole(self) -> bool:
        """Whether everything counts as changed."""
        return self._flags is None

    def note(self, touched: np.ndarray, gone: np.ndarray) -> None:
        """Takes in the places of rows that were written to, and keys that were evicted."""
        if self._flags is None:
            return
        if self.places.room > len(self._flags):
            self._flags = lengthened(self._flags, self.places.room)
        self._flags[touched] = True
        if gone.size:
            self._gone.append(gone)
            self._left += gone.size
            if self._left > len(self.places):
                self._flags, self._gone = None, []

    def since(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Keys whose rows are new or changed, and keys no longer there, both ascending; None where
        only all of them will do."""
        found = self.at()
        return None if found is None else (np.sort(self.places.keys[found[0]]), found[1])

    def at(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The same, but the places of those rows."""
        if self._flags is None:
            return None
        at = np.flatnonzero(self._flags[: self.places.used])
        gone = np.unique(np.concatenate([np.empty(0, np.int64), *self._gone]))
        return at[self.places.is_live(at)], gone[self.places.map.lookup(gone) < 0]

    def clean(self) -> None:
        """From here on: what `since` gave has been told, and taken in."""
        self._flags = np.zeros(self.places.room, np.bool_)
        self._gone, self._left = [], 0

    def state(self) -> dict[str, Any]:
        found = self.since()
        return {} if found is None else {"changed": found[0], "gone": found[1]}

    def load(self, state: dict[str, Any]) -> None:
        self._flags, self._gone, self._left = None, [], 0
        if state:
            self.clean()
            self.note(self.places.map.lookup(state["changed"]), state["gone"])
