"""What `freshet bench drift` says of its outcomes: figures with intervals over seeds, paired.

Every interval is of 95 %, by a bootstrap that draws seeds within each world and takes a policy and
`none` on the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streaming.bench.drift_outcomes import Outcome

DRAWS = 2_000
IN_HINDSIGHT = "in hindsight"
"""`none` too, with the constant settings that are best after the change."""
Floats = NDArray[np.float64]
Figure = tuple[float, float, float]
"""A value, and the interval that it lies in."""
Statistic = Callable[[Floats, Floats], Floats]
"""Of one world: (what `none` does, what the policy does), [..., seed] each -> [...]."""


def _of_sums(none: Floats, policy: Floats) -> Floats:
    return np.asarray(np.log(none.sum(-1) / policy.sum(-1)))


def _relative(none: Floats, policy: Floats) -> Floats:
    return np.asarray(np.mean(policy / none, axis=-1) - 1.0)


def _figure(pairs: Sequence[tuple[Floats, Floats]], statistic: Statistic) -> Figure:
    """Its mean over worlds, and the interval."""
    draw = np.random.default_rng(0)
    values, drawn = [], []
    with np.errstate(invalid="ignore", divide="ignore"):
        for none, policy in pairs:
            places = draw.integers(0, len(none), (DRAWS, len(none)))
            values.append(statistic(none, policy))
            drawn.append(statistic(none[places], policy[places]))
    low, high = np.quantile(np.mean(drawn, axis=0), (0.025, 0.975))
    return float(np.mean(values)), float(low), float(high)


class Table:
    """The figures of some outcomes, by kind of stream and policy."""

    def __init__(self, outcomes: Iterable[Outcome], default: str) -> None:
        self.default = default
        self._of: dict[tuple[str, str, str], list[Outcome]] = {}
        for one in sorted(outcomes, key=lambda outcome: outcome.seed):
            self._of.setdefault((one.kind, one.policy, one.world), []).append(one)
        self.kinds = list(dict.fromkeys(kind for kind, _, _ in self._of))
        self.policies = list(dict.fromkeys(policy for _, policy, _ in self._of))

    def area(self, kind: str, policy: str, against: str = "none") -> Figure:
        """The area that `none` loses over that which the policy does: above 1 is better."""
        figure = _figure(self._pairs(kind, policy, "area", against), _of_sums)
        value, low, high = (float(np.exp(x)) for x in figure)
        return value, low, high

    def cost(self, kind: str, policy: str, field: str = "loss") -> Figure:
        """How much more is lost than by `none`, as a share: of all tasks, or of the `others`."""
        return _figure(self._pairs(kind, policy, field), _relative)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the default, and one for each kind and policy."""
        rows = []
        if "one_task" in self.kinds:
            area = self.area("one_task", self.default)
            rows.append(self._row("drift.one_task.area", "ratio", area, "one_task"))
            if IN_HINDSIGHT in self.policies:
                area = self.area("one_task", self.default, IN_HINDSIGHT)
                rows.append(self._row("drift.one_task.area_hindsight", "ratio", area, "one_task"))
            cost = self.cost("one_task", self.default, "others")
            rows.append(self._row("drift.other_tasks.cost", "relative loss", cost, "one_task"))
        if "none" in self.kinds:
            cost = self.cost("none", self.default)
            rows.append(self._row("drift.stationary.cost", "relative loss", cost, "none"))
        return rows + [
            self.of(kind, policy)
            for kind in self.kinds
            for policy in self.policies
            if self._some(kind, policy)
        ]

    def of(self, kind: str, policy: str) -> dict[str, Any]:
        """All that is known of a policy on a kind of stream; delays and recoveries are medians in
        examples of the runs that had any."""
        some = self._some(kind, policy)
        delays = [one.delay for one in some if one.delay == one.delay]
        recoveries = [one.recovery for one in some if one.recovery == one.recovery]
        row = {
            "name": f"drift.{kind}/{policy}",
            "runs": len(some),
            "detected": len(delays) / len(some) if kind != "none" else None,
            "delay": float(np.median(delays)) if delays else None,
            "false_events": sum(one.false for one in some),
            "recovered": len(recoveries) / len(some) if some[0].area == some[0].area else None,
            "recovery": float(np.median(recoveries)) if recoveries else None,
        }
        area = self.area(kind, policy) if some[0].area == some[0].area else (np.nan,) * 3
        if np.isfinite(area).all():  # no ratio of what is not above the reference
            row["area"] = area
        row["cost"] = self.cost(kind, policy)
        if some[0].others == some[0].others:
            row["others_cost"] = self.cost(kind, policy, "others")
        return row

    def text(self) -> str:
        """The table for people."""
        head = (
            "", "seen", "delay", "false", "recovered", "after",
            "area, none's over it", "cost, all tasks", "cost, other tasks",
        )  # fmt: skip
        lines = []
        for kind in self.kinds:
            lines.append((kind, *[""] * 8))
            for policy in self.policies:
                if self._some(kind, policy):
                    lines.append(_line(f"  {policy}", self.of(kind, policy)))
        widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in [head, *lines]
        )

    def _pairs(
        self, kind: str, policy: str, field: str, against: str = "none"
    ) -> list[tuple[Floats, Floats]]:
        worlds = [world for k, p, world in self._of if (k, p) == (kind, policy)]
        return [
            tuple(  # type: ignore[misc]
                np.array([getattr(one, field) for one in self._of[kind, p, world]])
                for p in (against, policy)
            )
            for world in worlds
        ]

    def _some(self, kind: str, policy: str) -> list[Outcome]:
        return [o for (k, p, _), some in self._of.items() if (k, p) == (kind, policy) for o in some]

    def _row(self, name: str, unit: str, figure: Figure, kind: str) -> dict[str, Any]:
        value, low, high = figure
        return {
            "name": name,
            "value": round(value, 5),
            "unit": unit,
            "low": round(low, 5),
            "high": round(high, 5),
            "baseline": {"name": "none", "value": 1.0 if unit == "ratio" else 0.0},
            "ratio": round(value if unit == "ratio" else 1.0 + value, 5),
            "runs": len(self._some(kind, self.default)),
            "policy": self.default,
        }


def _line(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    def share(x: float | None) -> str:
        return "" if x is None else f"{x:.0%}"

    def examples(x: float | None) -> str:
        return "" if x is None else f"{x:,.0f}"

    def ratio(f: Figure | None) -> str:
        return "" if f is None else f"{f[0]:.3f} ({f[1]:.3f} to {f[2]:.3f})"

    def relative(f: Figure | None) -> str:
        return "" if f is None else f"{f[0]:+.2%} ({f[1]:+.2%} to {f[2]:+.2%})"

    return (
        name, share(row["detected"]), examples(row["delay"]), str(row["false_events"]),
        share(row["recovered"]), examples(row["recovery"]), ratio(row.get("area")),
        relative(row["cost"]), relative(row.get("others_cost")),
    )  # fmt: skip
