"""How loops over arrays are compiled.

Without Numba's own memory management a kernel can't make an array, and a call of one kernel by
another costs nothing; with it, each array handed on is counted up and down: for small functions,
nine tenths of the time.
"""

from __future__ import annotations

from typing import Any

from numba import njit

kernel: Any = njit(cache=True, error_model="numpy", _nrt=False)  # type: ignore[call-overload]
"""The decorator. Division by zero gives what NumPy's does."""

free_kernel: Any = njit(  # type: ignore[call-overload]
    cache=True, error_model="numpy", nogil=True, _nrt=False
)
"""The same, for long loops in a thread of their own: other threads go on meanwhile."""
