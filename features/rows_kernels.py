"""Compiled loops of `rows`: integers to bytes and back.

A row is its header (8 bytes), one bit for each integer that is not 0, from the lowest of each byte
up, and those integers: zigzag (0, -1, 1, -2 ... as 0, 1, 2, 3 ...), seven bits a byte, the lowest
first, the high bit set where more follow (LEB128). Most of a row is zeros, so it is a tenth of the
plain integers.
"""

from __future__ import annotations

# mypy: disable-error-code="no-untyped-def"
import numpy as np
from numba import njit

from model.kernel import kernel

HEADER_BYTES = 8
_SEVEN, _LOW, _MORE = np.uint64(7), np.uint64(0x7F), np.uint64(0x80)
_ONE, _ZERO, _S63 = np.uint64(1), np.uint64(0), np.uint64(63)


@njit(cache=True)
def pack(header, values, out):
    """Packs `values` (int64 [n, width]) into `out`, which has room. Returns each row's end [n]."""
    n, width = values.shape
    ends = np.zeros(n, np.int64)
    at = 0
    for i in range(n):
        for x in range(HEADER_BYTES):
            out[at + x] = header[x]
        bits = at + HEADER_BYTES
        at = bits + (width + 7) // 8
        for x in range(bits, at):
            out[x] = 0
        for c in range(width):
            value = values[i, c]
            if value == 0:
                continue
            out[bits + c // 8] |= np.uint8(1 << (c % 8))
            left = (np.uint64(value) << _ONE) ^ np.uint64(value >> 63)
            while left >= _MORE:
                out[at] = np.uint8((left & _LOW) | _MORE)
                left >>= _SEVEN
                at += 1
            out[at] = np.uint8(left)
            at += 1
        ends[i] = at
    return ends


@kernel
def unpack(header, packed, ends, out):
    """Opens rows that lie end to end into `out` (int64 [n, width], zeros).

    Returns the first row that is none of this header and width, or -1.
    """
    n, width = out.shape
    at = 0
    for i in range(n):
        end = ends[i]
        bits = at + HEADER_BYTES
        body = bits + (width + 7) // 8
        if end < body:
            return i
        for x in range(HEADER_BYTES):
            if packed[at + x] != header[x]:
                return i
        at = body
        for c in range(width):
            if not packed[bits + c // 8] & (1 << (c % 8)):
                continue
            value, shift = _ZERO, _ZERO
            while True:
                if at >= end or shift > _S63:
                    return i
                byte = np.uint64(packed[at])
                at += 1
                value |= (byte & _LOW) << shift
                shift += _SEVEN
                if byte < _MORE:
                    break
            out[i, c] = np.int64(value >> _ONE) ^ -np.int64(value & _ONE)
        if at != end:
            return i
    return -1
