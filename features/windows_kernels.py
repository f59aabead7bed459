"""The compiled loops of `windows`: each takes ordered events, reads for impressions, then updates.

`math.exp` and `math.log1p` only: NumPy's differ from them in last bits.
"""

from __future__ import annotations

# mypy: disable-error-code="no-untyped-def"
import math

from features.events import FEEDBACK_RANK, IMPRESSION
from model.idmap import find, put
from model.kernel import kernel

FIXED_POINT = 4_096
"""Values are summed as integers of 1/4,096."""
BUCKETS = 8
"""Buckets kept for each decay; one is half its time constant wide, so they reach four of them."""
SMOOTHING = 10.0
"""Events' worth of the overall rate in each rate: the strength of the prior."""
NEVER_SECONDS = 15.0
"""log(seconds) since an entity that was never shown was last shown: 38 days."""

LARGEST_WEIGHT = 8.0
"""How far from 0 an item of the history may weigh, so that no one value rules a model."""


@kernel
def overall(rank, e, id, kind, fixed, learn, signal_kind, signal_per, counts, sums, prior):
    """The overall rate of each signal at each impression, into `prior` [impression, signal]."""
    shown = 0
    for i in range(rank.shape[0]):
        if rank[i] != IMPRESSION and rank[i] != FEEDBACK_RANK:
            continue
        if rank[i] == IMPRESSION:
            for j in range(signal_kind.shape[0]):
                n = counts[signal_per[j]]
                if n > 0:
                    prior[shown, j] = sums[signal_kind[j]] / FIXED_POINT / n
            shown += 1
        if learn:
            counts[kind[i]] += 1
            sums[kind[i]] += fixed[i]


@kernel
def aggregate(
    rank, e, id, kind, fixed, key, learn, signal_kind, signal_per, prior,
    decays, with_rates, with_last, map_keys, map_values, arrays, out, column,
):  # fmt: skip
    """One entity's features into `out` from `column` on, and its state. Returns the next column."""
    (
        used,
        keys,
        changed,
        last_shown,
        counts,
        sums,
        last_time,
        last_id,
        last_value,
        bucket,
        bucket_counts,
        bucket_sums,
    ) = arrays
    kinds, signals, spans = last_time.shape[1], signal_kind.shape[0], decays.shape[0]
    shown, end = 0, column
    for i in range(rank.shape[0]):
        if rank[i] != IMPRESSION and rank[i] != FEEDBACK_RANK:
            continue
        row = find(map_keys, map_values, key[i])
        if rank[i] == IMPRESSION:
            c = column
            seen = counts[row, kinds] if row >= 0 else 0
            out[shown, c] = math.log1p(seen)
            out[shown, c + 1] = NEVER_SECONDS
            if seen > 0:
                out[shown, c + 1] = math.log1p(max(e[i] - last_shown[row], 0) / 1000.0)
            c += 2
            if with_rates:
                for j in range(signals):
                    out[shown, c + j] = _rate(
                        row, counts, sums, signal_kind[j], signal_per[j], prior[shown, j]
                    )
                c += signals
            for s in range(spans):
                width = max(decays[s] // 2, 1)
                now = e[i] // width
                n = 0.0
                if row >= 0:
                    for b in range(BUCKETS):
                        n += bucket_counts[row, s, b, kinds] * _decay(
                            bucket[row, s, b], now, e[i], width, decays[s]
                        )
                out[shown, c] = math.log1p(n)
                c += 1
                for j in range(signals):
                    below, above = SMOOTHING, 0.0
                    if row >= 0:
                        for b in range(BUCKETS):
                            w = _decay(bucket[row, s, b], now, e[i], width, decays[s])
                            below += w * bucket_counts[row, s, b, signal_per[j]]
                            above += w * (bucket_sums[row, s, b, signal_kind[j]] / FIXED_POINT)
                    rate = _rate(row, counts, sums, signal_kind[j], signal_per[j], prior[shown, j])
                    out[shown, c] = (above + SMOOTHING * rate) / below
                    c += 1
            if with_last:
                for j in range(signals):
                    k = signal_kind[j]
                    if row >= 0 and counts[row, k] > 0:
                        out[shown, c + j] = last_value[row, k] / FIXED_POINT
                    else:
                        out[shown, c + j] = prior[shown, j]
                c += signals
            shown += 1
            end = c
        if not learn:
            continue
        if row < 0:
            row = used[0]
            used[0] += 1
            put(map_keys, map_values, key[i], row)
            keys[row] = key[i]
        changed[row] = True
        k = kind[i]
        if rank[i] == IMPRESSION:
            last_shown[row] = max(last_shown[row], e[i])
        elif counts[row, k] == 0 or (e[i], id[i]) >= (last_time[row, k], last_id[row, k]):
            last_time[row, k] = e[i]
            last_id[row, k] = id[i]
            last_value[row, k] = fixed[i]
        counts[row, k] += 1
        sums[row, k] += fixed[i]
        for s in range(spans):
            width = max(decays[s] // 2, 1)
            index = e[i] // width + 1  # 0 marks an empty bucket
            b = index % BUCKETS
            if bucket[row, s, b] > index:
                continue
            if bucket[row, s, b] < index:
                bucket[row, s, b] = index
                for x in range(kinds + 1):
                    bucket_counts[row, s, b, x] = 0
                    bucket_sums[row, s, b, x] = 0
            bucket_counts[row, s, b, k] += 1
            bucket_sums[row, s, b, k] += fixed[i]
    return end


@kernel
def _rate(row, counts, sums, kind, per, prior):
    if row < 0:
        return prior
    return (sums[row, kind] / FIXED_POINT + SMOOTHING * prior) / (counts[row, per] + SMOOTHING)


@kernel
def _decay(index, now, e, width, tau):
    """The weight of a bucket, from its middle; 0 for one that is empty, too old or yet to come."""
    if index == 0 or index - 1 > now or index - 1 <= now - BUCKETS:
        return 0.0
    age = max(e - ((index - 1) * width + width // 2), 0)
    return math.exp(-age / tau)


@kernel
def remember(
    rank, e, id, kind, fixed, user, item, learn, wanted, prior,
    map_keys, map_values, arrays, items, weights,
):  # fmt: skip
    """Each impression's history: item ids (-1 where none) and weights, and the histories' state."""
    (used, keys, changed, time, event, item_of, value, length) = arrays
    keep = time.shape[1]
    shown = 0
    for i in range(rank.shape[0]):
        if rank[i] == IMPRESSION:
            row = find(map_keys, map_values, user[i])
            if row >= 0:
                n = length[row]
                for x in range(n):
                    items[shown, x] = item_of[row, x]
                    weights[shown, x] = (value[row, x] / FIXED_POINT - prior[shown]) / n
            shown += 1
        elif learn and rank[i] == FEEDBACK_RANK and kind[i] == wanted:
            row = find(map_keys, map_values, user[i])
            if row < 0:
                row = used[0]
                used[0] += 1
                put(map_keys, map_values, user[i], row)
                keys[row] = user[i]
            at = 0
            while at < length[row] and (time[row, at], event[row, at]) > (e[i], id[i]):
                at += 1
            changed[row] = True
            if at == keep:
                continue
            for x in range(min(length[row], keep - 1), at, -1):
                time[row, x] = time[row, x - 1]
                event[row, x] = event[row, x - 1]
                item_of[row, x] = item_of[row, x - 1]
                value[row, x] = value[row, x - 1]
            time[row, at] = e[i]
            event[row, at] = id[i]
            item_of[row, at] = item[i]
            value[row, at] = fixed[i]
            length[row] = min(length[row] + 1, keep)
