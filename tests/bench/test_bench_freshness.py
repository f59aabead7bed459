from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from streaming.bench.freshness import LEGS, SETTLED_S, _legs, _rows


def test_each_probe_is_followed_to_the_first_version_that_learned_it():
    """Steps at 10 a second, 50 ms after what they learn closed; a version each 400 ms."""
    steps = np.array([(c, c + 50.0) for c in range(0, 20_000, 100)])
    versions = range(400, 20_000, 400)
    loaded = [(c, c + 50.0 + 30.0, c) for c in versions]
    moves = {c: c + 50.0 + 10.0 for c in versions}
    reader = SimpleNamespace(loaded=loaded, served={c: c + 50.0 + 35.0 for c in versions})
    probes = np.array([100, 10_000, 10_001, 10_350])
    legs = _legs(probes, steps, moves, reader)
    assert probes[0] < loaded[0][1] + 1_000 * SETTLED_S, "from before all ran"
    np.testing.assert_allclose(legs * 1_000, [[50, 10, 20, 5], [149, 310, 20, 5], [100, 10, 20, 5]])
    rows = _rows(legs)
    assert len(rows) == 2 * (1 + len(LEGS)) and rows[0]["value"] == 0.135
    assert rows[0]["runs"] == 3
