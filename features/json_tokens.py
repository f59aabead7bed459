"""JSON's tokens in a compiled loop: each function reads what starts at `i` of the bytes `json`, and
returns the place after it, or -1 where it leaves it to a parser that knows all of JSON.

They leave what is not plain: an escape, a letter beyond ASCII, a key that is unknown or comes
twice, a number of more digits than can be read without error.
"""

from __future__ import annotations

# mypy: disable-error-code="no-untyped-def"
import numpy as np

from model.kernel import kernel

_QUOTE, _BACKSLASH, _COMMA, COLON, _MINUS, _PLUS, _DOT = (ord(c) for c in '"\\,:-+.')
OPEN, CLOSE, _OPEN_LIST, _CLOSE_LIST, _ZERO, _NINE = (ord(c) for c in "{}[]09")
_E, _LARGE_E = ord("e"), ord("E")
_TRUE, _FALSE, NULL = (np.frombuffer(word, np.uint8) for word in (b"true", b"false", b"null"))
_TENS = 10.0 ** np.arange(23)  # each is a double without error
_EXACT = 2**53  # up to here so is each integer
_LARGEST = np.float64(np.finfo(np.float32).max)
_LESS, _MORE = 1 - 2.0**-50, 1 + 2.0**-50


@kernel
def integers(json, i, end, ints, row, column, last):
    """A list of integers, as many as there is room for into the columns; also how many it has."""
    count, i = 0, after_space(json, opened(json, i, end, _OPEN_LIST), end)
    if i >= 0 and i < end and json[i] == _CLOSE_LIST:
        return i + 1, 0
    while i >= 0:
        i, one = integer(json, i, end)
        if column + count < last:
            ints[row, column + count] = one
        count += 1
        i, more = go_on(json, i, end, _CLOSE_LIST)
        if not more:
            break
    return i, count


@kernel
def numbers(json, i, end, floats, row, column, last):
    """A list of numbers, as many as there is room for into the columns; also how many it has."""
    count, i = 0, after_space(json, opened(json, i, end, _OPEN_LIST), end)
    if i >= 0 and i < end and json[i] == _CLOSE_LIST:
        return i + 1, 0
    while i >= 0:
        i, one = number32(json, i, end)
        if column + count < last:
            floats[row, column + count] = one
        count += 1
        i, more = go_on(json, i, end, _CLOSE_LIST)
        if not more:
            break
    return i, count


@kernel
def number_or_bool(json, i, end):
    i = after_space(json, i, end)
    after = literal(json, i, end, _TRUE)
    if after >= 0:
        return after, np.float32(1.0)
    after = literal(json, i, end, _FALSE)
    if after >= 0:
        return after, np.float32(0.0)
    return number32(json, i, end)


@kernel
def number32(json, i, end):
    """A number as float32: of its double, which is known to a few units, if all of them agree."""
    i, number, exact = number64(json, i, end)
    single = np.float32(number)
    if not abs(number) < _LARGEST or not (
        exact or np.float32(number * _LESS) == single == np.float32(number * _MORE)
    ):
        return -1, single
    return i, single


@kernel
def number64(json, i, end):
    """A number as double, and whether to its last bit: one product or quotient of two doubles
    that are exact is (Clinger 1990, section 3); else it is within 2^-51 of itself."""
    i = after_space(json, i, end)
    if i < 0 or i >= end:
        return -1, 0.0, False
    negative = json[i] == _MINUS
    if negative:
        i += 1
    start, mantissa, exponent = i, 0, 0
    while i < end and _ZERO <= json[i] <= _NINE:
        mantissa = mantissa * 10 + (json[i] - _ZERO)
        i += 1
        if mantissa >= 10**17:
            return -1, 0.0, False
    if i == start or (json[start] == _ZERO and i > start + 1):
        return -1, 0.0, False
    if i < end and json[i] == _DOT:
        i += 1
        start = i
        while i < end and _ZERO <= json[i] <= _NINE:
            if mantissa >= 10**17:
                return -1, 0.0, False
            mantissa = mantissa * 10 + (json[i] - _ZERO)
            i += 1
        exponent = start - i
        if i == start:
            return -1, 0.0, False
    if i < end and (json[i] == _E or json[i] == _LARGE_E):
        i += 1
        sign = 1
        if i < end and (json[i] == _MINUS or json[i] == _PLUS):
            sign = -1 if json[i] == _MINUS else 1
            i += 1
        start, power = i, 0
        while i < end and _ZERO <= json[i] <= _NINE and i < start + 3:
            power = power * 10 + (json[i] - _ZERO)
            i += 1
        if i == start:
            return -1, 0.0, False
        exponent += sign * power
    if abs(exponent) > 22 or (negative and mantissa == 0):
        return -1, 0.0, False
    number = np.float64(mantissa)
    number = number * _TENS[exponent] if exponent >= 0 else number / _TENS[-exponent]
    return i, -number if negative else number, mantissa <= _EXACT


@kernel
def integer(json, i, end):
    """An integer from 0 to 10^18 - 1."""
    i = after_space(json, i, end)
    if i < 0:
        return -1, 0
    start, number = i, 0
    while i < end and _ZERO <= json[i] <= _NINE:
        number = number * 10 + (json[i] - _ZERO)
        i += 1
        if i > start + 18:
            return -1, 0
    if i == start or (json[start] == _ZERO and i > start + 1):
        return -1, 0
    return i, number


@kernel
def key_of(json, i, end, letters, ends, first, last, likely, seen):
    """A key of an object and its colon; also its number from `first`. One seen before is left."""
    i, name = name_of(json, i, end, letters, ends, first, last, likely)
    if name < 0 or seen >> (name - first) & 1:
        return -1, 0
    return opened(json, i, end, COLON), name - first


@kernel
def name_of(json, i, end, letters, ends, first, last, likely):
    """A string, and its place among the names from `first` to `last`, -1 where it has none;
    `likely` is tried before the others."""
    i = after_space(json, i, end)
    after = text(json, i, end)
    if after < 0:
        return -1, -1
    if first <= likely < last and matches(json, i, after, letters, ends, likely):
        return after, likely
    for name in range(first, last):
        if matches(json, i, after, letters, ends, name):
            return after, name
    return after, -1


@kernel
def matches(json, i, after, letters, ends, name):
    start = ends[name - 1] if name else 0
    if ends[name] - start != after - i - 2:
        return False
    for k in range(ends[name] - start):
        if letters[start + k] != json[i + 1 + k]:
            return False
    return True


@kernel
def text(json, i, end):
    """A string of plain ASCII, with its quotes."""
    if i < 0 or i >= end or json[i] != _QUOTE:
        return -1
    i += 1
    while i < end and json[i] != _QUOTE:
        if json[i] < 32 or json[i] > 126 or json[i] == _BACKSLASH:
            return -1
        i += 1
    return i + 1 if i < end else -1


@kernel
def literal(json, i, end, word):
    i = after_space(json, i, end)
    if i < 0 or i + len(word) > end:
        return -1
    for k in range(len(word)):
        if json[i + k] != word[k]:
            return -1
    return i + len(word)


@kernel
def opened(json, i, end, sign):
    i = after_space(json, i, end)
    return i + 1 if 0 <= i < end and json[i] == sign else -1


@kernel
def go_on(json, i, end, close):
    """After a member: a comma, and so more of them, or what closes them."""
    i = after_space(json, i, end)
    if i < 0 or i >= end or (json[i] != _COMMA and json[i] != close):
        return -1, False
    return i + 1, json[i] == _COMMA


@kernel
def after_space(json, i, end):
    while 0 <= i < end and (json[i] == 32 or json[i] == 10 or json[i] == 13 or json[i] == 9):
        i += 1
    return i
