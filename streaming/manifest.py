"""What one published version is made of: chunks of at most 1 MiB, with the SHA-256 of each.

A version is one model, whatever bytes tell it: `content` says which. A full version's bytes are all
of it; a delta's are what changed since its `base`, a version of the content `base_content`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

CHUNK_BYTES = 1 << 20
_MOST = 1 << 53  # Lua's numbers are doubles
FULL, DELTA = "full", "delta"


class RegistryError(RuntimeError):
    """What a registry refuses or cannot do."""


class CorruptSnapshot(RegistryError):
    """A chunk or the whole is missing or is not what the manifest says."""


class Base(NamedTuple):
    """The version that a delta builds on, and its content."""

    version: int
    content: str


@dataclass(frozen=True)
class Manifest:
    """What one version is made of. `chunks` are SHA-256 in hex, `size` is in bytes; `content` is
    the model's, and where nobody said otherwise the bytes' SHA-256; `epoch` is the last that
    published it; `meta` is its card."""

    version: int
    epoch: int
    size: int
    sha256: str
    chunks: tuple[str, ...]
    meta: Mapping[str, Any]
    kind: str = FULL
    base: int | None = None
    base_content: str | None = None
    content: str = ""

    def __post_init__(self) -> None:
        if not self.content:
            object.__setattr__(self, "content", self.sha256)

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
            count = -(-manifest.size // CHUNK_BYTES)
            if not whole or not _based(manifest) or len(manifest.chunks) != count or not count:
                raise ValueError("numbers, kind or count of chunks")
            digests = (manifest.sha256, manifest.content, *manifest.chunks)
            if not all(isinstance(digest, str) for digest in digests):
                raise ValueError("digests")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CorruptSnapshot(f"not a manifest: {error}") from None
        return manifest


def _based(manifest: Manifest) -> bool:
    """Whether kind and base fit together."""
    if manifest.kind == FULL:
        return manifest.base is None and manifest.base_content is None
    base = manifest.base
    below = type(base) is int and 0 <= base < manifest.version
    return manifest.kind == DELTA and below and isinstance(manifest.base_content, str)


def split(data: bytes) -> Iterator[memoryview]:
    """The chunks of a version, in order."""
    whole = memoryview(data)
    return (whole[start : start + CHUNK_BYTES] for start in range(0, len(whole), CHUNK_BYTES))


def describe(
    data: bytes,
    version: int,
    epoch: int,
    meta: Mapping[str, Any],
    base: Base | None = None,
    content: str = "",
) -> Manifest:
    """The manifest of a version: full, or with a `base` a delta. Raises ValueError naming the
    argument that is wrong."""
    for name, value in (("version", version), ("epoch", epoch)):
        if type(value) is not int or not 0 <= value < _MOST:
            raise ValueError(f"publish {name} is {value!r}: expected an integer from 0 to 2**53")
    if not data:
        raise ValueError("publish data is empty: expected the bytes of a snapshot")
    if base is not None and not (0 <= base.version < version and content):
        raise ValueError(
            f"publish base is {base.version}, of version {version} with content {content!r}: "
            "expected a lower version, and a content"
        )
    chunks = tuple(hashlib.sha256(chunk).hexdigest() for chunk in split(data))
    sha256 = chunks[0] if len(chunks) == 1 else hashlib.sha256(data).hexdigest()
    try:
        meta = json.loads(json.dumps(dict(meta), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"publish meta is not a JSON object: {error}") from None
    kind, below, its = (FULL, None, None) if base is None else (DELTA, *base)
    return Manifest(version, epoch, len(data), sha256, chunks, meta, kind, below, its, content)


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
