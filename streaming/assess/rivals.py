"""Which rivals there are, and the best setting of each, task by task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from model.batch import Layout
from model.example_losses import example_losses
from model.schema import Schema, nearest
from streaming.assess import retrained
from streaming.assess.recording import Recording
from streaming.assess.rival import Absent, Rival, play
from streaming.compare.served import Served

KNOWN = ("river", "lightgbm", "vw", "river-trees")
USUAL = ("river", "lightgbm", "vw")


@dataclass(frozen=True)
class Entry:
    """A rival, by the name people know it by, and by setting how it is made."""

    name: str
    about: str
    settings: dict[str, Callable[[], Rival]]


def entry(which: str, schema: Schema, layout: Layout, every_ms: int) -> Entry:
    """Raises `Absent` where its package is not installed, ValueError for one that is not known."""
    if which == "river":
        from streaming.assess.rivers import Linear

        return Entry(
            "River, linear",
            "StandardScaler, then logistic (linear) regression by AdaGrad, a weight for each id; "
            "one example at a time",
            {f"rate {r}": lambda r=r: Linear(schema, r) for r in (0.05, 0.02, 0.005)},  # type: ignore[misc]
        )
    if which == "river-trees":
        from streaming.assess.rivers import Trees

        return Entry(
            "River, trees",
            "Hoeffding adaptive trees on the numbers; one example at a time",
            {"as they are": lambda: Trees(schema)},
        )
    if which == "lightgbm":
        fit = retrained.lightgbm(schema, layout)
        return Entry(
            "LightGBM, retrained",
            f"boosted trees, trained anew every {days(every_ms)} on all that was known by then",
            {"as it is": lambda: retrained.Retrained(schema, every_ms, fit)},
        )
    if which == "vw":
        try:
            from streaming.assess.wabbit import Wabbit
        except ImportError:
            raise Absent("vowpalwabbit is not installed: pip install 'freshet[rivals]'") from None
        return Entry(
            "Vowpal Wabbit",
            "a weight for each id and number, user crossed with item; one example at a time",
            {f"-l {r}": lambda r=r: Wabbit(schema, layout, r) for r in (0.25, 0.5, 1.5)},  # type: ignore[misc]
        )
    raise ValueError(f"rival {which!r}: {nearest(which, KNOWN)}")


def days(ms: int) -> str:
    count = ms / retrained.DAY_MS
    if count == 1:
        return "day"
    return f"{count:.0f} days" if count > 1 else f"{24 * count:.2g} hours"


def best(
    rival: Entry,
    recording: Recording,
    before_ms: int,
    on_moment: Callable[[str, int, int], None],
) -> tuple[dict[str, Served], dict[str, str]]:
    """What it would have served, each task by the setting that was best on what was shown before
    `before_ms`; and which that is."""
    kept: dict[str, tuple[float, Served, str]] = {}
    for setting, make in rival.settings.items():
        said = f"{rival.name}, {setting}"
        served = play(recording, make(), lambda n, of, said=said: on_moment(said, n, of))  # type: ignore[misc]
        for task in recording.schema.tasks:
            if task.name not in served:
                continue
            mine = served[task.name]
            early = mine.times_ms < before_ms
            loss = float(example_losses(task, mine.predictions[early], mine.labels[early]).mean())
            if task.name not in kept or loss < kept[task.name][0]:
                kept[task.name] = (loss, mine, setting)
    return {t: k[1] for t, k in kept.items()}, {t: k[2] for t, k in kept.items()}
