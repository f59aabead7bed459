"""The compiled half of `scan`: JSON of the usual form, byte by byte, into columns.

A scanner takes a value or leaves it. It leaves all that is not plain: an id that is a string, an
escape, a letter beyond ASCII, a key that is unknown or comes twice, a number of more digits than
can be read without error. What it takes is what msgspec would have read, to the last bit.
"""

from __future__ import annotations

# mypy: disable-error-code="no-untyped-def"
from features.events import LATEST_TIME_MS, VERSION
from features.json_tokens import (
    CLOSE,
    COLON,
    NULL,
    OPEN,
    after_space,
    go_on,
    integer,
    integers,
    key_of,
    literal,
    name_of,
    number64,
    number_or_bool,
    numbers,
    opened,
    text,
)
from model.kernel import kernel

ID, IDS, DENSE = 0, 1, 2

FEEDBACK_NAMES = (
    "type",
    "id",
    "time_ms",
    "impression",
    "kind",
    "value",
    "user",
    "item",
    "v",
    "feedback",
)
IMPRESSION_NAMES = (
    *("type", "id", "time_ms", "fields", "features", "v", "impression"),
    *("dense", "history", "weights", "as_of", "propensity"),
)
"""What the names that a scanner gets begin with: keys, the type; then kinds, or fields."""

_FEEDBACK, _KINDS = 9, 10
_IMPRESSION, _LOGGED, _FIELDS = 6, 7, 12
_FEEDBACK_NEEDS, _IMPRESSION_NEEDS, _LOGGED_NEEDS = 0b001111111, 0b001111, 0b0001


@kernel
def scan_feedback(json, ends, most, letters, name_ends, time, id, value, ints, taken):
    """Feedback into `time`, `id`, `value` and `ints` (impression, kind or -1, user, item); `json`
    holds the values one after another, up to `ends`. `taken` says which it has taken: bool [n]."""
    start = 0
    for row in range(len(ends)):
        end = ends[row]
        if end - start <= most:
            ints[row, 3] = 0
            taken[row] = _feedback(json, start, end, letters, name_ends, row, time, id, value, ints)
            if not taken[row]:
                ints[row] = -1
        start = end


@kernel
def scan_impressions(
    json, ends, most, letters, name_ends, fields, widths, time, id, ints, floats, taken
):
    """The same of impressions; `fields` are the schema's (kind, column, size), `widths` the columns
    of ids, of dense fields, of logged features and of history."""
    start = 0
    for row in range(len(ends)):
        end = ends[row]
        if end - start <= most:
            taken[row] = _impression(
                json, start, end, letters, name_ends, fields, widths, row, time, id, ints, floats
            )
            if not taken[row]:
                ints[row] = -1
                floats[row] = 0.0
        start = end


@kernel
def _feedback(json, i, end, letters, ends, row, time, id, value, ints):
    seen, key, i = 0, -1, opened(json, i, end, OPEN)
    while i >= 0:
        i, key = key_of(json, i, end, letters, ends, 0, _FEEDBACK, key + 1, seen)
        seen |= 1 << key
        if key == 0:
            i, name = name_of(json, i, end, letters, ends, _FEEDBACK, _KINDS, _FEEDBACK)
            if name < 0:
                return False
        elif key == 1:
            i, id[row] = integer(json, i, end)
        elif key == 2:
            i, time[row] = integer(json, i, end)
        elif key == 3:
            i, ints[row, 0] = integer(json, i, end)
        elif key == 4:
            i, name = name_of(json, i, end, letters, ends, _KINDS, len(ends), _KINDS)
            ints[row, 1] = name - _KINDS if name >= 0 else -1
        elif key == 5:
            i, number, exact = number64(json, i, end)
            if not exact:
                return False
            value[row] = number
        elif key == 6:
            i, ints[row, 2] = integer(json, i, end)
        elif key == 7:
            i, ints[row, 3] = integer(json, i, end)
        elif key == 8:
            i, version = integer(json, i, end)
            if version != VERSION:
                return False
        i, more = go_on(json, i, end, CLOSE)
        if i >= 0 and not more:
            whole = seen & _FEEDBACK_NEEDS == _FEEDBACK_NEEDS
            return whole and time[row] <= LATEST_TIME_MS and after_space(json, i, end) == end
    return False


@kernel
def _impression(json, i, end, letters, ends, fields, widths, row, time, id, ints, floats):
    seen, key, i = 0, -1, opened(json, i, end, OPEN)
    while i >= 0:
        i, key = key_of(json, i, end, letters, ends, 0, _IMPRESSION, key + 1, seen)
        seen |= 1 << key
        if key == 0:
            i, name = name_of(json, i, end, letters, ends, _IMPRESSION, _LOGGED, _IMPRESSION)
            if name < 0:
                return False
        elif key == 1:
            i, id[row] = integer(json, i, end)
        elif key == 2:
            i, time[row] = integer(json, i, end)
        elif key == 3:
            i = _fields(json, i, end, letters, ends, fields, row, ints, floats)
        elif key == 4:
            null = literal(json, i, end, NULL)
            if null >= 0:
                i = null
            else:
                i = _logged(json, i, end, letters, ends, widths, row, ints, floats)
        elif key == 5:
            i, version = integer(json, i, end)
            if version != VERSION:
                return False
        i, more = go_on(json, i, end, CLOSE)
        if i >= 0 and not more:
            whole = seen & _IMPRESSION_NEEDS == _IMPRESSION_NEEDS
            return whole and time[row] <= LATEST_TIME_MS and after_space(json, i, end) == end
    return False


@kernel
def _fields(json, i, end, letters, ends, fields, row, ints, floats):
    if len(fields) > 62:  # more than `seen` has bits for
        return -1
    seen, count, name, i = 0, 0, _FIELDS - 1, opened(json, i, end, OPEN)
    while i >= 0:
        i, key = key_of(json, i, end, letters, ends, _FIELDS, len(ends), name + 1, seen)
        if i < 0:
            return -1
        name = _FIELDS + key
        seen |= 1 << key
        count += 1
        kind, column, size = fields[key, 0], fields[key, 1], fields[key, 2]
        if kind == ID:
            i, ints[row, column] = integer(json, i, end)
        elif kind == IDS:
            i, _ = integers(json, i, end, ints, row, column, column + size)
        else:
            i, floats[row, column] = number_or_bool(json, i, end)
        i, more = go_on(json, i, end, CLOSE)
        if i >= 0 and not more:
            return i if count == len(fields) else -1
    return -1


@kernel
def _logged(json, i, end, letters, ends, widths, row, ints, floats):
    """What an impression was scored with: its own features, its history and the weights of it."""
    slots, raw, features, history = widths
    start = raw + 1
    seen, name, known, weighted, i = 0, _LOGGED - 1, 0, 0, opened(json, i, end, OPEN)
    while i >= 0:
        i, key = key_of(json, i, end, letters, ends, _LOGGED, _FIELDS, name + 1, seen)
        if i < 0:
            return -1
        name = _LOGGED + key
        seen |= 1 << key
        if key == 0:
            i, count = numbers(json, i, end, floats, row, start, start + features)
            if count != features:
                return -1
        elif key == 1:
            i, known = integers(json, i, end, ints, row, slots, slots + history)
        elif key == 2:
            first = start + features
            i, weighted = numbers(json, i, end, floats, row, first, first + history)
        elif key == 3:
            i = _as_of(json, i, end, ints)
        else:
            i, chance, _ = number64(json, i, end)
            if not 0.0 < chance <= 1.0:
                return -1
        i, more = go_on(json, i, end, CLOSE)
        if i >= 0 and not more:
            if known != weighted or known > history or seen & _LOGGED_NEEDS != _LOGGED_NEEDS:
                return -1
            floats[row, raw] = 1.0
            return i
    return -1


@kernel
def _as_of(json, i, end, ints):
    """Objects of objects of lists of offsets: read over, as nothing is learned from them."""
    depth, i = 1, after_space(json, opened(json, i, end, OPEN), end)
    if i >= 0 and i < end and json[i] == CLOSE:
        return i + 1
    while i >= 0:
        i = opened(json, text(json, after_space(json, i, end), end), end, COLON)
        if depth == 1:
            i, depth = opened(json, i, end, OPEN), 2
            continue
        i, _ = integers(json, i, end, ints, 0, 0, 0)
        i, more = go_on(json, i, end, CLOSE)
        while i >= 0 and not more:
            depth -= 1
            if depth == 0:
                return i
            i, more = go_on(json, i, end, CLOSE)
    return -1
