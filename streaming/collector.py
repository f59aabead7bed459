"""Python's garbage collector, kept out of the way of a process that decodes many events."""

from __future__ import annotations

import gc


def tune() -> None:
    """Leaves what is loaded alone from now on, and comes seldom.

    Decoding a chunk makes ten thousands of objects; looking through all others each time took
    longer than decoding them. Call it once, after the imports.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)
