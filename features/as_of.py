"""How much of its source a stored row covers: of each (topic, partition) the next offset.

Packed as MessagePack, topic -> next offset by partition, so that any reader can open it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

Offsets = Mapping[tuple[str, int], int]
"""(topic, partition) -> the offset of the first event not covered; 0 where none is."""

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(dict[str, list[int]]).decode


def pack_as_of(offsets: Offsets) -> bytes:
    """The same bytes for the same offsets, whatever their order; zeros at the end are left out."""
    tree: dict[str, list[int]] = {}
    for (topic, partition), offset in sorted(offsets.items()):
        if offset > 0:
            row = tree.setdefault(topic, [])
            row += [0] * (partition + 1 - len(row))
            row[partition] = offset
    return _encode(tree)


def unpack_as_of(packed: bytes) -> dict[tuple[str, int], int]:
    """What `pack_as_of` took, without the zeros. Raises ValueError for other bytes."""
    return offsets_of(as_tree(packed))


def as_tree(packed: bytes) -> dict[str, list[int]]:
    """Topic -> next offset by partition. Raises ValueError for bytes that are no packed offsets."""
    try:
        return _decode(packed)
    except msgspec.MsgspecError as error:
        raise ValueError(f"as_of is {packed[:40]!r}: expected packed offsets ({error})") from None


def offsets_of(tree: Mapping[str, list[int]]) -> dict[tuple[str, int], int]:
    """A tree's offsets, without the zeros."""
    return {
        (topic, partition): offset
        for topic, row in tree.items()
        for partition, offset in enumerate(row)
        if offset > 0
    }


def union(one: bytes, other: bytes) -> bytes:
    """What both together cover. A writer that loads a row and goes on covers both."""
    if one == other:
        return one
    a, b = unpack_as_of(one), unpack_as_of(other)
    return pack_as_of({tp: max(a.get(tp, 0), b.get(tp, 0)) for tp in {**a, **b}})


def advances(new: bytes, old: bytes) -> bool:
    """Whether `new` covers all that `old` does and more; False where it covers no more.

    Raises ValueError where each covers something that the other does not: the row has two writers,
    or its writer did not take the `union` with what it had loaded.
    """
    if new == old:
        return False
    a, b = unpack_as_of(new), unpack_as_of(old)
    more = [tp for tp in a if a[tp] > b.get(tp, 0)]
    less = [tp for tp in b if b[tp] > a.get(tp, 0)]
    if more and less:
        raise ValueError(
            f"as_of is {_shown(a)}, the stored row's {_shown(b)}, and neither covers the other: "
            "expected one writer for each row, that takes the union with what it has loaded"
        )
    return bool(more)


def _shown(offsets: Offsets) -> str:
    return ", ".join(f"{topic}/{partition}@{at}" for (topic, partition), at in offsets.items())
