"""A stream of simulated users, with changes planted in it.

An impression draws a user (all alike often) and an item (popularity after Zipf); what the user
does about it follows `features/population.py`. It is a function of its index: no size of block
matters, and any stretch can be made again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features.population import (
    LONGEST_S,
    TASKS,
    Change,
    Config,
    Floats,
    Ints,
    Population,
    sigmoid,
    uniform,
)

__all__ = ["TASKS", "Change", "Config", "Feedback", "Shown", "Simulation"]

_DWELL_NOISE = 0.5  # standard deviation of log seconds


class Feedback(NamedTuple):
    """`kind` is the task's name; it comes `delay_ms` after the impression."""

    kind: str
    value: float
    delay_ms: int


class Shown(NamedTuple):
    """One impression, and all the feedback that it will get. Ids count from 1, slots from 0."""

    id: str
    time_ms: int
    user_id: int
    segment_id: int
    item_id: int
    category_id: int
    slot: int
    feedback: tuple[Feedback, ...]


def _rank_auc(scores: Floats, labels: NDArray[np.bool_]) -> float:
    """Area under the ROC curve by rank sums; scores are taken to have no ties."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores, kind="stable")] = np.arange(1, len(scores) + 1)
    hits = int(labels.sum())
    return float((ranks[labels].sum() - hits * (hits + 1) / 2) / (hits * (len(labels) - hits)))


class Simulation:
    """The stream of one Config: by index (`between`), in turn (`next`), or endless (`iter`)."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.population = Population(self.config)
        self.position = 0  # index of the impression that `next` gives first

    @property
    def longest_delay_ms(self) -> dict[str, int]:
        """After so long no feedback of a kind can come: the least window that loses no label."""
        longest = {"click": 5.0, "like": 5.0 + LONGEST_S, "dwell": 5.0 + LONGEST_S}
        return {kind: math.ceil(1000 * s * self.config.pace) + 1 for kind, s in longest.items()}

    def truth(
        self, users: ArrayLike, items: ArrayLike, at: ArrayLike, slots: ArrayLike = 0
    ) -> dict[str, Floats]:
        """What an oracle predicts; see `Population.truth`."""
        return self.population.truth(users, items, at, slots)

    def respond(
        self, index: Ints, users: Ints, items: Ints, time_ms: Ints
    ) -> list[tuple[Feedback, ...]]:
        """What users (ids) do about items (ids) shown to them as the impressions `index`.

        For a live server that chooses the items itself; `between` answers for the stream's own.
        """
        slots = self.population.slot(time_ms)
        scores = self.population.scores(users - 1, items - 1, slots, index)

        def u(purpose: str) -> Floats:
            return uniform(self.config.seed, purpose, index)

        clicks = u("click") < sigmoid(scores[:, 0])
        likes = u("like") < sigmoid(scores[:, 1])
        noise = np.sqrt(-2.0 * np.log(u("dwell"))) * np.cos(2.0 * np.pi * u("dwell angle"))
        dwell = np.clip(scores[:, 2] + _DWELL_NOISE * noise, 0.0, math.log(LONGEST_S))
        click_s = 0.5 + 4.5 * u("click delay")
        like_s = click_s + u("like delay") * np.exp(dwell)
        seconds = np.stack([click_s, like_s, click_s + np.exp(dwell)], axis=1)
        delays = np.ceil(1000.0 * self.config.pace * seconds).astype(np.int64)
        answers: list[tuple[Feedback, ...]] = [()] * len(index)
        values = dwell.round(3).tolist()
        for i in np.flatnonzero(clicks).tolist():
            at_click, at_like, at_end = delays[i].tolist()
            like = (Feedback("like", 1.0, at_like),) if likes[i] else ()
            ends = Feedback("dwell", values[i], at_end)
            answers[i] = (Feedback("click", 1.0, at_click), *like, ends)
        return answers

    def between(
        self, start: int, stop: int, time_ms: Sequence[int] | Ints | None = None
    ) -> list[Shown]:
        """Impressions start to stop - 1, at the times of the Config, or at those given."""
        index = np.arange(start, stop)
        if time_ms is None:
            elapsed = np.floor(index * (1000.0 / self.config.rate_per_s))
            times = self.config.start_ms + elapsed.astype(np.int64)
        else:
            times = np.asarray(time_ms, np.int64)
        if times.shape != index.shape:
            raise ValueError(
                f"time_ms has shape {times.shape}: expected ({len(index)},), one an impression"
            )
        people = self.population
        users, items = people.draw(index)
        answers = self.respond(index, users + 1, items + 1, times)
        segments, categories = people.segment[users] + 1, people.category[items] + 1
        columns = (times, users + 1, segments, items + 1, categories, people.slot(times))
        names = [f"i{i:09d}" for i in range(start, stop)]
        rows = zip(names, *(column.tolist() for column in columns), answers, strict=True)
        return list(map(Shown._make, rows))

    def next(self, n: int, time_ms: Sequence[int] | Ints | None = None) -> list[Shown]:
        """The next n impressions; `position` moves on by n."""
        self.position += n
        return self.between(self.position - n, self.position, time_ms)

    def __iter__(self) -> Iterator[Shown]:
        """The stream from `position` on, without an end; `position` stays."""
        for start in itertools.count(self.position, 1024):
            yield from self.between(start, start + 1024)

    def oracle(self, start: int, stop: int) -> dict[str, float]:
        """How well the truth itself predicts this stretch: AUC of click and like, RMSE of dwell."""
        rows = self.between(start, stop)
        ids = np.array([(row.user_id, row.item_id, row.slot) for row in rows]).T
        truth = self.truth(ids[0], ids[1], np.arange(start, stop), ids[2])
        given = [{f.kind: f.value for f in row.feedback} for row in rows]
        labels = {task: np.array([g.get(task, math.nan) for g in given]) for task in TASKS}
        auc = {task: _rank_auc(truth[task], ~np.isnan(labels[task])) for task in TASKS[:2]}
        error = labels["dwell"] - truth["dwell"]
        return auc | {"dwell": math.sqrt(np.nanmean(error * error))}
