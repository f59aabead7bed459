"""Simulated users and items with latent vectors, and the changes planted in their tastes.

A user's taste for an item is the product of their vectors. Most of a user's vector is that of the
segment, most of an item's that of the category, both visible. For an impression of an item:

    click   binary, with the probability sigmoid(base + taste + item + category in this time slot)
    like    binary, only after a click, by its own taste
    dwell   regression, natural logarithm of seconds on the page (0 to 60 s), only after a click

Every random number is a hash of (seed, purpose, index): no state, no order of calls matters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

TASKS = ("click", "like", "dwell")
CHANGES = ("preference", "label_rate")
_TASTE = np.array([1.5, 1.2, 0.5])  # standard deviation of each part: logits, or log seconds
_ITEM = np.array([0.6, 0.4, 0.2])
_SLOT = np.array([0.3, 0.2, 0.1])
LONGEST_S = 60.0


Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Change:
    """What happens when impression number `at` (from 0) is reached.

    `preference`: the taste of a `share` of the users for one task turns to its opposite, whole
    segments first. `label_rate`: the mean of the task moves to `to` (as `Config.rates` counts it),
    tastes stay. No other mean moves at a change: the tasks' bases make up for what clicks select.
    """

    at: int
    kind: str
    task: str = "click"
    share: float = 1.0
    to: float = 0.5

    def __post_init__(self) -> None:
        for name, value, known in (("kind", self.kind, CHANGES), ("task", self.task, TASKS)):
            if value not in known:
                raise ValueError(f"Change.{name} is {value!r}: expected one of {', '.join(known)}")
        if self.at < 0:
            raise ValueError(f"Change.at is {self.at}: expected 0 or more")
        if not 0 < self.share <= 1:
            raise ValueError(f"Change.share is {self.share}: expected above 0, at most 1")
        top = math.log(LONGEST_S) if self.task == "dwell" else 1.0
        if not 0 < self.to < top:
            raise ValueError(f"Change.to is {self.to}: expected between 0 and {top:.3g}")


@dataclass(frozen=True)
class Config:
    """Who there is, how fast they come, and what changes.

    `pace` stretches all delays of feedback: at 1 a dwell of 20 s is known 20 s after the click, at
    0.02 after 0.4 s. The slots of the day last `slot_ms` each. `rates`: P(click), P(like), and the
    mean log seconds of a dwell.
    """

    users: int = 500
    items: int = 2_000
    segments: int = 8
    categories: int = 20
    slots: int = 6
    dim: int = 8
    seed: int = 0
    start_ms: int = 1_700_000_000_000
    rate_per_s: float = 1.0
    slot_ms: int = 14_400_000
    pace: float = 1.0
    rates: tuple[float, float, float] = (0.3, 0.1, 2.0)
    changes: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        for name in ("users", "items", "segments", "categories", "slots", "dim", "slot_ms"):
            if getattr(self, name) < 1:
                raise ValueError(f"Config.{name} is {getattr(self, name)}: expected 1 or more")
        for name in ("rate_per_s", "pace"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"Config.{name} is {getattr(self, name)}: expected more than 0")
        click, like, dwell = self.rates
        if not (0 < like < click < 1 and 0 < dwell < math.log(LONGEST_S)):
            raise ValueError(
                f"Config.rates is {self.rates}: expected 0 < like < click < 1, 0 < dwell < 4.09"
            )


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(seed: int, purpose: str, index: ArrayLike) -> Floats:
    """Numbers in (0, 1), one for each index, the same wherever and whenever they are asked for."""
    golden = 0x9E3779B97F4A7C15
    words = [seed, *purpose.encode()]
    key = np.zeros(1, np.uint64)
    for word in words:
        key = _mix(key + np.uint64((word + 1) * golden % 2**64))
    bits = _mix(
        key + (np.asarray(index, np.int64).astype(np.uint64) + np.uint64(1)) * np.uint64(golden)
    )
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52


def _normal(seed: int, purpose: str, *shape: int) -> Floats:
    index = np.arange(math.prod(shape))
    radius = np.sqrt(-2.0 * np.log(uniform(seed, purpose + ":r", index)))
    angle = 2.0 * np.pi * uniform(seed, purpose + ":a", index)
    return np.asarray(radius * np.cos(angle)).reshape(shape)


def sigmoid(x: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-x))


class Population:
    """The users and items of one Config, and what is true of them at each index."""

    def __init__(self, config: Config) -> None:
        self.config = c = config
        seed, tasks = c.seed, len(TASKS)
        users, items = np.arange(c.users), np.arange(c.items)
        self.segment = (uniform(seed, "segment", users) * c.segments).astype(np.int64)
        self.category = (uniform(seed, "category", items) * c.categories).astype(np.int64)
        segments = _normal(seed, "segment vector", tasks, c.segments, c.dim)
        segments = math.sqrt(0.5) * (segments + segments[:1])  # tastes of the tasks are kin
        segments[0] /= math.sqrt(2.0)
        own = _normal(seed, "user vector", tasks, c.users, c.dim)
        self._users = math.sqrt(0.8) * segments[:, self.segment] + math.sqrt(0.2) * own
        categories = _normal(seed, "category vector", c.categories, c.dim)
        item = _normal(seed, "item vector", c.items, c.dim)
        self._items = math.sqrt(0.8) * categories[self.category] + math.sqrt(0.2) * item
        self._items /= math.sqrt(c.dim)
        self._quality = _ITEM * _normal(seed, "quality", c.items, tasks)
        rank = np.argsort(uniform(seed, "popularity", items), kind="stable")
        share = np.empty(c.items)
        share[rank] = 1.0 / (items + 10.0)
        self._popularity = np.cumsum(share / share.sum())
        slot = _SLOT * _normal(seed, "slot", c.slots, c.categories, tasks)
        weight = np.bincount(self.category, share / share.sum(), c.categories)
        self._slot = slot - np.einsum("sct,c->st", slot, weight)[:, None]  # no slot moves a mean
        self._plan()

    def _plan(self) -> None:
        """Each change starts a regime: which tastes are turned, and the base of each task."""
        c = self.config
        turned_first = np.lexsort((uniform(c.seed, "turn", np.arange(c.users)), self.segment))
        changes = sorted(c.changes, key=lambda change: change.at)
        self._starts = np.array([0, *(change.at for change in changes)])
        rates = np.tile(np.array(c.rates), (len(self._starts), 1))
        self._sign = np.ones((len(self._starts), len(TASKS), c.users))
        for regime, change in enumerate(changes, start=1):
            task = TASKS.index(change.task)
            if change.kind == "preference":
                self._sign[regime:, task, turned_first[: round(change.share * c.users)]] *= -1.0
            else:
                rates[regime:, task] = change.to
        self._base = np.zeros_like(rates)
        for regime, wanted in enumerate(rates):
            self._base[regime] = self._bases(regime, wanted)

    def _bases(self, regime: int, wanted: Floats) -> Floats:
        """The bases that give the wanted means over 20,000 impressions, by bisection."""
        index = -1 - np.arange(20_000)  # no impression of the stream
        users, items, slots = *self.draw(index), np.arange(len(index)) % self.config.slots
        scores = self._regime_scores(users, items, slots, np.full(len(index), regime))
        found, gate = np.zeros(len(TASKS)), np.ones(len(index))
        for task in (0, 1):
            low, high = -30.0, 30.0
            for _ in range(50):
                middle = (low + high) / 2
                mean = float(np.mean(gate * sigmoid(scores[:, task] + middle)))
                low, high = (middle, high) if mean < wanted[task] else (low, middle)
            found[task] = (low + high) / 2
            gate = sigmoid(scores[:, 0] + found[0])
        found[2] = wanted[2] - np.average(scores[:, 2], weights=gate)
        return found

    def draw(self, index: Ints) -> tuple[Ints, Ints]:
        """Who comes and what is shown as the impressions `index`: users and items, from 0."""
        users = (uniform(self.config.seed, "user", index) * self.config.users).astype(np.int64)
        items = np.searchsorted(self._popularity, uniform(self.config.seed, "item", index), "right")
        return users, np.minimum(items, self.config.items - 1)

    def scores(self, users: Ints, items: Ints, slots: Ints, index: Ints) -> Floats:
        """[n, task]: logits of click and of like after a click, mean log seconds of a dwell."""
        regime = np.searchsorted(self._starts, index, side="right") - 1
        return self._regime_scores(users, items, slots, regime)

    def _regime_scores(self, users: Ints, items: Ints, slots: Ints, regime: Ints) -> Floats:
        taste = np.einsum("tnd,nd->nt", self._users[:, users], self._items[items])
        taste = _TASTE * taste * self._sign[regime, :, users] + self._base[regime]
        scores: Floats = taste + self._quality[items] + self._slot[slots, self.category[items]]
        return scores

    def slot(self, time_ms: ArrayLike) -> Ints:
        """The slot of the day that a moment falls in."""
        return np.asarray(time_ms, np.int64) // self.config.slot_ms % self.config.slots

    def truth(
        self, users: ArrayLike, items: ArrayLike, at: ArrayLike, slots: ArrayLike = 0
    ) -> dict[str, Floats]:
        """What an oracle would predict for ids of users and items at the index `at` (broadcast).

        P(click), P(like) (not given a click), and the mean log seconds of a dwell if there is one.
        """
        every = np.broadcast_arrays(*(np.asarray(v, np.int64) for v in (users, items, slots, at)))
        shape, (user, item, slot, index) = every[0].shape, (v.ravel() for v in every)
        sizes = (("users", user, self.config.users), ("items", item, self.config.items))
        for name, ids, size in sizes:
            if len(ids) and not 1 <= ids.min() <= ids.max() <= size:
                raise ValueError(
                    f"{name} has {ids.min()} to {ids.max()}: expected ids from 1 to {size}"
                )
        scores = self.scores(user - 1, item - 1, slot, index)
        click = sigmoid(scores[:, 0])
        values = (click, click * sigmoid(scores[:, 1]), scores[:, 2])
        return {task: value.reshape(shape) for task, value in zip(TASKS, values, strict=True)}
