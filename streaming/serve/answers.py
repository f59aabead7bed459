"""What a server answers, as types: for its OpenAPI document, and for clients."""

from __future__ import annotations

from typing import Any

import msgspec

from features.events import Id

Scores = dict[str, float | list[float]]
"""By task: a number, or a list of them, one a class."""


class Shown(msgspec.Struct):
    """A candidate in its place; `id` names the impression, for feedback. `propensity` is how likely
    it was to be shown, where the application explores: in this place by epsilon, in any by
    Thompson's draws (streaming/explore.py)."""

    id: Id
    item: Id
    score: float
    scores: Scores
    propensity: float | None = None


class Ranking(msgspec.Struct):
    """The best candidates first; `request` names the ranking, for `explain`."""

    request: str
    version: int
    epoch: int
    impressions: list[Shown]


class Told(msgspec.Struct):
    """The id that the feedback was logged under."""

    id: Id


class Part(msgspec.Struct):
    """What one input of the model says, and by how much the prediction would be less without it."""

    name: str
    value: float | list[float] | None
    contribution: float


class Explained(msgspec.Struct):
    """One candidate's prediction, in the task's units, and its parts, the largest first."""

    id: Id
    item: Id
    prediction: float
    parts: list[Part]


class Explanation(msgspec.Struct):
    """Why a ranking was as it was. Where the version that scored it is gone, contributions are by
    `explained_with`, a later one. `incidents` are those that its manifest names as open."""

    request: str
    time_ms: int
    task: str
    version: int
    epoch: int
    explained_with: int
    incidents: list[Any]
    impressions: list[Explained]


class ProblemDocument(msgspec.Struct):
    """RFC 9457; `pointer` names the field of the body, `instance` the request."""

    type: str
    title: str
    status: int
    detail: str
    pointer: str = ""
    instance: str = ""
