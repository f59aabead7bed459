"""`freshet bench grid`: settings of an application against each other, over one log and many seeds.

Each combination is a whole replay; figures are of what was served.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

FIGURES = {"binary": "auc", "multiclass": "accuracy", "regression": "mse"}


@dataclass(frozen=True)
class Grid:
    """`vary` holds, for each setting, the texts of its values, as `--set` takes them."""

    application: str
    log: Path | None
    vary: Sequence[tuple[str, Sequence[str]]]
    settings: tuple[str, ...] = ()
    seeds: int = 3
    limit: int | None = None
    jobs: int = 1

    def combinations(self) -> list[tuple[str, ...]]:
        keys = [key for key, _ in self.vary]
        values = product(*(values for _, values in self.vary))
        return [tuple(f"{k}={v}" for k, v in zip(keys, row, strict=True)) for row in values]

    def run(
        self, on_done: Callable[[int, int], None] = lambda done, of: None
    ) -> list[dict[str, Any]]:
        """A row a combination: `settings`, `seconds`, and of each task its figure's `mean` and
        `std` over the seeds. Raises ValueError for a combination that can't be."""
        work = [(c, seed) for c in self.combinations() for seed in range(self.seeds)]
        found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for done, ((settings, _), report) in enumerate(
            zip(work, self._reports(work), strict=True), 1
        ):
            found.setdefault(settings, []).append(report)
            on_done(done, len(work))
        return [_row(settings, reports) for settings, reports in found.items()]

    def _reports(self, work: Sequence[tuple[tuple[str, ...], int]]) -> Iterator[dict[str, Any]]:
        every = [
            (self.application, self.log, (*self.settings, *settings), seed, self.limit)
            for settings, seed in work
        ]
        for application, _, settings, _, _ in every:
            _application(application, settings)  # a mistake is told before the first replay
        if self.jobs == 1:
            yield from map(_replay, every)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.jobs, context) as pool:
            yield from pool.map(_replay, every)


def _application(name: str, settings: tuple[str, ...]) -> Any:
    from streaming.__main__ import load_application

    return load_application(name).with_settings(settings)


def _replay(one: tuple[str, Path | None, tuple[str, ...], int, int | None]) -> dict[str, Any]:
    from streaming.replay import Replay

    name, log, settings, seed, limit = one
    report = Replay(_application(name, settings), log, seed=seed, limit=limit).run()
    assert report is not None
    return report


def _row(settings: tuple[str, ...], reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    tasks = {}
    for name, first in reports[0]["tasks"].items():
        figure = FIGURES[first["kind"]]
        values = np.array([r["tasks"][name]["served"][figure] for r in reports], float)
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        tasks[name] = {"figure": figure, "mean": float(values.mean()), "std": spread}
    seconds = float(np.median([r["seconds"] for r in reports]))
    return {"settings": list(settings), "seconds": round(seconds, 1), "tasks": tasks}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, mean ± standard deviation."""
    names = {n: t["figure"] for n, t in rows[0]["tasks"].items()}
    lines = ["| " + " | ".join(["settings", *(f"{n}, {f}" for n, f in names.items()), "s"]) + " |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for row in rows:
        cells = [f"{t['mean']:.4f} ± {t['std']:.4f}" for t in row["tasks"].values()]
        said = ", ".join(s.rpartition(".")[2] for s in row["settings"]) or "as shipped"
        lines.append("| " + " | ".join([said, *cells, f"{row['seconds']:.0f}"]) + " |")
    return "\n".join(lines)
