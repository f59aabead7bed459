"""Ids on the wire, and their keys."""

from __future__ import annotations

import pytest

from features.codec import Codec
from features.events import IMPRESSIONS, MAX_ID, key, keys
from model.schema import Field, Schema, Task


def test_an_integer_is_its_own_key_and_a_string_is_hashed():
    assert key(0) == 0 and key(MAX_ID) == MAX_ID
    assert key("a") == 0xE6C632B61E964E1F % 2**63  # XXH3-64 of "a", from its reference vectors
    assert 0 <= key("user 1") <= MAX_ID


@pytest.mark.parametrize("ids", [["7"], ["7", "8"], ["7", "x"], [7, "7"], [7, 8], []])
def test_a_key_does_not_depend_on_what_stands_beside_it(ids):
    """Not even where every string of a chunk looks like a number."""
    assert keys(ids).tolist() == [key(i) for i in ids]


def test_any_name_may_be_a_field_and_numpy_scalars_its_values():
    import numpy as np

    fields = (
        *(Field(n, "id") for n in ("user", "class", "self", "id", "time_ms")),
        Field("from", "dense"),
    )
    codec = Codec(Schema(fields, (Task("t", "binary", 5),), user="user"))
    values = {
        "user": "u",
        "class": np.int64(3),
        "self": 4,
        "id": 5,
        "time_ms": 6,
        "from": np.float32(0.5),
    }
    record = codec.encode(codec.impression("e", 10, values))
    events, bad = codec.decode(IMPRESSIONS, 0, [0], [10], [record])
    assert not bad
    assert events.ints[0, :5].tolist() == [key("u"), 3, 4, 5, 6] and events.floats[0, 0] == 0.5
    with pytest.raises(ValueError, match="field 'clas': did you mean 'class'"):
        codec.impression("e", 10, {**values, "clas": 1})
    with pytest.raises(ValueError, match="field 'user' is missing"):
        codec.impression("e", 10, {})
