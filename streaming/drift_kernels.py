"""The compiled loops of drift: what is done for every example, and for every value of a signal.

Shapes: n examples; base, the signals of the whole stream; key, those and then each segment's.
"""

from __future__ import annotations

# mypy: disable-error-code="no-untyped-def"
import math

import numpy as np

from model.kernel import kernel

BINS, PER_UNIT = 128, 8
"""Of the log odds that predictions are ranked by: an eighth wide, from -8 to 8."""
INCREASE, DECREASE, LEAST, MOST, MEAN, SEEN, ALARM = range(7)
"""Columns of a Page-Hinkley test's state."""


@kernel
def of_binary(
    served, labels, mask, tasks, outputs, columns, clip, below, fresh, values, counts,
):  # fmt: skip
    """Writes log loss, calibration, label rate and AUC of the binary `tasks` into values and counts
    [n, base], at `columns` [task, signal], -1 for one that is not watched.

    `below` [task, BINS] is the share of negatives below each bin, those in it half; -1 where there
    are none. A batch's own negatives are counted in `fresh` [task, BINS].
    """
    for k in range(tasks.shape[0]):
        loss, calibration, rate, auc = (
            columns[k, 0], columns[k, 1], columns[k, 2], columns[k, 3],
        )  # fmt: skip
        for i in range(served.shape[0]):
            if not mask[i, tasks[k]]:
                continue
            p, y = np.float64(served[i, outputs[k]]), np.float64(labels[i, tasks[k]])
            of_label = math.log(max(p if y > 0.5 else 1.0 - p, clip))
            if loss >= 0:
                values[i, loss], counts[i, loss] = -of_label if p == p else p, 1
            if calibration >= 0:
                values[i, calibration], counts[i, calibration] = p - y, 1
            if rate >= 0:
                values[i, rate], counts[i, rate] = y, 1
            if auc < 0 or p != p:
                continue
            odds = of_label - math.log(max(1.0 - p if y > 0.5 else p, clip))
            odds = odds if y > 0.5 else -odds
            at = np.int64(min(max((odds + 8.0) * PER_UNIT, 0.0), BINS - 1.0))
            if y <= 0.5:
                fresh[k, at] += 1.0
            elif below[k, at] >= 0.0:
                values[i, auc], counts[i, auc] = below[k, at], 1


@kernel
def fade(negatives, fresh, keep, below):
    """Lets `negatives` [task, BINS] fade by `keep`, adds the `fresh` ones, which are then none, and
    sums them up in `below`."""
    for k in range(negatives.shape[0]):
        total = 0.0
        for b in range(BINS):
            negatives[k, b] = negatives[k, b] * keep + fresh[k, b]
            total += negatives[k, b]
        fresh[k] = 0.0
        under = 0.0
        for b in range(BINS):
            below[k, b] = (under + negatives[k, b] / 2.0) / total if total > 0.0 else -1.0
            under += negatives[k, b]


@kernel
def of_ids(keys, unseen, columns, values, counts):
    """Adds the ids that are unseen, bool [n, slots], at each slot's column, -1 for none."""
    for i in range(keys.shape[0]):
        for slot in range(keys.shape[1]):
            if columns[slot] >= 0 and keys[i, slot] != 0:
                values[i, columns[slot]] += np.float64(unseen[i, slot])
                counts[i, columns[slot]] += 1


@kernel
def summed(values, counts, places, sums, seen):
    """Sums and counts [1 + segment, base]: first of all examples, then of each segment's, whose
    place is -1 for one of none."""
    for i in range(values.shape[0]):
        for b in range(values.shape[1]):
            if counts[i, b] > 0:
                sums[0, b] += values[i, b]
                seen[0, b] += counts[i, b]
                if places[i] >= 0:
                    sums[places[i] + 1, b] += values[i, b]
                    seen[places[i] + 1, b] += counts[i, b]


@kernel
def add(
    sums, counts, example, before, time_ms, block,
    total, count, began, resumes, span, last_ms, spoilt, held, values, begins, ready,
):  # fmt: skip
    """`Blocks.add`; the signals that have a new value go into `ready`, their number is returned."""
    n = 0
    for s in range(sums.shape[0]):
        if not math.isfinite(sums[s]):
            spoilt[s] += 1
            continue
        if counts[s] <= 0:
            continue
        last_ms[s], spoilt[s] = time_ms, 0
        if example <= resumes[s]:
            continue
        if count[s] == 0:
            began[s] = before
        total[s] += sums[s]
        count[s] += counts[s]
        if count[s] < block * span[s]:
            continue
        value = total[s] / count[s]
        total[s], count[s] = 0.0, 0
        if math.isfinite(value):
            values[s, held[s]], begins[s, held[s]] = value, began[s]
            held[s] += 1
            ready[n] = s
            n += 1
    return n


@kernel
def page_hinkley(z, state, least, allowance, threshold):
    """One value for a test: River's `PageHinkley(least, allowance, threshold, alpha=1)`."""
    if state[ALARM] > 0.0:
        restart(state)
    state[SEEN] += 1.0
    state[MEAN] += (1.0 / state[SEEN]) * (z - state[MEAN])
    off = z - state[MEAN]
    state[INCREASE] = state[INCREASE] + off - allowance
    state[DECREASE] = state[DECREASE] + off + allowance
    state[LEAST] = min(state[LEAST], state[INCREASE])
    state[MOST] = max(state[MOST], state[DECREASE])
    up, down = state[INCREASE] - state[LEAST], state[MOST] - state[DECREASE]
    if state[SEEN] >= least and (up > threshold or down > threshold):
        state[ALARM] = 1.0


@kernel
def restart(state):
    """A test that has seen nothing."""
    state[:] = 0.0
    state[LEAST], state[MOST] = np.inf, -1.0


@kernel
def page_hinkleys(places, z, states, least, allowance, threshold):
    """One value for each of the tests at `places`."""
    for i in range(places.shape[0]):
        page_hinkley(z[i], states[places[i]], least, allowance, threshold)


@kernel
def page_hinkley_of(z, state, least, allowance, threshold):
    """A new test of these values, in turn."""
    restart(state)
    for i in range(z.shape[0]):
        page_hinkley(z[i], state, least, allowance, threshold)


@kernel
def fitted(values):
    """Mean and spread; and of the deviations from a straight line, spread and neighbours' (biased)
    correlation."""
    n = values.shape[0]
    mean, square, slope, at_square = 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        mean += values[i] / n
    for i in range(n):
        at, off = i - (n - 1) / 2, values[i] - mean
        square += off * off
        slope += at * off
        at_square += at * at
    slope /= at_square
    rest, product, last = 0.0, 0.0, 0.0
    for i in range(n):
        off = values[i] - mean - slope * (i - (n - 1) / 2)
        rest += off * off
        product += off * last
        last = off
    correlation = product / rest if rest > 0.0 else 0.0
    return mean, math.sqrt(square / (n - 1)), math.sqrt(rest / max(1, n - 2)), correlation
