"""Named arrays as bytes: the safetensors format, canonical, without copies.

The `safetensors` package copies every array twice on the way out and once on the way in, and
leaves the order of several metadata entries to chance. Here the bytes are a function of the
content, writing streams from the arrays' own memory, and reading returns views. The tests hold
both directions against the package. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

Buffer = bytes | bytearray | memoryview

MAX_HEADER_BYTES = 16 << 20
_MAX_DIMENSIONS = 32
_METADATA = "__metadata__"

# In the order of the Rust enum, which is the order of the data, backwards.
_DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}
_RANK = {name: rank for rank, name in enumerate(_DTYPES)}
_CODES = {dtype: name for name, dtype in _DTYPES.items()}


def code_of(name: str, array: np.ndarray) -> str:
    """The format's name of an array's dtype; ValueError names the array where there is none."""
    code = _CODES.get(array.dtype)
    if code is None:
        raise ValueError(
            f"array {name!r} has dtype {array.dtype}: expected bool, (u)int8 to 64, "
            "or float16 to 64, little-endian"
        )
    return code


def pack(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Iterator[Buffer]:
    """The file in pieces: the header, then each array's memory. Join them, or write and hash them.

    The same arrays and metadata give the same bytes, whatever the order of the mappings.
    Raises ValueError for a dtype the format lacks and for the reserved name `__metadata__`.
    """
    ranked = []
    for name, array in arrays.items():
        if name == _METADATA:
            raise ValueError(f"array is named {_METADATA!r}: the format reserves that name")
        ranked.append((-_RANK[code_of(name, array)], name))
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    start = 0
    for _, name in sorted(ranked):
        array = arrays[name]
        end = start + array.nbytes
        header[name] = {
            "dtype": _CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"header has {len(text)} bytes: expected at most {MAX_HEADER_BYTES}")
    yield len(text).to_bytes(8, "little") + text
    for _, name in sorted(ranked):
        yield np.asarray(arrays[name], order="C").reshape(-1).view(np.uint8).data


def unpack(buffer: Buffer) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays, as views of `buffer` (read-only if it is), and the metadata.

    Nothing is allocated beyond the header, whatever the bytes claim. Raises ValueError on
    anything that is not one whole file of this format.
    """
    whole = memoryview(buffer).cast("B")
    if len(whole) < 8:
        raise ValueError(f"not safetensors: {len(whole)} bytes, expected at least 8")
    size = int.from_bytes(whole[:8], "little")
    if size > min(MAX_HEADER_BYTES, len(whole) - 8):
        raise ValueError(f"not safetensors: a header of {size} bytes in {len(whole)}")
    try:
        header = json.loads(bytes(whole[8 : 8 + size]), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not safetensors: header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise ValueError("not safetensors: header is not a JSON object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("not safetensors: metadata is not a JSON object of strings")
    data = whole[8 + size :]
    arrays: dict[str, np.ndarray] = {}
    spans = []
    for name, entry in header.items():
        arrays[name], span = _view(name, entry, data)
        spans.append(span)
    spans = [(0, 0), *sorted(spans), (len(data), len(data))]
    for (_, end), (start, _) in pairwise(spans):
        if start != end:
            raise ValueError(f"not safetensors: a gap or an overlap in the data at byte {end}")
    return arrays, metadata


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name comes twice")
    return entries


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _view(name: str, entry: Any, data: memoryview) -> tuple[np.ndarray, tuple[int, int]]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"array {name!r}: expected dtype, shape and data_offsets")
    code, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = _DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise ValueError(f"array {name!r}: dtype is {code!r}: expected one of {', '.join(_DTYPES)}")
    if not _whole_numbers(shape) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"array {name!r}: shape is not a list of at most 32 whole numbers")
    if not _whole_numbers(span) or len(span) != 2 or not span[0] <= span[1] <= len(data):
        raise ValueError(f"array {name!r}: data_offsets are not a span of {len(data)} bytes")
    start, end = span
    count = math.prod(shape)
    if count * dtype.itemsize != end - start:
        raise ValueError(f"array {name!r}: {end - start} bytes for shape {shape} of {code}")
    try:
        array = (
            np.empty(shape, dtype)
            if not count
            else np.frombuffer(data, dtype, count, start).reshape(shape)
        )
    except (ValueError, OverflowError):
        raise ValueError(f"array {name!r}: shape is too large") from None
    if code == "BOOL" and count and array.view(np.uint8).max() > 1:
        raise ValueError(f"array {name!r}: a BOOL that is neither 0 nor 1")
    return array if array.flags.aligned else array.copy(), (start, end)
