"""What one published version is made of: chunks of at most 1 MiB, with the SHA-256 of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

CHUNK_BYTES = 1 << 20
_MOST = 1 << 53  # Lua's numbers are doubles


class RegistryError(RuntimeError):
    """What a registry refuses or cannot do."""


class CorruptSnapshot(RegistryError):
    """A chunk or the whole is missing or is not what the manifest says."""


@dataclass(frozen=True)
class Manifest:
    """What one version is made of. `chunks` are SHA-256 in hex, `size` is in bytes; `kind` is
    `full` and `base` None until there are deltas; `epoch` is the last that published it."""

    version: int
    epoch: int
    size: int
    sha256: str
    chunks: tuple[str, ...]
    meta: Mapping[str, Any]
    kind: str = "full"
    base: int | None = None

    @property
    def order(self) -> tuple[int, int]:
        """(epoch, version)."""
        return self.epoch, self.version

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Raises CorruptSnapshot where `text` is not a manifest."""
        try:
            values = json.loads(text)
            manifest = cls(**{**values, "chunks": tuple(values["chunks"])})
            whole = all(type(n) is int and n >= 0 for n in (*manifest.order, manifest.size))
            full = manifest.kind == "full" and manifest.base is None
            count = -(-manifest.size // CHUNK_BYTES)
            if not whole or not full or len(manifest.chunks) != count or not count:
                raise ValueError("numbers, kind or count of chunks")
            if not all(isinstance(digest, str) for digest in (manifest.sha256, *manifest.chunks)):
                raise ValueError("digests")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CorruptSnapshot(f"not a manifest of a full version: {error}") from None
        return manifest


def split(data: bytes) -> Iterator[memoryview]:
    """The chunks of a version, in order."""
    whole = memoryview(data)
    return (whole[start : start + CHUNK_BYTES] for start in range(0, len(whole), CHUNK_BYTES))


def describe(data: bytes, version: int, epoch: int, meta: Mapping[str, Any]) -> Manifest:
    """The manifest of a full version. Raises ValueError naming the argument that is wrong."""
    for name, value in (("version", version), ("epoch", epoch)):
        if type(value) is not int or not 0 <= value < _MOST:
            raise ValueError(f"publish {name} is {value!r}: expected an integer from 0 to 2**53")
    if not data:
        raise ValueError("publish data is empty: expected the bytes of a snapshot")
    chunks = tuple(hashlib.sha256(chunk).hexdigest() for chunk in split(data))
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        meta = json.loads(json.dumps(dict(meta), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"publish meta is not a JSON object: {error}") from None
    return Manifest(version, epoch, len(data), sha256, chunks, meta)


def assemble(manifest: Manifest, chunks: Iterable[bytes | None]) -> bytes:
    """The bytes of a version from its chunks in order. CorruptSnapshot names the one at fault."""
    whole, parts = hashlib.sha256(), []
    total = len(manifest.chunks)
    for number, (expected, chunk) in enumerate(zip(manifest.chunks, chunks, strict=True)):
        where = f"version {manifest.version}, chunk {number} of {total}"
        if chunk is None:
            raise CorruptSnapshot(f"{where}: missing")
        if hashlib.sha256(chunk).hexdigest() != expected:
            raise CorruptSnapshot(f"{where}: its SHA-256 is not the manifest's")
        whole.update(chunk)
        parts.append(chunk)
    if whole.hexdigest() != manifest.sha256 or sum(map(len, parts)) != manifest.size:
        raise CorruptSnapshot(f"version {manifest.version}: the whole is not the manifest's")
    return b"".join(parts)
