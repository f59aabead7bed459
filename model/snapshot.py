"""A snapshot: a numbered version of all that a server needs to score. Bytes out, bytes in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.arrays import Buffer, pack, unpack

_KEY = "freshet"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """`version` is the number of the training step; `arrays` the dense weights and embedding rows
    by name; `meta` the rest (schema, layout, ...): a JSON object."""

    version: int
    arrays: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]


def encode(snapshot: Snapshot) -> bytes:
    """The snapshot as safetensors. The same content gives the same bytes.

    Version and meta are canonical JSON in the header's one metadata entry. Raises ValueError
    where meta is not JSON (NaN is not) or an array's dtype is not one of the format's.
    """
    if type(snapshot.version) is not int or snapshot.version < 0:
        raise ValueError(f"Snapshot.version is {snapshot.version!r}: expected an integer >= 0")
    return b"".join(pack(snapshot.arrays, {_KEY: _canonical(snapshot)}))


def decode(data: Buffer) -> Snapshot:
    """The snapshot in `data`; its arrays are views of `data`, read-only where that is bytes.

    Raises ValueError for anything that `encode` does not write. Names, shapes and dtypes are the
    consumer's to check.
    """
    arrays, metadata = unpack(data)
    if set(metadata) != {_KEY}:
        raise ValueError(f"not a snapshot: metadata has {sorted(metadata)}, expected [{_KEY!r}]")
    try:
        content = json.loads(metadata[_KEY])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a snapshot: metadata is not JSON: {error}") from None
    if not isinstance(content, dict) or set(content) != {"meta", "version"}:
        raise ValueError("not a snapshot: expected meta and version in the metadata")
    version, meta = content["version"], content["meta"]
    if type(version) is not int or version < 0:
        raise ValueError(f"not a snapshot: version is {version!r}: expected an integer >= 0")
    if not isinstance(meta, dict):
        raise ValueError("not a snapshot: meta is not a JSON object")
    return Snapshot(version, arrays, meta)


def _canonical(snapshot: Snapshot) -> str:
    content = {"meta": dict(snapshot.meta), "version": snapshot.version}
    try:
        return json.dumps(
            content, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"Snapshot.meta is not JSON: {error}") from None
