"""Incidents: drift events of one cause, from the first of them until the model is over it.

An event joins the last open incident where it began within a cool-down of what that holds; else it
opens one of its own. What was done is written to it, and how the losses go on, so that it can be
told whether that helped. Nothing in the model's future depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from streaming.drift import DriftEvent, DriftMonitor, Sums
from streaming.rebalance import Decision

MOST, MOST_SIGNALS, MOST_DONE = 200, 40, 40
RECOVERED = 0.8
"""Of what a loss had risen by, so much is gone again."""
QUIET = 10
"""Cool-downs without an event, after which an incident is over in any case."""
LEVELS = ("loss", "calibration", "auc")
"""Signals that have a level to come back to; the others stay where they went."""


class Incidents:
    """The last `MOST` incidents of a learner, as JSON objects, the oldest first.

    Each has a `number` from 1, `kind` ("inputs", where one of those moved; "labels", where a label
    rate did; else "concept"), `began_example`, `opened_example` and `opened_ms`, `closed_example`,
    `closed_ms` and `outcome` (None while it is open; else "recovered", "partly recovered", "not
    recovered" or "settled", for signals that have no level to come back to), `recovery`, the share
    of the worst level's rise that is gone (None: there is none yet), `what`, of the first in words,
    `signals`, each an event with its level `now` (one that moves again keeps where it came from),
    `more`, how many events of others there were, and `done`, what the rebalancer did.
    """

    def __init__(self, config: DriftMonitor.Config) -> None:
        self._block, self._near = config.block, max(config.cool_down, 4 * config.block)
        self._quiet = QUIET * self._near
        self.all: list[dict[str, Any]] = []
        self._last = 0

    def update(
        self,
        events: Sequence[DriftEvent],
        places: Sequence[int],
        decisions: Sequence[Decision],
        signals: Sums,
        example: int,
        time_ms: int,
    ) -> list[Decision]:
        """Takes one step's events, with their places among its signals, and its decisions; returns
        what to say of incidents that were opened or closed, as decisions about "incident", 0 or
        1."""
        open_ones = [incident for incident in self.all if incident["closed_example"] is None]
        if not events and not open_ones:
            return []
        for incident in open_ones:
            self._follow(incident, signals)
        said = []
        for event, place in zip(events, places, strict=True):
            joined = self._joined(event, open_ones)
            incident = joined or self._opened(event)
            if joined is None:
                open_ones.append(incident)
                said.append(_said(incident, event.example, time_ms, 0.0, 1.0))
            self._add(incident, event, place)
        for incident in open_ones:
            tasks = {"", *(signal["task"] for signal in incident["signals"])}
            done = [d.as_dict() for d in decisions if d.task in tasks]
            incident["done"] = (incident["done"] + done)[:MOST_DONE]
            incident["recovery"] = _recovery(incident["signals"])
            outcome = self._outcome(incident, example)
            if outcome:
                incident |= {"outcome": outcome, "closed_example": example, "closed_ms": time_ms}
                said.append(_said(incident, example, time_ms, 1.0, 0.0))
        del self.all[:-MOST]
        return said

    def _joined(self, event: DriftEvent, open_ones: list[dict[str, Any]]) -> dict[str, Any] | None:
        for incident in reversed(open_ones):
            last = max(signal["began_example"] for signal in incident["signals"])
            if incident["began_example"] - self._near <= event.began_example <= last + self._near:
                return incident
        return None

    def _opened(self, event: DriftEvent) -> dict[str, Any]:
        self._last += 1
        incident: dict[str, Any] = {
            "number": self._last, "kind": "concept", "began_example": event.began_example,
            "opened_example": event.example, "opened_ms": event.time_ms,
            "closed_example": None, "closed_ms": None, "outcome": None, "recovery": None,
            "signals": [], "more": 0, "done": [],
        }  # fmt: skip
        self.all.append(incident)
        return incident

    def _add(self, incident: dict[str, Any], event: DriftEvent, place: int) -> None:
        told = {**event.as_dict(), "now": None, "place": place, "sum": 0.0, "count": 0}
        again = [s for s in incident["signals"] if _where(s) == _where(told)]
        if again:
            first = {name: again[0][name] for name in ("before", "began_example")}
            again[0].update({**told, **first})
        elif len(incident["signals"]) < MOST_SIGNALS:
            incident["signals"].append(told)
        else:
            incident["more"] += 1
        incident["began_example"] = min(incident["began_example"], event.began_example)
        if not event.task:
            incident["kind"] = "inputs"
        elif event.signal == "label_rate" and incident["kind"] == "concept":
            incident["kind"] = "labels"

    def _follow(self, incident: dict[str, Any], signals: Sums) -> None:
        """The level of each of its signals, over the last whole block."""
        for signal in incident["signals"]:
            place = signal["place"]
            count, total = int(signals.counts[place]), float(signals.sums[place])
            if not count or not abs(total) < float("inf"):
                continue
            signal["sum"] += total
            signal["count"] += count
            if signal["count"] >= self._block:
                signal["now"] = signal["sum"] / signal["count"]
                signal["sum"], signal["count"] = 0.0, 0

    def _outcome(self, incident: dict[str, Any], example: int) -> str | None:
        """What became of an incident that is over, or None."""
        recovery = incident["recovery"]
        waiting = any(s["signal"] in LEVELS and s["now"] is None for s in incident["signals"])
        if recovery is not None and recovery >= RECOVERED and not waiting:
            return "recovered"
        if example - max(s["example"] for s in incident["signals"]) < self._quiet:
            return None
        if recovery is None:
            return "settled"
        return "partly recovered" if recovery >= 0.5 * RECOVERED else "not recovered"

    def listed(self, last: int = MOST) -> list[dict[str, Any]]:
        """The last incidents as they stand, without what is only kept to follow them."""
        hidden = ("place", "sum", "count")
        found = []
        for incident in self.all[-last:]:
            signals = [{k: v for k, v in s.items() if k not in hidden} for s in incident["signals"]]
            told = {"what": what(signals[0]), "signals": signals, "done": list(incident["done"])}
            found.append({**incident, **told})
        return found

    def open(self) -> int:
        return sum(incident["closed_example"] is None for incident in self.all)

    def state(self) -> dict[str, Any]:
        return {"all": deepcopy(self.all), "last": self._last}

    def load(self, tree: Mapping[str, Any]) -> None:
        self.all, self._last = deepcopy(list(tree["all"])), int(tree["last"])


def _where(signal: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(signal[name] for name in ("task", "signal", "segment"))


def _recovery(signals: Sequence[Mapping[str, Any]]) -> float | None:
    """The least share of a level's change that is gone; 0 where it went on, 1 at the most."""
    shares = [
        (s["after"] - s["now"]) / (s["after"] - s["before"])
        for s in signals
        if s["signal"] in LEVELS and s["now"] is not None and s["after"] != s["before"]
    ]
    return round(min(1.0, max(0.0, min(shares))), 4) if shares else None


def what(signal: Mapping[str, Any]) -> str:
    """In words: which signal went where."""
    of = " ".join(filter(None, (signal["task"] and f"of {signal['task']}", signal["segment"])))
    words = " ".join(filter(None, (signal["signal"].replace("_", " "), of)))
    return f"{words} {signal['direction']}, {signal['before']:.3g} to {signal['after']:.3g}"


def _said(
    incident: Mapping[str, Any], example: int, time_ms: int, before: float, after: float
) -> Decision:
    reason = f"incident {incident['number']} opened"
    if not after:
        signals = "; ".join(map(what, incident["signals"][:3]))
        reason = f"incident {incident['number']} closed: {incident['outcome']} ({signals})"
    return Decision(example, time_ms, "", "incident", before, after, reason)
