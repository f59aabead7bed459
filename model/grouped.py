"""AUC by user: how well each user's own impressions are ranked, whatever users differ by.

The mean of the users' AUCs, each weighed by its impressions (Zhu et al., KDD 2017), over users with
both labels. In bounded memory: of at most `USERS` users, those of the smallest keys (hashes, so
they are a fair sample, and the same one in any order of events), the last `LAST` impressions each.

Shapes: n examples; outputs, those of the binary tasks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from model.kernel import kernel

USERS = 1_024
LAST = 32


class GroupedAUC:
    """`columns` and `tasks` int64 [outputs]: where each binary task stands in predictions, and in
    labels."""

    def __init__(self, columns: np.ndarray, tasks: np.ndarray) -> None:
        self.columns, self.tasks = columns, tasks
        self.size = np.zeros(1, np.int64)
        self.keys = np.zeros(USERS, np.int64)  # in order, the first `size` of them
        self.places = np.zeros(USERS, np.int64)  # of each key, in the arrays below
        self.seen = np.zeros((len(tasks), USERS), np.int64)
        self.predictions = np.zeros((len(tasks), USERS, LAST), np.float32)
        self.positives = np.zeros((len(tasks), USERS, LAST), np.bool_)

    def update(
        self, users: np.ndarray, predictions: np.ndarray, labels: np.ndarray, mask: np.ndarray
    ) -> None:
        """users int64 [n], keys as of `idmap.table_keys`; the others as in `Metrics.update`."""
        _add(users, predictions, labels, mask, self.columns, self.tasks, *self._arrays())

    def merge(self, other: GroupedAUC) -> None:
        """Adds what `other` has seen. A user's impressions should be all in one of the two, as they
        are in one partition: else the other's count as the later ones."""
        outputs = len(self.tasks)
        labels, mask = np.zeros((LAST, outputs), np.float32), np.zeros((LAST, outputs), np.bool_)
        predictions, places = np.zeros((LAST, outputs), np.float32), np.arange(outputs)
        for key, place in zip(other.keys[: other.size[0]], other.places, strict=False):
            seen = other.seen[:, place]
            for k in range(outputs):
                order = (np.arange(LAST) + max(seen[k] - LAST, 0)) % LAST  # the oldest first
                predictions[:, k] = other.predictions[k, place, order]
                labels[:, k] = other.positives[k, place, order]
                mask[:, k] = np.arange(LAST) < seen[k]
            users = np.full(LAST, key)
            _add(users, predictions, labels, mask, places, places, *self._arrays())

    def figures(self) -> list[float | None]:
        """For each binary task; None where no user has both labels."""
        found = _grouped(self.size[0], self.places, self.seen, self.predictions, self.positives)
        return [float(value) if np.isfinite(value) else None for value in found]

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.size, self.keys, self.places, self.seen, self.predictions, self.positives

    def state(self) -> dict[str, Any]:
        return {
            name: getattr(self, name).copy()
            for name in ("size", "keys", "places", "seen", "predictions", "positives")
        }

    def load(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value.copy())


@kernel
def _add(  # type: ignore[no-untyped-def]
    users, predictions, labels, mask, columns, tasks,
    size, keys, places, seen, kept_predictions, kept_positives,
) -> None:  # fmt: skip
    most, last = kept_predictions.shape[1], kept_predictions.shape[2]
    for i in range(users.shape[0]):
        n = size[0]
        at = np.searchsorted(keys[:n], users[i])
        if at == n or keys[at] != users[i]:
            if at == most:
                continue
            place = n
            if n == most:  # the largest key makes room, and cannot come back
                n -= 1
                place = places[n]
                seen[:, place] = 0
            for j in range(n, at, -1):
                keys[j], places[j] = keys[j - 1], places[j - 1]
            keys[at], places[at], size[0] = users[i], place, n + 1
        place = places[at]
        for k in range(tasks.shape[0]):
            if mask[i, tasks[k]] and np.isfinite(predictions[i, columns[k]]):
                to = seen[k, place] % last
                kept_predictions[k, place, to] = predictions[i, columns[k]]
                kept_positives[k, place, to] = labels[i, tasks[k]] > 0.5
                seen[k, place] += 1


@njit(cache=True)
def _grouped(size, places, seen, predictions, positives):  # type: ignore[no-untyped-def]
    out = np.full(seen.shape[0], np.nan)
    for k in range(seen.shape[0]):
        total, weight = 0.0, 0
        for u in range(size):
            place = places[u]
            n = min(seen[k, place], predictions.shape[2])
            above, pairs = 0.0, 0
            for i in range(n):
                if not positives[k, place, i]:
                    continue
                for j in range(n):
                    if positives[k, place, j]:
                        continue
                    pairs += 1
                    p, q = predictions[k, place, i], predictions[k, place, j]
                    above += 1.0 if p > q else (0.5 if p == q else 0.0)
            if pairs:
                total += n * above / pairs
                weight += n
        if weight:
            out[k] = total / weight
    return out
