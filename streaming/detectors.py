"""River's change detectors, by name. They propose; `streaming/evidence.py` disposes.

All are fed with a signal's values in spreads from the centre of its reference. The DDM family
counts errors, which a mean is not: it is fed with whether a value lies above the centre.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN, KSWIN, PageHinkley
from river.drift.binary import DDM, HDDMA, HDDMW

from streaming.drift_kernels import ALARM, page_hinkley_of, page_hinkleys

DETECTORS = ("page_hinkley", "adwin", "ddm", "hddm_a", "hddm_w", "kswin")
KSWIN_WINDOW, KSWIN_RECENT = 60, 15


class Detector(Protocol):
    """What of a River detector is used here."""

    @property
    def drift_detected(self) -> bool: ...

    def update(self, x: float) -> object: ...


class _Above:
    """A detector of errors that sees on which side of the centre a value lies: of rises, and of
    falls by its mirror where it looks one way only."""

    def __init__(self, *sides: tuple[bool, DDM | HDDMA | HDDMW]) -> None:
        self._sides = sides
        self.drift_detected = False

    def update(self, x: float) -> None:
        for above, detector in self._sides:
            detector.update((x > 0) == above)
        self.drift_detected = any(detector.drift_detected for _, detector in self._sides)


class Settings(Protocol):
    """What detectors are made by: see `DriftMonitor.Config`."""

    @property
    def detector(self) -> str: ...
    @property
    def allowance(self) -> float: ...
    @property
    def threshold(self) -> float: ...
    @property
    def confidence(self) -> float: ...
    @property
    def reference(self) -> int: ...


class PageHinkleys:
    """Page-Hinkley tests, one a signal, in columns: River's one at a time took half of all of the
    drift work. They are the same bit for bit, which a test holds."""

    def __init__(self, signals: int, settings: Settings) -> None:
        self._states = np.zeros((signals, 7))
        self._by = (settings.reference, settings.allowance, settings.threshold)

    def update(self, places: NDArray[np.int64], z: NDArray[np.float64]) -> NDArray[np.bool_]:
        """One value for each of the signals at `places`; which of them alarm."""
        page_hinkleys(places, z, self._states, *self._by)
        return self._states[places, ALARM] > 0

    def begin(self, place: int, z: NDArray[np.float64]) -> None:
        """A new one, fed with these values."""
        page_hinkley_of(z, self._states[place], *self._by)


class Rivers:
    """River's other detectors, one a signal."""

    def __init__(self, signals: int, settings: Settings) -> None:
        self._make = maker(settings)
        self._detectors: list[Detector | None] = [None] * signals

    def update(self, places: NDArray[np.int64], z: NDArray[np.float64]) -> NDArray[np.bool_]:
        """As `PageHinkleys.update`."""
        alarms = np.zeros(len(places), np.bool_)
        for i, (place, value) in enumerate(zip(places.tolist(), z.tolist(), strict=True)):
            detector = self._detectors[place]
            assert detector is not None
            detector.update(value)
            alarms[i] = detector.drift_detected
        return alarms

    def begin(self, place: int, z: NDArray[np.float64]) -> None:
        """As `PageHinkleys.begin`."""
        self._detectors[place] = detector = self._make()
        for value in z.tolist():
            detector.update(value)


def detectors(signals: int, settings: Settings) -> PageHinkleys | Rivers:
    """Those of so many signals."""
    kind = PageHinkleys if settings.detector == "page_hinkley" else Rivers
    return kind(signals, settings)


def maker(settings: Settings) -> Callable[[], Detector]:
    """What makes a River detector: Page-Hinkley of `allowance` and `threshold`, in spreads; the
    others of `confidence`, but DDM, whose limit is three deviations. None alarms before `reference`
    values but KSWIN, which needs a window of 60."""
    confidence, reference = settings.confidence, settings.reference
    makers: dict[str, Callable[[], Detector]] = {
        "page_hinkley": lambda: PageHinkley(
            reference, settings.allowance, settings.threshold, alpha=1.0
        ),
        "adwin": lambda: ADWIN(delta=confidence, clock=1, grace_period=reference),
        "ddm": lambda: _Above((True, DDM(reference)), (False, DDM(reference))),
        "hddm_a": lambda: _Above((True, HDDMA(confidence, two_sided_test=True))),
        "hddm_w": lambda: _Above((True, HDDMW(confidence, two_sided_test=True))),
        "kswin": lambda: KSWIN(confidence, KSWIN_WINDOW, KSWIN_RECENT, seed=0),
    }
    return makers[settings.detector]
